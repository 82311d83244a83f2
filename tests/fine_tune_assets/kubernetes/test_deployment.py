"""Settings that cannot work in pods are one clear error, as early as they are known."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import instance_for_test

from fine_tune_assets.definitions import build_definitions
from fine_tune_assets.kubernetes.deployment import check_instance, check_settings, check_store
from fine_tune_assets.kubernetes.executor.definition import pod_executor
from fine_tune_assets.kubernetes.pods.settings import Pods
from fine_tune_assets.settings import Settings, read_settings
from neuron_ops.errors import InvalidInput
from tests.test_house import HEAVY

WITH_FSX = Pods.model_validate({"default": {"volumes": [{"claim": "fsx", "mount": "/fsx"}]}})
LAUNCHER = {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": {}}
POSTGRES = {"postgres": {"postgres_url": "postgresql://db"}}


def _settings(store: str = "s3://bucket/store", home: Path | None = None) -> Settings:
    return Settings("tiny_llama_cpu", store, f"{store}/raw", str(home) if home else None, "kubernetes")


@pytest.mark.parametrize("store", ["s3://bucket/store", "/fsx/store", "/fsx"])
def test_a_store_that_every_pod_sees_is_accepted(store: str) -> None:
    check_store(store, WITH_FSX)


@pytest.mark.parametrize("store", ["/home/me/artifacts", "artifacts", "/fsxx/store"])
def test_a_folder_of_one_pod_is_no_store(store: str) -> None:
    with pytest.raises(InvalidInput, match=rf"The store '{store}' is a folder of one pod.* \(/fsx\)"):
        check_store(store, WITH_FSX)


def test_a_good_dagster_yaml_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"run_launcher": LAUNCHER, "storage": POSTGRES}))

    check_settings(_settings(home=tmp_path), Pods())


def test_a_launcher_of_the_teams_own_is_looked_at_when_a_run_starts(tmp_path: Path) -> None:
    own = {"module": "our.launcher", "class": "OurLauncher"}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"run_launcher": own, "storage": POSTGRES}))

    check_settings(_settings(home=tmp_path), Pods())


def test_without_a_dagster_yaml_the_instance_is_looked_at_when_a_run_starts(tmp_path: Path) -> None:
    check_settings(_settings(home=tmp_path), Pods())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "launches runs with DefaultRunLauncher. Set run_launcher"),
        (
            yaml.safe_dump({"run_launcher": {"module": "dagster_docker", "class": "DockerRunLauncher"}}),
            "launches runs with DockerRunLauncher",
        ),
        (yaml.safe_dump({"run_launcher": LAUNCHER}), "keeps its events in SQLite, which other pods cannot reach"),
        (yaml.safe_dump({"run_launcher": LAUNCHER, "storage": {"sqlite": {"base_dir": "/x"}}}), "in SQLite"),
        ("run_launcher: [", "cannot be read as YAML"),
    ],
)
def test_a_dagster_yaml_that_cannot_work_in_pods_is_refused_at_load(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "dagster.yaml").write_text(content)

    with pytest.raises(InvalidInput) as error:
        build_definitions(_settings(home=tmp_path))

    assert said in str(error.value)


def test_a_local_store_is_refused_at_load() -> None:
    with pytest.raises(InvalidInput, match="is a folder of one pod"):
        build_definitions(_settings("/home/me/artifacts"))


def test_an_instance_that_launches_processes_is_refused_when_a_run_starts() -> None:
    pytest.importorskip("dagster_k8s", reason="needs the extra k8s")

    with (
        instance_for_test() as instance,
        pytest.raises(InvalidInput, match="launches runs with DefaultRunLauncher"),
    ):
        check_instance(instance)


def test_the_kubernetes_deployment_differs_by_its_executor_alone() -> None:
    kubernetes, local = build_definitions(_settings()), build_definitions(Settings("tiny_llama_cpu", "/s", "/r", None))

    assert getattr(kubernetes.executor, "name", "") == "kubernetes"
    assert {spec.key for spec in kubernetes.resolve_all_asset_specs()} == {
        spec.key for spec in local.resolve_all_asset_specs()
    }


def test_loading_it_for_kubernetes_imports_nothing_heavy_either() -> None:
    """Every step's pod loads it, and most never talk to a cluster."""
    program = f"import sys, fine_tune_assets.definitions; print([name for name in {HEAVY} if name in sys.modules])"
    environment = {**os.environ, "FINE_TUNE_DEPLOYMENT": "kubernetes", "FINE_TUNE_STORE": "s3://bucket/store"}
    environment.pop("DAGSTER_HOME", None)

    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)

    assert found.stdout.strip() == "[]"


def test_the_deployment_is_chosen_by_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINE_TUNE_DEPLOYMENT", "kubernetes")
    monkeypatch.setenv("FINE_TUNE_PODS", "/etc/pods.yaml")

    assert (read_settings().deployment, read_settings().pods) == ("kubernetes", "/etc/pods.yaml")


def test_an_unknown_deployment_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINE_TUNE_DEPLOYMENT", "eks")

    with pytest.raises(InvalidInput, match="FINE_TUNE_DEPLOYMENT is 'eks'"):
        read_settings()


def test_the_executor_shows_the_teams_limits_as_its_defaults() -> None:
    pods = Pods(pending_timeout_seconds=77, check_interval_seconds=5, max_disruptions=1)

    schema: Any = pod_executor(pods).config_schema  # whose type does not say that it has fields
    fields = schema.config_type.fields

    assert {name: field.default_value for name, field in fields.items()} == {
        "pending_timeout_seconds": 77,
        "check_interval_seconds": 5,
        "max_disruptions": 1,
    }
