"""The state of one pod, in a sentence: it runs, it waits for something, or it has ended.

An event gives the same sentence for the pod of a step and for the pod of a training's node; `who` is the subject of the
sentence. Pure functions on the JSON of Kubernetes objects. What a step's Job adds belongs to job.py; timeouts belong
to watch.py, requests to the cluster to observer.py.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fine_tune_assets.kubernetes.api.kinds import Object
from neuron_ops.errors import OpsError
from neuron_ops.launch.outcome import parse_error

# The kubelet repeats these forever; they pass only if somebody changes something.
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
# The registry is busy or out of reach: the kubelet's next try may succeed.
PASSING = re.compile(
    r"429|too ?many ?requests|50[0-4]|timeout|timed out|connection re|no such host|TLS handshake", re.I
)
# The kubelet's message when a pod used more disk than its limit; when a node runs out of disk, the message differs.
OWN_FAULT = re.compile(r"exceed(s|ed) (the total limit|its local ephemeral storage limit|the limit)")
SIGNALS = {137: "SIGKILL", 143: "SIGTERM"}
"""Exit codes of programs that were ended from outside, as a kubelet ends them, with the signal."""
LAST_LINES = 12
DISRUPTED = "DisruptionTarget"


@dataclass(frozen=True, slots=True)
class Running:
    """The container runs."""

    pod: str
    """The pod, as the subject of a sentence."""
    node: str
    silent: bool = False
    """Whether its node has stopped reporting, so that the pod may be lost."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """No container runs, but one may."""

    why: str
    stuck: bool = False
    """Whether waiting longer is unlikely to help."""
    held: bool = False
    """Whether a queue holds it back on purpose; no timeout runs meanwhile."""
    lost: bool = False
    """Whether its earlier pod will not come back, so that a retry may succeed."""
    events_of: str | None = None
    """Uid of the object whose events may say more than its status does."""


@dataclass(frozen=True, slots=True)
class Ended:
    """It has ended; a step's own report may still arrive."""

    why: str
    retry: bool = True
    pod: str | None = None
    """Name of the pod whose last log lines say more."""
    error: OpsError | None = None
    """The error that its program reported, if it could."""
    exit_code: int | None = None
    """Exit code of a program that ended without a report; the cause may then be another pod."""
    disrupted: bool = False
    """Whether its machine was reclaimed, drained or lost; not if it was evicted for its own disk use."""
    deleted: bool = False
    """Whether somebody deleted it."""


State = Running | Waiting | Ended


def named(pod: Object) -> str:
    """A step's pod as the subject of a sentence."""
    return f"pod {pod['metadata']['name']}"


def running(pod: Object, who: str) -> Running | None:
    """The pod, if its container runs and nobody is ending it."""
    states = [status.get("state") or {} for status in pod["status"].get("containerStatuses") or []]
    if pod["metadata"].get("deletionTimestamp") or not any("running" in state for state in states):
        return None
    # Only the node controller takes Ready from a pod whose containers were ready: its node stopped reporting.
    silent = condition(pod, "Ready", status="False") is not None and condition(pod, "ContainersReady") is not None
    return Running(who, node_of(pod), silent)


def waiting(pod: Object, who: str) -> Waiting:
    """Why a pod that has not ended does not run."""
    if pod["metadata"].get("deletionTimestamp"):
        taken = disruption(pod)
        return Waiting(f"{who} is being ended{f' ({taken})' if taken else ''}", lost=True)
    if gates := pod["spec"].get("schedulingGates"):
        return Waiting(f"{who} is held back by {gates[0]['name']}", held=True)
    scheduled = condition(pod, "PodScheduled", status="False")
    if scheduled is not None:
        return Waiting(f"{who} cannot be scheduled: {scheduled.get('message') or scheduled.get('reason')}")
    for status in _container_statuses(pod):
        waits = (status.get("state") or {}).get("waiting") or {}
        if waits.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            message = waits.get("message") or ""
            stuck = waits["reason"] in STUCK_REASONS and not PASSING.search(message)
            said = f"{waits['reason']} of {_what(status)}{f': {message}' if message else ''}"
            return Waiting(f"{who} cannot start: {said}", stuck=stuck)
    on = f" on node {node_of(pod)}" if pod["spec"].get("nodeName") else ""
    return Waiting(f"{who} is starting{on}", events_of=pod["metadata"]["uid"])


