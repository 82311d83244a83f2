"""What the pods of a training say about themselves: which node they are, why one waits, why one failed.

Pure functions on the JSON that the API shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fine_tune_assets.kubernetes.diagnosis import OWN_FAULT
from fine_tune_assets.kubernetes.multi_node.manifests import Object
from neuron_ops.errors import OpsError
from neuron_ops.launch.outcome import parse_error

INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
REPLICA_TYPE, REPLICA_INDEX = "training.kubeflow.org/replica-type", "training.kubeflow.org/replica-index"

STARTING = ("ContainerCreating", "PodInitializing")
LAST_LINES = 12
ENDED_FROM_OUTSIDE = (137, 143)
"""Exit statuses after SIGKILL and SIGTERM, as a kubelet sends them."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a node failed."""

    node: int
    why: str
    """Node, pod, machine and reason, in words."""
    finished_at: str = ""
    error: OpsError | None = None
    """What its program reported, where it could."""
    cause: bool = True
    """False for a program that just ended: then the reason may well be another node."""
    disrupted: bool = False
    """Whether its machine was reclaimed, drained or lost; not if it was evicted for what it did itself."""


def node_of(pod: Object) -> int:
    """The number of the pod's node, from what the Job controller or Kubeflow's operator writes on it."""
    metadata = pod["metadata"]
    labels, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
    if REPLICA_TYPE in labels:
        return 0 if labels[REPLICA_TYPE].lower() == "master" else 1 + int(labels[REPLICA_INDEX])
    return int(labels.get(INDEX_LABEL, notes.get(INDEX_LABEL, 0)))


def has_started(pod: Object) -> bool:
    """Whether its program runs or has run."""
    return phase(pod) in ("Running", "Succeeded", "Failed")


def phase(pod: Object) -> str:
    """Pending, Running, Succeeded, Failed or Unknown."""
    return str((pod.get("status") or {}).get("phase", "Pending"))


def waiting(pod: Object) -> str | None:
    """Why the pod does not run yet, in the cluster's own words; None while it just starts."""
    if has_started(pod):
        return None
    scheduled = _condition(pod, "PodScheduled")
    if scheduled is not None and scheduled.get("status") == "False":
        return f"cannot be placed ({scheduled.get('reason', '')}: {_text(scheduled)})"
    for state in _states(pod, "waiting"):
        if state.get("reason") not in (None, *STARTING):
            return f"cannot start ({state['reason']}: {_text(state)})"
    return None


def failure(pod: Object) -> Failure | None:
    """Why the pod failed; None if it has not."""
    if phase(pod) == "Succeeded":
        return None  # its machine may be taken away now
    node = node_of(pod)
    disruption = _condition(pod, "DisruptionTarget")
    if disruption is not None and disruption.get("status") == "True":
        why = f"{_where(pod)} was taken away ({disruption.get('reason', '')}: {_text(disruption)})"
        return Failure(node, why, disrupted=not OWN_FAULT.search(why))
    for state in _states(pod, "terminated"):
        if state.get("exitCode") != 0:
            return _of_container(pod, state)
    if phase(pod) == "Failed":
        status = pod["status"]
        return Failure(node, f"{_where(pod)} failed ({status.get('reason', 'no reason')}: {_text(status)})")
    return None


def first(failures: Sequence[Failure]) -> Failure:
    """The one that the others follow from: what a program reports, then what happened to a pod, then the earliest."""
    return min(failures, key=lambda item: (item.error is None, not item.cause, item.finished_at, item.node))


def _of_container(pod: Object, state: Object) -> Failure | None:
    node, finished_at, code = node_of(pod), str(state.get("finishedAt", "")), state.get("exitCode")
    error = parse_error(str(state.get("message") or ""))
    if error is not None:
        return Failure(node, f"{_where(pod)} reported: {error}", finished_at, error)
    if state.get("reason") == "OOMKilled":
        limit = pod["spec"]["containers"][0].get("resources", {}).get("limits", {}).get("memory")
        bound = f"its limit of {limit}" if limit else "what its node has"
        return Failure(node, f"{_where(pod)} was killed for using more memory than {bound} (OOMKilled)", finished_at)
    if pod["metadata"].get("deletionTimestamp") and code in ENDED_FROM_OUTSIDE:
        return None  # somebody deleted it, or the Job's controller did because of another: it did not fail by itself
    if code == 137:
        return Failure(node, f"{_where(pod)} was killed by signal 9", finished_at)
    said = "\n".join(str(state.get("message") or "").splitlines()[-LAST_LINES:])
    words = f"; its last lines:\n{said}" if said else ""
    return Failure(node, f"{_where(pod)} ended with exit status {code}{words}", finished_at, cause=False)


def _where(pod: Object) -> str:
    machine = pod["spec"].get("nodeName")
    return f"node {node_of(pod)} (pod {pod['metadata']['name']}{f' on {machine}' if machine else ''})"


def _condition(pod: Object, kind: str) -> Object | None:
    conditions: list[Object] = (pod.get("status") or {}).get("conditions") or []
    return next((condition for condition in conditions if condition["type"] == kind), None)


def _states(pod: Object, name: str) -> list[Object]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return [status["state"][name] for status in statuses if name in (status.get("state") or {})]


def _text(thing: Object) -> str:
    return " ".join(str(thing.get("message") or "no message").split())
