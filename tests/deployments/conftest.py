"""What the deployment tests share: where things are, the tools, and the manifests as kustomize renders them.

On another system than Linux on x86-64, `make tools` brings no kubectl and helm: without them the tests that need one
are skipped, except in CI.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = ROOT / "deployments"
OVERLAYS = ("minimal", "eks", "hyperpod")

Objects = list[dict[str, Any]]


def tool(name: str) -> str:
    """The program, from this Python's environment or the PATH."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        message = f"{name} is not installed: run `make tools`"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def kustomize(folder: Path) -> Objects:
    """The objects of a folder."""
    return list(yaml.safe_load_all(_kustomize(folder)))


@cache
def _kustomize(folder: Path) -> str:
    done = subprocess.run([tool("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def render() -> Callable[[str], Objects]:
    """The objects of an overlay."""
    return lambda overlay: kustomize(DEPLOYMENTS / "kubernetes" / "overlays" / overlay)


def find(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    """The one object of that kind and name."""
    found = [item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{len(found)} objects {kind}/{name}"
    return found[0]


def of_kind(objects: Objects, kind: str) -> Objects:
    """All objects of a kind."""
    return [item for item in objects if item["kind"] == kind]


def breaks_restricted(pod: dict[str, Any]) -> list[str]:
    """What of a pod's spec the Pod Security standard `restricted` refuses."""
    problems = [f"volume {v['name']}" for v in pod.get("volumes", []) if "hostPath" in v]
    security = pod.get("securityContext", {})
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        own = container.get("securityContext", {})
        wrong = {
            "root": not own.get("runAsNonRoot", security.get("runAsNonRoot")),
            "user 0": own.get("runAsUser", security.get("runAsUser")) == 0,
            "seccomp": own.get("seccompProfile", security.get("seccompProfile")) != {"type": "RuntimeDefault"},
            "escalation": own.get("allowPrivilegeEscalation") is not False,
            "capabilities": own.get("capabilities") != {"drop": ["ALL"]},
            "privileged": bool(own.get("privileged")),
        }
        problems += [f"{container['name']}: {problem}" for problem, is_there in wrong.items() if is_there]
    return problems
