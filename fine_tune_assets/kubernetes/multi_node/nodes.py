"""Which node of a training a pod is, and the state of the training from its Job and pods.

Pure functions on the JSON of Kubernetes objects. The state of one pod, and the sentences about it, belong to
diagnosis/pod.py.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from fine_tune_assets.kubernetes.api.kinds import Object
from fine_tune_assets.kubernetes.diagnosis.job import suspended
from fine_tune_assets.kubernetes.diagnosis.pod import (
    DISRUPTED,
    Ended,
    State,
    Waiting,
    condition,
    disruption,
    ended,
    running,
    waiting,
)

KILLED = 137
"""Exit code after SIGKILL, which our programs never send to other nodes."""
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
REPLICA_TYPE, REPLICA_INDEX = "training.kubeflow.org/replica-type", "training.kubeflow.org/replica-index"


@dataclass(frozen=True, slots=True)
class Failure:
    """How one node ended."""

    node: int
    ended: Ended
    finished_at: str = ""

    @property
    def is_cause(self) -> bool:
        """Whether it explains itself. A program that ended without a report, or a deleted pod, may be a consequence."""
        return self.ended.exit_code in (None, KILLED) and not self.ended.deleted


def node_number(pod: Object) -> int:
    """The number of the pod's node, from labels or annotations of the Job controller or Kubeflow's operator."""
    metadata = pod["metadata"]
    labels, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
    if REPLICA_TYPE in labels:
        return 0 if labels[REPLICA_TYPE].lower() == "master" else 1 + int(labels[REPLICA_INDEX])
    return int(labels.get(INDEX_LABEL, notes.get(INDEX_LABEL, 0)))


def named(pod: Object, num_nodes: int) -> str:
    """A node as the subject of a sentence; nodes count from 0, as in the log."""
    return f"node {node_number(pod)} of {num_nodes} (pod {pod['metadata']['name']})"


def has_started(pod: Object) -> bool:
    """Whether its program runs or has run."""
    return phase(pod) in ("Running", "Succeeded", "Failed")


def phase(pod: Object) -> str:
    """Pending, Running, Succeeded, Failed or Unknown."""
    return str((pod.get("status") or {}).get("phase", "Pending"))


def job_outcome(job: Object | None) -> Literal["succeeded", "failed"] | None:
    """None while it runs; a Job that somebody deleted has failed."""
    if job is None:
        return "failed"
    kinds = {item["type"] for item in (job.get("status") or {}).get("conditions") or [] if item.get("status") == "True"}
    if kinds & {"Complete", "Succeeded"}:
        return "succeeded"
    return "failed" if kinds & {"Failed", "FailureTarget"} else None


def states(job: Object, pods: Sequence[Object], num_nodes: int, done: Collection[int]) -> Iterator[tuple[str, State]]:
    """The state of each node that has neither ended nor is done, and of the Job if it holds nodes back."""
    if (held := suspended(job)) is not None:
        yield "job", held
        return
    missing = set(range(num_nodes)) - set(done) - {node_number(pod) for pod in pods}
    if missing:
        some = f" for {len(missing)} of {num_nodes} nodes" if len(missing) < num_nodes else ""
        yield "job", Waiting(f"its Job has no pod yet{some}", events_of=str(job["metadata"]["uid"]))
    for pod in pods:
        who, node = named(pod, num_nodes), node_number(pod)
        if node in done:
            continue
        if (runs := running(pod, who)) is not None:
            yield f"node {node}", runs
        elif not has_started(pod):
            yield f"node {node}", waiting(pod, who)


def failure(pod: Object, num_nodes: int) -> Failure | None:
    """How the pod failed; None if it has not."""
    exits = [exit_ for exit_ in _exits(pod) if exit_.get("exitCode") != 0]
    if phase(pod) == "Succeeded":
        return None  # the machine is no longer needed
    if phase(pod) != "Failed" and not exits and disruption(pod) is None:
        return None
    finished_at = str(exits[0].get("finishedAt", "")) if exits else ""
    return Failure(node_number(pod), ended(pod, named(pod, num_nodes)), finished_at)


def first(failures: Sequence[Failure]) -> Failure:
    """The failure that caused the others: a program's report, else what happened to a pod, else the earliest."""
    return min(
        failures,
        key=lambda item: (
            item.ended.error is None,
            not item.is_cause,
            item.ended.deleted,
            item.finished_at,
            item.node,
        ),
    )


def job_end(job: Object | None, kind: str) -> Ended:
    """How a training ended when no pod says why."""
    if job is None:
        return Ended(f"its {kind} is gone", deleted=True)
    if (held := suspended(job)) is not None:  # as when Kueue needs the machines for a higher priority
        return Ended(f"{held.why}; its pods were taken away", disrupted=True)
    found = condition(job, "Failed") or condition(job, "FailureTarget") or {}
    said = str(found.get("message") or found.get("reason") or "no reason is given")
    return Ended(f"its pod is gone: {said}", disrupted=DISRUPTED in said)


def _exits(pod: Object) -> list[Object]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return [exit_ for status in statuses if (exit_ := (status.get("state") or {}).get("terminated"))]
