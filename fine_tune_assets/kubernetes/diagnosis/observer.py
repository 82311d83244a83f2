"""Watches all step pods of one run: one list request for each check, however many steps run.

Jobs are requested only when a step has no running pod, events only when the objects' status says too little. This
module does not use Dagster; acting on a verdict belongs to executor/step_handler.py.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from fine_tune_assets.kubernetes.api.client import Client, until_answered
from fine_tune_assets.kubernetes.api.kinds import Object
from fine_tune_assets.kubernetes.api.labels import COMPONENT_LABEL, RUN_LABEL
from fine_tune_assets.kubernetes.diagnosis.job import diagnose, job_of, running_pod, unfinished
from fine_tune_assets.kubernetes.diagnosis.pod import State, Waiting, with_events, with_last_lines
from fine_tune_assets.kubernetes.diagnosis.watch import NO_ACTION, Limits, Verdict, Watch
from neuron_ops.errors import InvalidInput, OpsError, Unavailable


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run's step pods, and its Jobs once they are needed, as they were at one moment."""

    taken: float
    """On the observer's clock, before the request."""
    pods: list[Object]
    jobs: dict[str, Object] = field(default_factory=dict)


class Observer:
    """Remembers each Job of a run, and says what should happen to it now."""

    def __init__(
        self,
        client: Client,
        run_id: str,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self._selector = f"{RUN_LABEL}={run_id},{COMPONENT_LABEL}=step_worker"
        self._limits = limits
        self._clock = clock
        self._watches: dict[str, Watch] = {}
        self._launched: dict[str, float] = {}
        self._snapshot: Snapshot | None = None

    def launched(self, job: str) -> None:
        """Note that a Job was created now, and forget an earlier Job of the same name."""
        self._watches.pop(job, None)
        self._launched[job] = self._clock()

    def verdict(self, job: str) -> Verdict:
        """The verdict on one Job; call it for each of the run's Jobs at each check."""
        watch = self._watches.setdefault(job, Watch(self._limits))
        try:
            snapshot = self._current_snapshot()
            if self._launched.get(job, float("-inf")) >= snapshot.taken:
                return NO_ACTION
            pods = [pod for pod in snapshot.pods if job_of(pod) == job]
            state = self._state(snapshot, job, pods)
        except (InvalidInput, Unavailable) as error:
            return watch.unseen(str(error), self._clock(), refused=isinstance(error, InvalidInput))
        return watch.judge(state, [pod["metadata"]["uid"] for pod in pods], self._clock())

    def conclude(self, job: str, verdict: Verdict) -> str:
        """The full description of a failed Job, which is deleted if it may still run a pod beside the next try."""
        story = str(verdict.failure)
        try:
            if verdict.pod is not None and (lines := until_answered(partial(self.client.last_lines, verdict.pod))):
                story = with_last_lines(story, lines)
            if until_answered(partial(self.has_unfinished, job)):
                until_answered(partial(self.client.delete, "Job", job))
        except OpsError as error:
            story += f". {error}"  # a missing permission, or no answer for minutes; the failure matters more
        return story

    def has_unfinished(self, job: str) -> bool:
        """Whether the Job exists and may still run a pod."""
        found = self.client.find("Job", job)
        return found is not None and unfinished([found]) != []

    def delete_unfinished(self) -> list[str]:
        """Delete all of the run's Jobs that may still run a pod, and return their names."""
        jobs = self.client.find_all("Job", labels=self._selector)
        return [name for name in unfinished(jobs) if self.client.delete("Job", name)]

    def _current_snapshot(self) -> Snapshot:
        now = self._clock()
        if self._snapshot is None or now - self._snapshot.taken >= self._limits.check_interval_seconds / 2:
            self._snapshot = Snapshot(now, self.client.find_all("Pod", labels=self._selector))
        return self._snapshot

    def _state(self, snapshot: Snapshot, job: str, pods: list[Object]) -> State:
        if (runs := running_pod(pods)) is not None:
            return runs
        if not snapshot.jobs:
            jobs = self.client.find_all("Job", labels=self._selector)
            snapshot.jobs.update({item["metadata"]["name"]: item for item in jobs})
        state = diagnose(snapshot.jobs.get(job), pods)
        if isinstance(state, Waiting) and state.events_of is not None:
            return with_events(state, self.client.warnings(state.events_of))
        return state
