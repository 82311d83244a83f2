"""Runs a step on several nodes from the step's own pod: creates the nodes' pods, follows them, ends them together.

The step is a training, or the warm-up that makes the graphs of `compile`. The pods' manifests belong to manifests.py,
the meaning of their states to nodes.py. Restarting from the last checkpoint belongs to launching, which does the same
for pods and local processes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from fine_tune_assets.kubernetes.api.client import Client, until_answered
from fine_tune_assets.kubernetes.api.errors import Forbidden
from fine_tune_assets.kubernetes.api.kinds import Object
from fine_tune_assets.kubernetes.diagnosis.job import suspended
from fine_tune_assets.kubernetes.diagnosis.pod import Ended, State, Waiting, with_events
from fine_tune_assets.kubernetes.diagnosis.watch import Limits, Verdict, Watch
from fine_tune_assets.kubernetes.multi_node.logs import Logs
from fine_tune_assets.kubernetes.multi_node.manifests import Training, manifests
from fine_tune_assets.kubernetes.multi_node.nodes import (
    Failure,
    failure,
    first,
    job_end,
    job_outcome,
    named,
    node_number,
    phase,
    states,
)
from neuron_ops.errors import InvalidInput, OpsError, Unavailable
from neuron_ops.launch.outcome import ExitResult


@dataclass(frozen=True, slots=True)
class Seen:
    """A training's Job and pods, as they were at one moment."""

    job: Object | None
    pods: list[Object]


