"""What a Job and its pods say about a step: it runs, it waits for something, or it has ended, in a sentence.

Pure functions on the JSON of Kubernetes objects. For how long a wait is borne belongs to watch.py, asking the cluster
to cluster.py.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fine_tune_assets.kubernetes.pod_config import QUEUE_LABEL

Object = Mapping[str, Any]  # Any: the JSON of a Kubernetes object

# The kubelet repeats these for ever; they mend only if somebody changes something.
STUCK_REASONS = frozenset(
    {
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)
# A registry that is busy or out of reach: the kubelet's next try may well succeed.
PASSING = re.compile(
    r"429|too ?many ?requests|50[0-4]|timeout|timed out|connection re|no such host|TLS handshake", re.I
)
# The kubelet's words for a pod that used more disk than it was given, as against a node that ran out.
OWN_FAULT = re.compile(r"exceed(s|ed) (the total limit|its local ephemeral storage limit|the limit)")


@dataclass(frozen=True, slots=True)
class Running:
    """The step's container runs."""

    pod: str
    node: str
    silent: bool = False
    """Whether its node has stopped reporting, so that nobody knows."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """No container of the step runs, but one may."""

    why: str
    stuck: bool = False
    """Whether waiting longer is unlikely to help."""
    held: bool = False
    """Whether a queue holds the Job back on purpose; no patience runs out meanwhile."""
    lost: bool = False
    """Whether the pod that there was is not coming back; another one may fare better."""
    events_of: str | None = None
    """Uid of the object whose events may say more than its status does."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The Job has ended; the step's own report may still be on its way."""

    why: str
    retry: bool = True
    pod: str | None = None
    """The pod whose last lines of log tell more."""


State = Running | Waiting | Ended


def diagnose(job: Object | None, pods: Sequence[Object]) -> State:
    """The state of one step; `pods` are the pods of its Job."""
    pods = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
    for pod in pods:
        if (overfull := _overfull(pod)) is not None:
            return overfull
    if (runs := running(pods)) is not None:
        return runs
    if job is None:
        return Ended(f"its Kubernetes Job is gone{_last_words(pods)}")
    if (condition := _condition(job, "Complete")) is not None:
        return Ended("its pod ended with exit code 0 but reported no result", pod=_name(pods[-1]) if pods else None)
    if (condition := _condition(job, "Failed")) is not None:
        return _failed(job, condition, pods)
    if job["spec"].get("suspend"):
        queue = (job["metadata"].get("labels") or {}).get(QUEUE_LABEL)
        return Waiting(f"its Job is suspended{f', waiting in queue {queue}' if queue else ''}", held=True)
    return _waiting(job, pods)


def running(pods: Sequence[Object]) -> Running | None:
    """The step's running pod; it alone tells that all is well."""
    for pod in pods:
        states = [status.get("state") or {} for status in pod["status"].get("containerStatuses") or []]
        if not pod["metadata"].get("deletionTimestamp") and any("running" in state for state in states):
            return Running(_name(pod), _node(pod), _silent(pod))
    return None


def because(state: Waiting, warnings: Sequence[str]) -> Waiting:
    """The state with what the newest warning about its object adds: a volume, a quota, a service account."""
    if not warnings:
        return state
    # A quota may be free again in a moment; what else the API refuses, it will refuse for ever.
    refused = warnings[-1].startswith("FailedCreate") and "exceeded quota" not in warnings[-1]
    return replace(state, why=f"{state.why}: {warnings[-1].strip().rstrip('.')}", stuck=state.stuck or refused)


def disruption(pod: Object) -> str | None:
    """Why the pod was taken from its node; None for one that was not."""
    condition = _condition(pod, "DisruptionTarget")
    if condition is None:
        return None
    message = pod["status"].get("message") or condition.get("message") or ""
    return f"{condition.get('reason', 'DisruptionTarget')}{f': {message}' if message else ''}"


def job_of(pod: Object) -> str | None:
    """Name of the Job that a pod belongs to."""
    labels = pod["metadata"].get("labels") or {}
    return labels.get("batch.kubernetes.io/job-name") or labels.get("job-name")


