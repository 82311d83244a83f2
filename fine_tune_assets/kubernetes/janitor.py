"""Finds the pods that finished runs left in the cluster, and deletes them.

A run deletes its own pods, or Kubernetes does when the run's pod is deleted. Pods that are left because both failed, or
because a run was cancelled while no process executed it, would hold their accelerators until their deadline.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from dagster import (
    DagsterInstance,
    DefaultSensorStatus,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from fine_tune_assets.kubernetes.api.labels import COMPONENT_LABEL, RUN_LABEL
from fine_tune_assets.kubernetes.deployment import check_instance
from fine_tune_assets.kubernetes.diagnosis.job import unfinished

if TYPE_CHECKING:
    from dagster_k8s import K8sRunLauncher

EVERY_SECONDS = 300


def orphans(instance: DagsterInstance, run_ids: Iterable[str]) -> set[str]:
    """The runs that have ended. Runs that this instance does not know may belong to another one and are left out."""
    wanted = sorted(set(run_ids))
    runs = instance.get_runs(RunsFilter(run_ids=wanted)) if wanted else []
    return {run.run_id for run in runs if run.is_finished}


def sweep(instance: DagsterInstance, namespace: str | None, *, dry_run: bool = False) -> list[str]:
    """Delete the unfinished Jobs of finished runs, and return their names.

    Raises:
        InvalidInput: the instance does not launch on Kubernetes, or the cluster refuses.
        Unavailable: the cluster does not answer.
    """
    check_instance(instance)
    from kubernetes.client import ApiClient  # 300 CPU ms, which only the process of the sensor pays

    from fine_tune_assets.kubernetes.api.client import Client

    # The launcher's constructor has told the client library where the cluster is.
    launcher = cast("K8sRunLauncher", instance.run_launcher)
    client = Client(ApiClient(), namespace or launcher.job_namespace)
    # A run's own Job ends by itself, a moment after the run.
    jobs = client.find_all("Job", labels=f"{RUN_LABEL},{COMPONENT_LABEL}!=run_worker")
    run_of = {job["metadata"]["name"]: job["metadata"]["labels"][RUN_LABEL] for job in jobs}
    finished = orphans(instance, run_of.values())
    left = [name for name in unfinished(jobs) if run_of[name] in finished]
    return left if dry_run else [name for name in left if client.delete("Job", name)]


def janitor(namespace: str | None) -> SensorDefinition:
    """The sweep as a sensor of the Kubernetes deployment."""

    @sensor(
        name="janitor",
        description="Deletes the pods that finished runs left in the cluster. Starts no run.",
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
    )
    def clean(context: SensorEvaluationContext) -> SkipReason:
        names = sweep(context.instance, namespace)
        return SkipReason(f"Deleted {', '.join(names)}." if names else "Nothing was left behind.")

    return clean
