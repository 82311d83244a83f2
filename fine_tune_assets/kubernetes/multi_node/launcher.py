"""A step on several nodes of a cluster, from the pod of the step: create its pods, follow them, end them together.

That is a training, or the warm-up by which `compile` makes its graphs. What the pods are belongs to
manifests.py, what they say about themselves to pods.py. Starting again from the last checkpoint belongs
to launching, the same for pods and local processes.
"""

import re
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from fine_tune_assets.kubernetes.multi_node.api import Api
from fine_tune_assets.kubernetes.multi_node.logs import Logs
from fine_tune_assets.kubernetes.multi_node.manifests import Object, Training, manifests
from fine_tune_assets.kubernetes.multi_node.pods import (
    Failure,
    failure,
    first,
    has_started,
    node_of,
    phase,
    waiting,
)
from fine_tune_assets.settings import read_settings
from neuron_ops.errors import InvalidInput, OpsError, Unavailable
from neuron_ops.launch.outcome import ExitResult
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.commands import flags
from neuron_ops.steps.table import Step

T = TypeVar("T")

PROGRESS = re.compile(r"\[node 0\] \d\d:\d\d:\d\d (__main__|neuron_ops\S*) (?P<message>.+)")
"""What a step's program logs, in the form of neuron_ops.steps.program; only the first rank logs its progress."""
DISRUPTED = "DisruptionTarget"
"""In the Job's own words, where the pod that was taken away is gone before it was seen."""
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long what is waited for; all in seconds."""

    poll: float = 5.0
    """Between two looks."""
    pending: float = 1800.0
    """Until every pod runs: an autoscaler needs minutes for a machine, an image of 20 GB more."""
    silence: float = 300.0
    """For an API server that does not answer."""
    settle: float = 20.0
    """For more to be said about a failure: the first pod that fails is not always its cause."""
    ending: float = 90.0
    """For pods to be gone after their Job was deleted; they still hold their accelerators."""


@dataclass(slots=True)
class PodTraining:
    """One attempt. `say` takes news for the event log, `write` the lines of the pods' logs."""

    training: Training
    api: Api
    say: Callable[[str], None]
    write: Callable[[str], None]
    patience: Patience = Patience()
    clock: Callable[[], float] = time.monotonic
    """What patience is measured with, in seconds."""
    _pods: dict[int, str] = field(default_factory=dict)
    """Uid of each node's pod, once it was seen."""
    _done: set[int] = field(default_factory=set)
    """Nodes whose pods have succeeded: one that only took part in a warm-up ends long before the first."""
    _said: dict[int, str] = field(default_factory=dict)

    def run(self) -> ExitResult:
        """Train to the end; whatever happens, nothing of it stays in the cluster."""
        logs = Logs(self.api, self.write)
        try:
            self._create()
            ending = self._watch(logs)
            logs.drain()
        except BaseException:
            self._delete()
            raise
        self._delete()
        if ending.status != 0:
            self._wait_until_gone()  # another attempt needs the same machines
        return ending

    def _create(self) -> None:
        for manifest in manifests(self.training):
            self._patiently(partial(self.api.create, manifest))
        nodes = self.training.hardware.nodes
        self.say(f"{self._kind} {self.training.name} was created: {nodes} pods, one for each node")

    def _watch(self, logs: Logs) -> ExitResult:
        pending_since = self.clock()
        while True:
            job, pods = self._look()
            logs.follow(pods)
            outcome = _outcome(job)
            done = self._done | {node_of(pod) for pod in pods if phase(pod) == "Succeeded"}
            # The pods are asked too: an operator that was restarted may be late with its verdict.
            if outcome == "succeeded" or len(done) == self.training.hardware.nodes:
                return ExitResult(0)
            for node in done - self._done:
                self.say(f"node {node} has done its part")
            self._done = done
            if outcome == "failed" or self._lost(pods) or any(failure(pod) for pod in pods):
                return self._explain(logs)
            if job is not None and (job.get("spec") or {}).get("suspend"):
                pending_since = self.clock()  # a queue holds it back on purpose
            reasons = self._waiting(pods)
            if not reasons:
                pending_since = self.clock()
            elif self.clock() - pending_since > self.patience.pending:
                return ExitResult(1, self._given_up(reasons))
            time.sleep(self.patience.poll)

    def _waiting(self, pods: list[Object]) -> dict[int, str]:
        """Why each node that does not run yet does not; said once, and again when it changes."""
        reasons = {node: "has no pod yet" for node in range(self.training.hardware.nodes) if node not in self._done}
        for pod in pods:
            reasons[node_of(pod)] = waiting(pod) or "is starting"
            if has_started(pod):
                del reasons[node_of(pod)]
        told = {node: f"node {node} {why}" for node, why in reasons.items()}
        for node, text in told.items():
            if "cannot" in text and self._said.get(node) != text:
                self.say(text)
                self._said[node] = text
        return told

    def _given_up(self, reasons: dict[int, str]) -> InvalidInput:
        """Final: to start again would be to wait as long again."""
        minutes = f"{self.patience.pending / 60:.3g}"
        return InvalidInput(
            f"After {minutes} minutes {'; '.join(reasons.values())}. "
            "Make room for it in the cluster, or correct what it says, and materialize again."
        )

    def _lost(self, pods: list[Object]) -> bool:
        """Whether a pod that worked is gone or another one: what it held in memory is lost to all."""
        found = {node_of(pod): str(pod["metadata"]["uid"]) for pod in pods}
        lost = any(found.get(node) != uid for node, uid in self._pods.items() if node not in self._done)
        self._pods = {**found, **self._pods}
        return lost

    def _explain(self, logs: Logs) -> ExitResult:
        """The failure that the others follow from, once there is no more to learn."""
        failures: dict[int, Failure] = {}
        deadline = self.clock() + self.patience.settle
        while True:
            job, pods = self._look()
            logs.follow(pods)
            for found in filter(None, map(failure, pods)):
                failures.setdefault(found.node, found)
            told = any(item.cause for item in failures.values())
            alive = [pod for pod in pods if phase(pod) == "Running" and not pod["metadata"].get("deletionTimestamp")]
            if told or not alive or self.clock() > deadline:
                break
            time.sleep(min(1.0, self.patience.poll))
        if failures:
            cause = first(list(failures.values()))
            return ExitResult(1, cause.error, cause.why, cause.disrupted)
        why = _why(job, self._kind)
        return ExitResult(1, reason=why, disrupted=DISRUPTED in why)

    def _look(self) -> tuple[Object | None, list[Object]]:
        watched = manifests(self.training)[-1]
        job = self._patiently(lambda: self.api.find(watched))
        return job, self._patiently(lambda: self.api.pods(self.training.namespace, self.training.selector))

    def _patiently(self, ask: Callable[[], T]) -> T:
        deadline = self.clock() + self.patience.silence
        while True:
            try:
                return ask()
            except Unavailable:
                if self.clock() > deadline:
                    raise
            time.sleep(self.patience.poll)

    def _delete(self) -> None:
        for manifest in manifests(self.training):
            try:
                self.api.delete(manifest)
            except OpsError as error:
                self.say(f"{error} It goes when the pod of this step goes.")

    def _wait_until_gone(self) -> None:
        deadline = self.clock() + self.patience.ending
        while self.clock() < deadline:
            if not self._patiently(lambda: self.api.pods(self.training.namespace, self.training.selector)):
                return
            time.sleep(min(1.0, self.patience.poll))

    @property
    def _kind(self) -> str:
        return str(manifests(self.training)[-1]["kind"])


