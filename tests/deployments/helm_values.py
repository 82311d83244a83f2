"""What Dagster's chart gets from us, and what it makes of it, without the chart: it is in no package registry.

Its templates copy sections of the values into dagster.yaml under snake_case names.
"""

import os
import re
import subprocess
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from tests.deployments.conftest import DEPLOYMENTS, tool

INSTALL = DEPLOYMENTS / "helm" / "install"

Values = dict[str, Any]


def sent_to_helm(*words: str) -> list[str]:
    """What install gives to helm, as a program named helm sees it."""
    with TemporaryDirectory() as folder:
        helm = Path(folder, "helm")
        helm.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        helm.chmod(0o755)
        environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
        done = subprocess.run([INSTALL, *words], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.splitlines()


def merged_values(*more: str) -> Values:
    """The values as helm itself merges them, with more options for install."""
    return deepcopy(_merged(more))


@cache
def _merged(more: tuple[str, ...]) -> Values:
    words = sent_to_helm("registry.example.com", "0.1.0-abcdef0", "a-bucket", *more)
    options = [word for word in words[words.index("--values") :] if word not in ("--wait", "--timeout", "10m")]
    with TemporaryDirectory() as folder:  # a chart that prints its values and does nothing else
        chart = Path(folder, "dagster")
        (chart / "templates").mkdir(parents=True)
        (chart / "Chart.yaml").write_text("apiVersion: v2\nname: dagster\nversion: 1.13.27\n")
        (chart / "templates" / "values.yaml").write_text("values:\n{{ .Values | toYaml | indent 2 }}\n")
        words = [tool("helm"), "template", "dagster", str(chart), *options]
        done = subprocess.run(words, cwd=INSTALL.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(yaml.safe_load(done.stdout)["values"])


def snake(value: Any) -> Any:
    """The value with the chart's names turned into Dagster's."""
    return {_snake_key(key): snake(item) for key, item in value.items()} if isinstance(value, dict) else value


def run_launcher(values: Values) -> dict[str, Any]:
    """run_launcher.config of dagster.yaml; what Kubernetes names in camelCase stays so."""
    launcher = dict(values["runLauncher"]["config"]["k8sRunLauncher"])
    run = {_snake_key(key): item for key, item in launcher.pop("runK8sConfig").items()}
    volumes = {name: launcher.pop(name) for name in ("volumes",) if name in launcher}
    return {
        **snake(launcher),
        **volumes,
        "run_k8s_config": run,
        "service_account_name": values["global"]["serviceAccountName"],
        "dagster_home": values["global"]["dagsterHome"],
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": values["global"]["postgresqlSecretName"],
    }


def _snake_key(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
