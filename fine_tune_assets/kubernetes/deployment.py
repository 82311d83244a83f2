"""Refuses combinations of settings that cannot work when every asset runs in its own pod.

Settings, and dagster.yaml if there is one, are checked when the code location loads; the instance itself is checked
when a run starts. Nothing heavy is imported.
"""

from pathlib import Path
from typing import Any

import yaml
from dagster import DagsterInstance

from fine_tune_assets.kubernetes.pods.settings import Pods
from fine_tune_assets.settings import Settings
from neuron_ops.errors import InvalidInput


def check_settings(settings: Settings, pods: Pods) -> None:
    """Refuse settings that would fail in the first pod.

    Raises:
        InvalidInput: pods could not share the store, or dagster.yaml names another launcher or SQLite.
    """
    check_store(settings.store, pods)
    if settings.dagster_home is not None:
        _check_file(Path(settings.dagster_home, "dagster.yaml"))


def check_store(store: str, pods: Pods) -> None:
    """Refuse a store that other pods do not see.

    Raises:
        InvalidInput: the store is a folder outside the volumes that every pod mounts.
    """
    if "://" in store or any(Path(store).is_relative_to(mount) for mount in pods.mounts()):
        return
    raise InvalidInput(
        f"The store {store!r} is a folder of one pod; the other assets' pods would not see it. Use s3://bucket/prefix, "
        f"or a folder on a volume of default.volumes in FINE_TUNE_PODS ({', '.join(pods.mounts()) or 'it has none'})."
    )


def check_instance(instance: DagsterInstance) -> None:
    """Refuse a Dagster instance on which step pods cannot work.

    Raises:
        InvalidInput: it does not launch runs as Kubernetes Jobs, or keeps events where pods cannot reach them.
    """
    from dagster_k8s import K8sRunLauncher  # 1.1 CPU seconds; only a run's own process calls this

    if not isinstance(instance.run_launcher, K8sRunLauncher):
        raise _wrong_launcher(type(instance.run_launcher).__name__)
    storage = type(instance.event_log_storage)
    if storage.__module__.startswith("dagster._core."):  # SQLite and memory; servers have their own packages
        raise _wrong_storage(storage.__name__)


def _check_file(path: Path) -> None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return  # a step's pod has no such file: it gets the instance in other ways
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as YAML: {' '.join(str(error).split())}.") from error
    launcher = content.get("run_launcher") or {}
    # A team's own launcher may inherit from K8sRunLauncher; check_instance sees that when a run starts.
    if not launcher or (_is_dagsters(launcher) and launcher.get("class") != "K8sRunLauncher"):
        raise _wrong_launcher(launcher.get("class", "DefaultRunLauncher"))
    if "sqlite" in (content.get("storage") or {"sqlite": None} if "event_log_storage" not in content else {}):
        raise _wrong_storage("SQLite")


def _is_dagsters(launcher: dict[str, Any]) -> bool:  # Any: YAML
    return str(launcher.get("module", "")).startswith("dagster")


def _wrong_launcher(name: str) -> InvalidInput:
    return InvalidInput(
        f"In the Kubernetes deployment a run is a Job, but the Dagster instance launches runs with {name}. Set "
        "run_launcher to dagster_k8s's K8sRunLauncher in dagster.yaml (deployments/helm does), or "
        "FINE_TUNE_DEPLOYMENT to local."
    )


def _wrong_storage(name: str) -> InvalidInput:
    return InvalidInput(
        f"In the Kubernetes deployment pods share the Dagster instance, but it keeps its events in {name}, which other "
        "pods cannot reach. Set storage to postgres in dagster.yaml."
    )
