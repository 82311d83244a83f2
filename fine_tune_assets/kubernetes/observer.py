"""One run's step pods, looked at together: one list of pods for each look, however many steps run.

The Jobs are asked for only when a step has no running pod, events only when its objects say too little. Dagster is not
known here; who acts on a verdict belongs to step_handler.py.
"""

import time
from collections.abc import Callable

from fine_tune_assets.kubernetes.cluster import COMPONENT_LABEL, RUN_LABEL, Cluster, Snapshot, unfinished
from fine_tune_assets.kubernetes.diagnosis import State, Waiting, because, diagnose, job_of, running
from fine_tune_assets.kubernetes.requests import Object
from fine_tune_assets.kubernetes.watch import FINE, Patience, Verdict, Watch
from neuron_ops.errors import InvalidInput, Unavailable


class Observer:
    """Remembers each Job of a run, and says what should happen now."""

    def __init__(
        self,
        cluster: Cluster,
        run_id: str,
        patience: Patience,
        interval: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cluster = cluster
        self._selector = f"{RUN_LABEL}={run_id},{COMPONENT_LABEL}=step_worker"
        self._patience = patience
        self._interval = interval
        self._clock = clock
        self._watches: dict[str, Watch] = {}
        self._launched: dict[str, float] = {}
        self._snapshot: Snapshot | None = None

    def launched(self, job: str) -> None:
        """A Job was created just now; what an earlier one of its name did is forgotten."""
        self._watches.pop(job, None)
        self._launched[job] = self._clock()

    def verdict(self, job: str) -> Verdict:
        """The verdict on one Job; call it for each of the run's Jobs at each look."""
        watch = self._watches.setdefault(job, Watch(self._patience))
        try:
            snapshot = self._look()
            if self._launched.get(job, float("-inf")) >= snapshot.taken:
                return FINE
            pods = [pod for pod in snapshot.pods if job_of(pod) == job]
            state = self._state(snapshot, job, pods)
        except (InvalidInput, Unavailable) as error:
            return watch.unseen(str(error), self._clock(), refused=isinstance(error, InvalidInput))
        return watch.judge(state, [pod["metadata"]["uid"] for pod in pods], self._clock())

    def conclude(self, job: str, verdict: Verdict) -> str:
        """The whole story of a failed Job. What may still run of it is deleted: it might start beside the next try."""
        story = str(verdict.failure)
        try:
            if verdict.pod is not None and (lines := self.cluster.last_lines(verdict.pod)):
                story += f". The last lines of its log:\n{lines}"
            if self.has_unfinished(job):
                self.cluster.delete_job(job)
        except InvalidInput as error:
            story += f". {error}"  # a missing permission; the failure matters more
        return story

    def has_unfinished(self, job: str) -> bool:
        """Whether the Job is there and may still run a pod."""
        found = self.cluster.job(job)
        return found is not None and unfinished([found]) != []

    def delete_unfinished(self) -> list[str]:
        """Delete all of the run's Jobs that may still run a pod; their names."""
        return [name for name in unfinished(self.cluster.jobs(self._selector)) if self.cluster.delete_job(name)]

    def _look(self) -> Snapshot:
        now = self._clock()
        if self._snapshot is None or now - self._snapshot.taken >= self._interval / 2:
            self._snapshot = Snapshot(now, self.cluster.pods(self._selector))
        return self._snapshot

    def _state(self, snapshot: Snapshot, job: str, pods: list[Object]) -> State:
        if (runs := running(pods)) is not None:
            return runs
        if not snapshot.jobs:
            snapshot.jobs.update({item["metadata"]["name"]: item for item in self.cluster.jobs(self._selector)})
        state = diagnose(snapshot.jobs.get(job), pods)
        if isinstance(state, Waiting) and state.events_of is not None:
            return because(state, self.cluster.warnings(state.events_of))
        return state
