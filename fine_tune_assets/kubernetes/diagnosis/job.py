"""The state of a step, from its Job and the Job's pods.

Pure functions on the JSON of Kubernetes objects. The state of one pod, and the sentences about it, belong to pod.py.
"""

from collections.abc import Iterable, Sequence

from fine_tune_assets.kubernetes.api.kinds import Object
from fine_tune_assets.kubernetes.api.labels import JOB_LABELS, QUEUE_LABEL
from fine_tune_assets.kubernetes.diagnosis.pod import (
    Ended,
    Running,
    State,
    Waiting,
    condition,
    disruption,
    ended,
    evicted_by_itself,
    named,
    running,
    waiting,
)


def diagnose(job: Object | None, pods: Sequence[Object]) -> State:
    """The state of one step; `pods` are the pods of its Job."""
    pods = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
    for pod in pods:
        if (evicted := evicted_by_itself(pod, named(pod))) is not None:
            return evicted
    if (runs := running_pod(pods)) is not None:
        return runs
    if job is None:
        return Ended(f"its Job is gone{_why_taken(pods)}")
    if condition(job, "Complete") is not None:
        name = str(pods[-1]["metadata"]["name"]) if pods else None
        return Ended("its pod ended with exit code 0 but reported no result", pod=name)
    if (failed := condition(job, "Failed")) is not None:
        return _failed(job, failed, pods)
    return suspended(job) or _waiting(job, pods)


def running_pod(pods: Sequence[Object]) -> Running | None:
    """The step's running pod; if there is one, the Job need not be read."""
    return next((runs for pod in pods if (runs := running(pod, named(pod))) is not None), None)


def suspended(job: Object) -> Waiting | None:
    """The state of a Job that a queue or a person holds back; None if the Job is not suspended."""
    if not job["spec"].get("suspend"):
        return None
    queue = (job["metadata"].get("labels") or {}).get(QUEUE_LABEL)
    return Waiting(f"its Job is suspended{f', waiting in queue {queue}' if queue else ''}", held=True)


def job_of(pod: Object) -> str | None:
    """Name of the Job that a pod belongs to."""
    labels = pod["metadata"].get("labels") or {}
    return next((str(labels[name]) for name in JOB_LABELS if name in labels), None)


def unfinished(jobs: Iterable[Object]) -> list[str]:
    """Names of the Jobs that may still run a pod."""
    return [
        str(job["metadata"]["name"])
        for job in jobs
        if condition(job, "Complete") is None and condition(job, "Failed") is None
    ]


def _waiting(job: Object, pods: Sequence[Object]) -> Waiting:
    alive = [pod for pod in pods if pod["status"].get("phase") not in ("Failed", "Succeeded")]
    if alive:
        return waiting(alive[-1], named(alive[-1]))
    uid = str(job["metadata"]["uid"])
    if not pods:
        return Waiting("its Job has no pod yet", events_of=uid)
    failed = pods[-1]["status"].get("phase") == "Failed"
    why = ended(pods[-1], named(pods[-1])).why if failed else f"{named(pods[-1])} has ended"
    return Waiting(why, lost=True, events_of=uid)


def _failed(job: Object, failed: Object, pods: Sequence[Object]) -> Ended:
    if failed.get("reason") == "DeadlineExceeded":
        seconds = job["spec"].get("activeDeadlineSeconds")
        return Ended(f"it was not done within its deadline of {seconds} seconds (deadline_minutes)", retry=False)
    last = [pod for pod in pods if pod["status"].get("phase") == "Failed"] or pods
    if not last:
        return Ended(f"its pod is gone: {failed.get('message') or failed.get('reason')}")
    return ended(last[-1], named(last[-1]))


def _why_taken(pods: Sequence[Object]) -> str:
    taken = [pod for pod in pods if disruption(pod) is not None]
    return f": {ended(taken[-1], named(taken[-1])).why}" if taken else ""