@dataclass(slots=True)
class PodTraining:
    """One attempt at a step. `report` takes news for the event log, `write` the lines of the pods' logs."""

    training: Training
    client: Client
    limits: Limits
    report: Callable[[str], None]
    write: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    """The clock for the limits, in seconds."""
    _first_pods: dict[int, Object] = field(default_factory=dict)
    """The pod of each node as it was when it was first seen."""
    _done: set[int] = field(default_factory=set)
    """Nodes whose pods have succeeded: one that only took part in a warm-up ends long before the first."""
    _watches: dict[str, Watch] = field(default_factory=dict)

    def run(self) -> ExitResult:
        """Run to the end; nothing of it stays in the cluster, however it ends."""
        logs = Logs(self.client, self.write)
        try:
            self._create()
            result = self._follow(logs)
            logs.drain()
        except BaseException:
            self._delete()
            raise
        self._delete()
        if result.status != 0:
            self._wait_until_gone()  # another attempt needs the same machines
        return result

    def _create(self) -> None:
        for manifest in manifests(self.training):
            until_answered(partial(self.client.create, manifest["kind"], manifest))
        self.report(f"{self._kind} {self.training.name} was created: {self._num_nodes} pods, one for each node")

    def _follow(self, logs: Logs) -> ExitResult:
        while True:
            result = self._check(logs)
            if result is not None:
                return result
            time.sleep(self.limits.check_interval_seconds)

    def _check(self, logs: Logs) -> ExitResult | None:
        """Check once; return the result if the training has ended."""
        try:
            seen = self._observe()
            logs.follow(seen.pods)
            outcome = job_outcome(seen.job)
            self._remember(seen)
            # The pods count too: an operator that was restarted may update the Job's status late.
            if outcome == "succeeded" or len(self._done) == self._num_nodes:
                return ExitResult(0)
            if seen.job is None or outcome == "failed" or self._gone(seen) or self._failures(seen):
                return self._explain(logs, self._gone(seen))
            waits = states(seen.job, seen.pods, self._num_nodes, self._done)
            found = [(key, self._with_events(state)) for key, state in waits]
        except (InvalidInput, Unavailable) as error:
            watch = self._watch("api")
            return self._act(watch.unseen(str(error), self.clock(), refused=isinstance(error, InvalidInput)))
        self._watches.pop("api", None)
        for key, state in found:
            result = self._act(self._watch(key).judge(state, (), self.clock()))
            if result is not None:
                return result
        return None

    def _with_events(self, state: State) -> State:
        if not isinstance(state, Waiting) or state.events_of is None:
            return state
        try:
            return with_events(state, self.client.warnings(state.events_of))
        except Forbidden:
            return state  # a Role of an earlier release lacks the verb; a training can go on without it

    def _watch(self, key: str) -> Watch:
        return self._watches.setdefault(key, Watch(self.limits))

    def _act(self, verdict: Verdict) -> ExitResult | None:
        if verdict.message:
            self.report(verdict.message)
        if verdict.failure is None:
            return None
        if verdict.retry:
            return ExitResult(1, reason=verdict.failure)
        return ExitResult(1, InvalidInput(verdict.failure))

    def _remember(self, seen: Seen) -> None:
        self._first_pods = {**{node_number(pod): pod for pod in seen.pods}, **self._first_pods}
        done = {node_number(pod) for pod in seen.pods if phase(pod) == "Succeeded"} - self._done
        for node in sorted(done):
            self.report(f"node {node} has done its part")
        self._done |= done

    def _gone(self, seen: Seen) -> list[Object]:
        """Pods that were seen before and are gone or replaced: their memory is lost, so no node can go on."""
        found = {node_number(pod): pod for pod in seen.pods}
        return [
            pod
            for node, pod in self._first_pods.items()
            if node not in self._done
            and (node not in found or found[node]["metadata"]["uid"] != pod["metadata"]["uid"])
        ]

    def _failures(self, seen: Seen) -> list[Failure]:
        return [found for pod in seen.pods if (found := failure(pod, self._num_nodes)) is not None]

    def _explain(self, logs: Logs, gone: list[Object]) -> ExitResult:
        """The failure that caused the others, once no more reports are expected; `gone` as when it was noticed."""
        failures: dict[int, Failure] = {}
        deadline = self.clock() + self.limits.settle_seconds
        while True:
            seen = until_answered(self._observe)
            logs.follow(seen.pods)
            for found in self._failures(seen):
                failures.setdefault(found.node, found)
            told = any(item.is_cause for item in failures.values())
            alive = [p for p in seen.pods if phase(p) == "Running" and not p["metadata"].get("deletionTimestamp")]
            if told or not alive or self.clock() > deadline:
                break
            time.sleep(min(1.0, self.limits.check_interval_seconds))
        end = self._cause(seen.job, gone, list(failures.values()))
        return ExitResult(1, end.error, end.why, end.disrupted)

    def _cause(self, job: Object | None, gone: list[Object], failures: list[Failure]) -> Ended:
        if job is not None and suspended(job) is not None:
            return job_end(job, self._kind)
        earliest = first(failures).ended if failures else None
        if earliest is not None and not earliest.deleted:
            return earliest
        # The Job's controller may have deleted these pods because of another pod that is gone already.
        end = job_end(job, self._kind)
        if end.disrupted or job is None:
            return end
        if gone:
            return Ended(f"{named(gone[0], self._num_nodes)} was deleted", deleted=True)
        return earliest or end

    def _observe(self) -> Seen:
        job = self.client.find(self._kind, self.training.name)
        return Seen(job, self._pods())

    def _pods(self) -> list[Object]:
        return self.client.find_all("Pod", labels=self.training.selector)

    def _delete(self) -> None:
        for manifest in manifests(self.training):
            try:
                self.client.delete(manifest["kind"], manifest["metadata"]["name"])
            except OpsError as error:
                self.report(f"{error} It is deleted with the pod of this step.")

    def _wait_until_gone(self) -> None:
        deadline = self.clock() + self.limits.gone_seconds
        while self.clock() < deadline and until_answered(self._pods):
            time.sleep(min(1.0, self.limits.check_interval_seconds))

    @property
    def _kind(self) -> str:
        return str(manifests(self.training)[-1]["kind"])

    @property
    def _num_nodes(self) -> int:
        return self.training.hardware.nodes