def ended(pod: Object, who: str) -> Ended:
    """How a pod that did not succeed has ended."""
    if (evicted := evicted_by_itself(pod, who)) is not None:
        return evicted
    exits = [(status, (status.get("state") or {}).get("terminated") or {}) for status in _container_statuses(pod)]
    for status, exit_ in exits:
        if exit_.get("reason") == "OOMKilled":
            return _without_memory(pod, who, status)
    if (taken := disruption(pod)) is not None:
        return Ended(f"{who} was taken from node {node_of(pod)} ({taken})", disrupted=True)
    for status, exit_ in exits:
        if exit_.get("exitCode"):
            return _exited(pod, who, status, exit_)
    words = ": ".join(str(pod["status"][key]) for key in ("reason", "message") if pod["status"].get(key))
    deleted = bool(pod["metadata"].get("deletionTimestamp"))
    how = "was deleted" if deleted else "failed"
    return Ended(f"{who} {how}{f' ({words})' if words else ''}", deleted=deleted)


def _without_memory(pod: Object, who: str, status: Object) -> Ended:
    name, limit = str(pod["metadata"]["name"]), _memory_limit(pod, status)
    if limit is None:
        return Ended(f"{who} used more memory than its node has (OOMKilled)", pod=name)
    return Ended(f"{who} used more memory than its limit of {limit} (OOMKilled)", pod=name)


def _exited(pod: Object, who: str, status: Object, exit_: Object) -> Ended:
    code, message = int(exit_["exitCode"]), str(exit_.get("message") or "").strip()
    if (error := parse_error(message)) is not None:
        return Ended(f"{who} reported: {error}", retry=error.retry, error=error)
    if pod["metadata"].get("deletionTimestamp") and code in SIGNALS:
        return Ended(f"{who} was deleted", deleted=True)
    reason = SIGNALS.get(code) if exit_.get("reason") in (None, "Error") else exit_["reason"]
    why = f"{who} ended with exit code {code}{f' ({reason})' if reason else ''} in {_what(status)}"
    if message:
        return Ended(with_last_lines(why, message), exit_code=code)
    return Ended(why, exit_code=code, pod=str(pod["metadata"]["name"]))


def evicted_by_itself(pod: Object, who: str) -> Ended | None:
    """How a pod ended that was evicted for its own disk use, not for its node's; None for any other pod."""
    message = str(pod["status"].get("message") or "")
    if pod["status"].get("reason") != "Evicted" or not OWN_FAULT.search(message):
        return None
    return Ended(f"{who} was evicted from node {node_of(pod)}: {message.strip().rstrip('.')}")


def disruption(pod: Object) -> str | None:
    """Why the pod was taken from its node; None for one that was not."""
    found = condition(pod, DISRUPTED)
    if found is None:
        return None
    message = pod["status"].get("message") or found.get("message") or ""
    return f"{found.get('reason', DISRUPTED)}{f': {message}' if message else ''}"


def with_events(state: Waiting, warnings: Sequence[str]) -> Waiting:
    """The state with the newest warning about its object added, such as a volume, quota or service account."""
    if not warnings:
        return state
    # A quota may be free again soon; the API repeats any other refusal forever.
    refused = warnings[-1].startswith("FailedCreate") and "exceeded quota" not in warnings[-1]
    return replace(state, why=f"{state.why}: {warnings[-1].strip().rstrip('.')}", stuck=state.stuck or refused)


def with_last_lines(why: str, log: str) -> str:
    """The sentence, followed by the last lines of a log."""
    return f"{why}. The last lines of its log:\n" + "\n".join(log.splitlines()[-LAST_LINES:])


def condition(of: Object, kind: str, *, status: str = "True") -> Object | None:
    """A condition of a pod or a Job that has this status."""
    conditions = (of.get("status") or {}).get("conditions") or []
    return next((item for item in conditions if item["type"] == kind and item["status"] == status), None)


def node_of(pod: Object) -> str:
    """The cluster's node that the pod is on."""
    return str(pod["spec"].get("nodeName") or "none")


def _container_statuses(pod: Object) -> list[Object]:
    return [*(pod["status"].get("initContainerStatuses") or []), *(pod["status"].get("containerStatuses") or [])]


def _memory_limit(pod: Object, status: Object) -> str | None:
    containers = [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]
    limits = (item.get("resources", {}).get("limits") or {} for item in containers if item["name"] == status["name"])
    return next(limits, {}).get("memory")


def _what(status: Object) -> str:
    return f"container {status['name']} (image {status.get('image') or 'unknown'})"
