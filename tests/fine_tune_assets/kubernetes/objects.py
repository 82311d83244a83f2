"""Jobs and pods as the API server returns them, for tests that need a state rather than a cluster."""

from typing import Any

Object = dict[str, Any]  # Any: the JSON of a Kubernetes object


def job(**status: Any) -> Object:
    """A Job named train with this status."""
    return {"metadata": {"name": "train", "uid": "job-1"}, "spec": {"activeDeadlineSeconds": 600}, "status": status}


def condition(kind: str, reason: str = "", message: str = "", status: str = "True") -> Object:
    """One condition of a Job or a pod."""
    return {"type": kind, "status": status, "reason": reason, "message": message}


FAILED_JOB = job(failed=1, conditions=[condition("Failed", "BackoffLimitExceeded", "Job has reached the limit")])
COMPLETE_JOB = job(succeeded=1, conditions=[condition("Complete")])


def pod(
    phase: str = "Running",
    *,
    state: Object | None = None,
    conditions: tuple[Object, ...] = (),
    name: str = "train-x1",
    node: str = "node-a",
    created: str = "2026-11-01T00:00:00Z",
    deleted: bool = False,
    **status: Any,
) -> Object:
    """A pod of the Job, its one container in `state`."""
    containers = [{"name": "dagster", "image": "slim:1", "state": state}] if state is not None else []
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "creationTimestamp": created,
            "labels": {"job-name": "train"},
            **({"deletionTimestamp": "2026-11-01T01:00:00Z"} if deleted else {}),
        },
        "spec": {
            "nodeName": node,
            "containers": [{"name": "dagster", "resources": {"limits": {"memory": "8Gi"}}}],
        },
        "status": {"phase": phase, "conditions": list(conditions), "containerStatuses": containers, **status},
    }


def ended(exit_code: int, reason: str = "Error", **more: Any) -> Object:
    """The state of a container that has ended."""
    return {"terminated": {"exitCode": exit_code, "reason": reason, **more}}


def waits(reason: str, message: str = "") -> Object:
    """The state of a container that the kubelet cannot start yet."""
    return {"waiting": {"reason": reason, "message": message}}


RUNNING = pod("Running", state={"running": {}}, conditions=(condition("Ready"), condition("ContainersReady")))
PREEMPTED = condition("DisruptionTarget", "PreemptionByScheduler", "preempted by a pod of higher priority")
