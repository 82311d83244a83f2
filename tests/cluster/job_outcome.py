"""What the end of one pod means for its Job: success, a failure that counts, or one that does not."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from tests.cluster.objects import Object, dig, find_condition, name_of, namespace_of

INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one pod counts."""

    outcome: Literal["Succeeded", "Failed", "Ignored"]
    index: int = -1
    fails_job: str = ""
    """Why the whole Job fails at once, in the words of its condition; empty if it does not."""


@dataclass(slots=True)
class Tally:
    """What became of a Job's pods so far; pods leave the cluster, what they counted stays."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)
    """By the pod's UID."""
    expected: dict[str, Object] = field(default_factory=dict)
    """Pods that were made and that the watch has not shown yet."""
    written: Object | None = None
    """The Job as the controller last wrote it, which the watch may not have shown yet."""
    rests_until: float = 0.0
    """The Job has ended, and there is nothing to do for it before this moment of time.monotonic()."""
    last_failure: float = 0.0

    def succeeded(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts.values() if verdict.outcome == "Succeeded"]

    def failed(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts.values() if verdict.outcome == "Failed"]

    def indexes(self) -> set[int]:
        return {verdict.index for verdict in self.succeeded()}


def judge(job: Object, pod: Object, *, gone: bool) -> Verdict | None:
    """What a pod counts; None while it may still succeed.

    Without a podFailurePolicy a pod counts as failed as soon as it is told to end; with one, when it has ended.
    """
    index = int(dig(pod, "metadata.annotations", {}).get(INDEX, -1))
    phase, policy = dig(pod, "status.phase"), dig(job, "spec.podFailurePolicy")
    if phase == "Succeeded":
        return Verdict("Succeeded", index)
    if phase == "Failed":
        return _by_policy(job, pod, policy, index) if policy else Verdict("Failed", index)
    if gone:
        return _by_policy(job, pod, policy, index) if policy else Verdict("Failed", index)
    if pod["metadata"].get("deletionTimestamp") and not policy:
        return Verdict("Failed", index)
    return None


def _by_policy(job: Object, pod: Object, policy: Object, index: int) -> Verdict:
    """The first rule that matches decides."""
    for position, rule in enumerate(policy["rules"]):
        if not (matched := _match(rule, pod)):
            continue
        if rule["action"] == "FailJob":
            return Verdict("Failed", index, f"{matched} matching FailJob rule at index {position}")
        return Verdict("Ignored" if rule["action"] == "Ignore" else "Failed", index)
    return Verdict("Failed", index)


def _match(rule: Object, pod: Object) -> str:
    """What of the pod matches a rule, in words; empty if nothing does."""
    where = f"{namespace_of(pod)}/{name_of(pod)}"
    for pattern in rule.get("onPodConditions") or []:
        found = find_condition(pod, pattern["type"])
        if found and found["status"] == pattern.get("status", "True"):
            return f"Pod {where} has condition {pattern['type']}"
    codes = rule.get("onExitCodes") or {}
    for status in dig(pod, "status.containerStatuses", []) if codes else []:
        code = dig(status, "state.terminated.exitCode")
        if not code or codes.get("containerName", status["name"]) != status["name"]:
            continue
        if (code in codes["values"]) == (codes["operator"] == "In"):
            return f"Container {status['name']} for pod {where} failed with exit code {code}"
    return ""


def restarts(pods: Iterable[Object]) -> int:
    return sum(status["restartCount"] for pod in pods for status in dig(pod, "status.containerStatuses", []))


def with_indexes(indexes: Iterable[int]) -> str:
    """`{0, 1, 2, 5}` as `0-2,5`."""
    runs: list[list[int]] = []
    for index in sorted(indexes):
        if runs and runs[-1][-1] == index - 1:
            runs[-1] = [runs[-1][0], index]
        else:
            runs.append([index])
    return ",".join("-".join(map(str, run)) for run in runs)