def _waiting(job: Object, pods: Sequence[Object]) -> Waiting:
    alive = [pod for pod in pods if pod["status"].get("phase") not in ("Failed", "Succeeded")]
    if not alive:
        why = f"its pod was taken away{_last_words(pods)}" if pods else "its Job has no pod yet"
        return Waiting(why, lost=bool(pods), events_of=job["metadata"]["uid"])
    pod = alive[-1]
    if pod["metadata"].get("deletionTimestamp"):
        return Waiting(f"pod {_name(pod)} is being ended{_last_words([pod])}", lost=True)
    if (gates := pod["spec"].get("schedulingGates")) is not None and gates:
        return Waiting(f"pod {_name(pod)} is held back by {gates[0]['name']}", held=True)
    scheduled = _condition(pod, "PodScheduled", status="False")
    if scheduled is not None:
        return Waiting(f"pod {_name(pod)} cannot be scheduled: {scheduled.get('message') or scheduled.get('reason')}")
    return _starting(pod)


def _starting(pod: Object) -> Waiting:
    for status in _container_statuses(pod):
        waiting = (status.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            message = waiting.get("message") or ""
            stuck = waiting["reason"] in STUCK_REASONS and not PASSING.search(message)
            return Waiting(f"{waiting['reason']} of {_what(status)}{f': {message}' if message else ''}", stuck=stuck)
    on = f" on node {_node(pod)}" if pod["spec"].get("nodeName") else ""
    return Waiting(f"pod {_name(pod)} is starting{on}", events_of=pod["metadata"]["uid"])


def _failed(job: Object, condition: Object, pods: Sequence[Object]) -> Ended:
    if condition.get("reason") == "DeadlineExceeded":
        seconds = job["spec"].get("activeDeadlineSeconds")
        return Ended(f"it was not done within its deadline of {seconds} seconds (deadline_minutes)", retry=False)
    failed = [pod for pod in pods if pod["status"].get("phase") == "Failed"] or pods
    if not failed:
        return Ended(f"its pod is gone: {condition.get('message') or condition.get('reason')}")
    return _death(failed[-1])


def _death(pod: Object) -> Ended:
    """How a pod that had its chance ended."""
    for status in _container_statuses(pod):
        ended = (status.get("state") or {}).get("terminated") or {}
        if ended.get("reason") == "OOMKilled":
            limit = _memory_limit(pod, status)
            return Ended(f"its container used more memory than its limit of {limit} (OOMKilled)", pod=_name(pod))
    if (taken := disruption(pod)) is not None:
        return Ended(f"pod {_name(pod)} was taken from node {_node(pod)} ({taken})")
    for status in _container_statuses(pod):
        ended = (status.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            said = f" ({ended['message'].strip()})" if ended.get("message") else ""
            reason = "" if ended.get("reason") in (None, "Error") else f", {ended['reason']}"
            return Ended(f"{_what(status)} ended with exit code {ended['exitCode']}{reason}{said}", pod=_name(pod))
    words = ": ".join(str(pod["status"][key]) for key in ("reason", "message") if pod["status"].get(key))
    how = "was deleted" if pod["metadata"].get("deletionTimestamp") else "failed"
    return Ended(f"pod {_name(pod)} {how}{f' ({words})' if words else ''}")


def _overfull(pod: Object) -> Ended | None:
    """A pod that was evicted for what it did itself; a new one would do the same."""
    message = str(pod["status"].get("message") or "")
    if pod["status"].get("reason") != "Evicted" or not OWN_FAULT.search(message):
        return None
    return Ended(f"pod {_name(pod)} was evicted from node {_node(pod)}: {message.strip().rstrip('.')}")


def _silent(pod: Object) -> bool:
    # Only the node controller takes Ready from a pod whose containers were ready: its node stopped reporting.
    ready = _condition(pod, "Ready", status="False") is not None
    return ready and _condition(pod, "ContainersReady", status="True") is not None


def _last_words(pods: Iterable[Object]) -> str:
    for pod in reversed(list(pods)):
        if (taken := disruption(pod)) is not None:
            return f" (pod {_name(pod)} on node {_node(pod)}: {taken})"
    return ""


def _condition(of: Object, kind: str, *, status: str = "True") -> Object | None:
    conditions = (of.get("status") or {}).get("conditions") or []
    return next((item for item in conditions if item["type"] == kind and item["status"] == status), None)


def _container_statuses(pod: Object) -> list[Object]:
    return [*(pod["status"].get("initContainerStatuses") or []), *(pod["status"].get("containerStatuses") or [])]


def _memory_limit(pod: Object, status: Object) -> str:
    containers = [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]
    limits = (item.get("resources", {}).get("limits") or {} for item in containers if item["name"] == status["name"])
    return str(next(limits, {}).get("memory", "the node's memory"))


def _what(status: Object) -> str:
    return f"container {status['name']} (image {status.get('image') or 'unknown'})"


def _name(pod: Object) -> str:
    return str(pod["metadata"]["name"])


def _node(pod: Object) -> str:
    return str(pod["spec"].get("nodeName") or "none")