def open_training(step: Step, lineage: Lineage, attempt: str, say: Callable[[str], None]) -> PodTraining:
    """The training of a step in this pod; `attempt` makes its name unique in the namespace.

    Raises:
        InvalidInput: this process runs in no pod, or may not see its own.
    """
    settings = read_settings()
    api = Api(settings.kubeconfig)
    namespace, name = _own_pod(settings.pod)
    launcher = api.pod(namespace, name)
    if launcher is None:
        raise InvalidInput(
            f"There is no pod {name!r} in namespace {namespace!r}, but this step starts its nodes from its own pod. "
            "Set FINE_TUNE_OWN_POD to NAMESPACE/NAME of the pod."
        )
    words = (
        step.verb,
        *flags(step, lineage.recipe.model_dump_json(), lineage.store.url, lineage.raw.url, lineage.dataset_version),
    )
    # With the pod's own id: a pod that replaces this one makes a Job of its own, for this one's goes with this pod.
    name = f"fine-tune-{step.verb}-{attempt}-{launcher['metadata']['uid'][:6]}"
    training = Training(name, lineage.recipe.hardware, words, launcher)

    def write(line: str) -> None:
        sys.stdout.write(line)
        sys.stdout.flush()
        if progress := PROGRESS.match(line):
            say(progress["message"])

    return PodTraining(training, api, say, write)


def _own_pod(setting: str | None) -> tuple[str, str]:
    if setting is not None:
        namespace, _, name = setting.partition("/")
        return namespace, name
    try:
        # Kubernetes names a container's host after its pod.
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip(), socket.gethostname()
    except OSError as error:
        raise InvalidInput(
            f"FINE_TUNE_DEPLOYMENT is kubernetes, but this process is in no pod ({NAMESPACE_FILE}: {error.strerror}). "
            "Set it to local to start the nodes of the training on this machine."
        ) from error


def _outcome(job: Object | None) -> str | None:
    """succeeded, failed, or None while it runs; a Job that somebody deleted has failed."""
    if job is None:
        return "failed"
    kinds = {item["type"] for item in (job.get("status") or {}).get("conditions") or [] if item.get("status") == "True"}
    if kinds & {"Complete", "Succeeded"}:
        return "succeeded"
    return "failed" if kinds & {"Failed", "FailureTarget"} else None


def _why(job: Object | None, kind: str) -> str:
    if job is None:
        return f"somebody deleted its {kind}"
    conditions = (job.get("status") or {}).get("conditions") or []
    failed = [item for item in conditions if item["type"] in ("Failed", "FailureTarget")]
    said = f" ({failed[0].get('reason', '')}: {failed[0].get('message', '')})" if failed else ""
    return f"a pod was taken away and said nothing{said}"
