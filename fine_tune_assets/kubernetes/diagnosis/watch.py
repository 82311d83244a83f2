"""How long a pod may wait, what to report meanwhile, and when it has failed: every timeout about pods.

One watch follows one Job of a step, or one node of a training. It receives states with their times and returns
verdicts; it sends no requests and has no clock of its own.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from fine_tune_assets.kubernetes.diagnosis.pod import Ended, Running, State, Waiting
from fine_tune_assets.kubernetes.pods.settings import Pods

REPEAT_SECONDS = 300.0
"""Time after which an unchanged reason to wait is reported again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Timeouts in seconds, and how often a machine may be taken away.

    The first three are the team's settings; pods/settings.py says what they mean.
    """

    pending_timeout_seconds: float
    max_disruptions: int
    check_interval_seconds: float
    stuck_seconds: float = 45.0
    """Timeout of a problem that rarely passes by itself; a secret may be a moment late, a registry may fail once."""
    settle_seconds: float = 20.0
    """How long to collect reports after a node's failure: the first pod that fails is not always the cause."""
    gone_seconds: float = 90.0
    """How long to wait until a failed training's pods are gone: they hold the machines that the next attempt needs."""


def team_limits(pods: Pods) -> Limits:
    """The limits that the team's settings define."""
    return Limits(pods.pending_timeout_seconds, pods.max_disruptions, pods.check_interval_seconds)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What should happen now; nothing, when all is well and nothing is new."""

    message: str | None = None
    """News for the event log."""
    failure: str | None = None
    """Why the step has failed."""
    retry: bool = True
    """Whether another try may help."""
    pod: str | None = None
    """The pod whose last lines of log belong to the failure."""


NO_ACTION = Verdict()


@dataclass(slots=True)
class Watch:
    """What one Job, or one node of a training, did so far."""

    limits: Limits
    _waits_since: float | None = None
    _stuck_since: float | None = None
    _refused_since: float | None = None
    _ended: bool = False
    _said: str = ""
    _said_at: float = 0.0
    _pods: set[str] = field(default_factory=set)

    def judge(self, state: State, pod_uids: Collection[str], now: float) -> Verdict:
        """The verdict on the state that was seen at `now`; call it once for each check."""
        self._refused_since = None
        self._pods.update(pod_uids)
        disruptions = len(self._pods) - 1  # only a disrupted pod is ever replaced
        if disruptions > self.limits.max_disruptions:
            limit = f"more than max_disruptions allows ({self.limits.max_disruptions})"
            return Verdict(failure=f"its pod was taken away {disruptions} times, {limit}", retry=False)
        if isinstance(state, Ended):
            return self._end(state)
        self._ended = False
        if isinstance(state, Running):
            self._waits_since = self._stuck_since = None
            return self.news(_where(state, disruptions), now)
        return self._wait(state, now)

    def _end(self, state: Ended) -> Verdict:
        # The step's report may have reached the event log after Dagster last read it. By the next check it has been
        # read, and a finished step is not checked again.
        if not self._ended:
            self._ended = True
            return NO_ACTION
        return Verdict(failure=state.why, retry=state.retry, pod=state.pod)

    def _wait(self, state: Waiting, now: float) -> Verdict:
        if state.held:
            self._waits_since = self._stuck_since = None
            return self.news(f"Waits: {state.why}.", now)
        if self._waits_since is None:
            self._waits_since = now
        if not state.stuck:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        waited, limit = now - self._waits_since, self.limits.pending_timeout_seconds
        if waited >= limit:
            failure = f"it did not run within {limit:g} seconds (pending_timeout_seconds): {state.why}"
            return Verdict(failure=failure, retry=state.lost)
        if self._stuck_since is not None and now - self._stuck_since >= self.limits.stuck_seconds:
            return Verdict(failure=state.why, retry=False)
        return self.news(f"Waits: {state.why}.", now)

    def unseen(self, why: str, now: float, *, refused: bool) -> Verdict:
        """The verdict when no state could be read at `now`; the step may be running well.

        A refusal means a missing permission, or an authorizer that fails for a moment; only a missing permission lasts.
        """
        if not refused:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        elif now - self._refused_since >= self.limits.stuck_seconds:
            return Verdict(failure=why, retry=False)
        return self.news(f"Waits to see its pod: {why}", now)

    def news(self, text: str, now: float) -> Verdict:
        """A verdict with this message, unless it was reported already."""
        repeats = text.startswith("Waits") and now - self._said_at >= REPEAT_SECONDS
        if text == self._said and not repeats:
            return NO_ACTION
        self._said, self._said_at = text, now
        return Verdict(message=text)


def _where(state: Running, disruptions: int) -> str:
    if state.silent:
        return f"Node {state.node} has stopped reporting; {state.pod} may be lost with it."
    again = f", started again after disruption {disruptions}" if disruptions > 0 else ""
    return f"Runs: {state.pod} on node {state.node}{again}."
