"""The Job controller: pods for Jobs, and what a Job's status says when they end.

Plain and Indexed Jobs, backoffLimit, podFailurePolicy, activeDeadlineSeconds, suspend and ttlSecondsAfterFinished.
A real control plane has its own; this one is for the stand-in.
Not here: backoffLimitPerIndex, successPolicy, managedBy.
"""

import math
import time
from collections import defaultdict

from tests.cluster.client import Client
from tests.cluster.errors import ApiError, ignored
from tests.cluster.informer import Reconciler
from tests.cluster.job_outcome import Tally, Verdict, judge, restarts, with_indexes
from tests.cluster.job_pods import missing_indexes, new_pod
from tests.cluster.kinds import JOBS, PODS
from tests.cluster.objects import (
    Object,
    condition,
    dig,
    find_condition,
    is_true,
    name_of,
    namespace_of,
    now,
    seconds_since,
    uid_of,
    with_conditions,
)

SOURCE = "job-controller"


class JobController:
    """Keeps every Job at what its specification asks for."""

    def __init__(self, client: Client, backoff_seconds: float = 10.0) -> None:
        self._client, self._backoff = client, backoff_seconds
        self._tallies: dict[str, Tally] = {}
        self._owned: dict[str, dict[str, Object]] = defaultdict(dict)
        """A Job's pods as the watch shows them, by its UID and theirs."""

    async def run(self) -> None:
        self._jobs, self._pods = await self._client.informer(JOBS), await self._client.informer(PODS)
        self._pods.listen(self._notice)
        await Reconciler(self._reconcile, (self._jobs, self._pods)).run()

    def _notice(self, old: Object | None, new: Object | None) -> None:
        """Count a pod when it ends, and one that is gone before it ended: no later look would show it."""
        pod = new or old
        self._list(old, new)
        owner = next((r for r in dig(pod, "metadata.ownerReferences", []) if r["kind"] == "Job"), None)
        if pod is None or owner is None:
            return
        tally = self._tallies.setdefault(owner["uid"], Tally())
        tally.expected.pop(uid_of(pod), None)
        job = self._jobs.items.get((namespace_of(pod), owner["name"]))
        if job is None or uid_of(pod) in tally.verdicts:
            return
        if verdict := judge(job, pod, gone=new is None):
            tally.verdicts[uid_of(pod)] = verdict
            if verdict.outcome == "Failed":
                tally.last_failure = time.monotonic()

    async def _reconcile(self) -> float | None:
        for uid in self._tallies.keys() - {uid_of(job) for job in self._jobs.items.values()}:
            del self._tallies[uid]
        waits = [await self._sync(key) for key in list(self._jobs.items)]
        soonest = min((wait for wait in waits if wait is not None), default=math.inf)
        return None if soonest == math.inf else soonest

    def _list(self, old: Object | None, new: Object | None) -> None:
        for reference in dig(old, "metadata.ownerReferences", []):
            pods = self._owned.get(reference["uid"], {})
            pods.pop(uid_of(old or {}), None)
            if not pods:
                self._owned.pop(reference["uid"], None)
        for reference in dig(new, "metadata.ownerReferences", []):
            if new is not None and reference.get("controller"):
                self._owned[reference["uid"]][uid_of(new)] = new

    async def _sync(self, key: tuple[str, str]) -> float | None:
        # What the watch shows by now, not what it showed when the pass began: a pod that it has shown meanwhile is
        # expected no more, and would be made again.
        if (shown := self._jobs.items.get(key)) is None:
            return None
        tally = self._tallies.setdefault(uid_of(shown), Tally())
        if tally.rests_until > time.monotonic():
            return tally.rests_until - time.monotonic()
        job = _newest(shown, tally)
        with ignored(404, 409):  # the Job changed or went while it was looked at: its next change brings us back
            if find_condition(job, "Complete") or find_condition(job, "Failed"):
                return await self._expire(job, tally)
            pods = self._owned.get(uid_of(job), {}).values()
            active = [pod for pod in pods if uid_of(pod) not in tally.verdicts] + list(tally.expected.values())
            if dig(job, "spec.suspend"):
                await self._suspend(job, active, tally)
                return None
            return await self._advance(job, active, tally)
        return None

    async def _advance(self, job: Object, active: list[Object], tally: Tally) -> float | None:
        if not dig(job, "status.startTime"):
            job = await self._start(job, tally)
        if failure := self._failure(job, active, tally):
            await self._finish(job, active, tally, condition("Failed", "True", *failure))
            return None
        if _is_complete(job, active, tally):
            reached = condition("Complete", "True", "CompletionsReached", "Reached expected number of succeeded pods")
            await self._finish(job, active, tally, reached)
            return None
        delay = self._delay(tally)
        if delay <= 0:
            active = active + await self._create(job, active, tally)
        await self._report(job, active, tally)
        deadline = dig(job, "spec.activeDeadlineSeconds")
        waits = [delay] if delay > 0 else []
        waits += [deadline - seconds_since(job["status"]["startTime"]) + 0.1] if deadline else []
        return min(waits, default=None)

    def _delay(self, tally: Tally) -> float:
        """Seconds until the next pod may be made: twice as long after each failure, as the real one does."""
        if not tally.last_failure:
            return 0.0
        pause = min(self._backoff * 2.0 ** max(len(tally.failed()) - 1, 0), 600.0)
        return tally.last_failure + pause - time.monotonic()

    def _failure(self, job: Object, active: list[Object], tally: Tally) -> tuple[str, str] | None:
        """Reason and message, once the Job cannot succeed any more."""
        for verdict in tally.verdicts.values():
            if verdict.fails_job:
                return "PodFailurePolicy", verdict.fails_job
        limit, failed = dig(job, "spec.backoffLimit", 6), len(tally.failed())
        restarted = restarts(active) if dig(job, "spec.template.spec.restartPolicy") == "OnFailure" else 0
        if failed > limit or (restarted and restarted >= max(limit, 1)):
            return "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        deadline = dig(job, "spec.activeDeadlineSeconds")
        if deadline is not None and seconds_since(job["status"]["startTime"]) >= deadline:
            return "DeadlineExceeded", "Job was active longer than specified deadline"
        return None

    async def _start(self, job: Object, tally: Tally) -> Object:
        status: Object = {"startTime": now()}
        if is_true(job, "Suspended"):
            resumed = condition("Suspended", "False", "JobResumed", "Job resumed")
            status["conditions"] = with_conditions(job, resumed)
            await self._client.event(job, "Normal", "Resumed", "Job resumed", SOURCE)
        return await self._write(job, status, tally)

    async def _suspend(self, job: Object, active: list[Object], tally: Tally) -> None:
        for pod in active:
            tally.verdicts[uid_of(pod)] = Verdict("Ignored")
            await self._client.delete(PODS, pod)
        if is_true(job, "Suspended"):
            return
        suspended = condition("Suspended", "True", "JobSuspended", "Job suspended")
        status = {"conditions": with_conditions(job, suspended), "active": 0, "ready": 0, "startTime": None}
        await self._write(job, status, tally)
        await self._client.event(job, "Normal", "Suspended", "Job suspended", SOURCE)

    async def _finish(self, job: Object, active: list[Object], tally: Tally, outcome: Object) -> None:
        for pod in active:
            await self._client.delete(PODS, pod)
            tally.verdicts.setdefault(uid_of(pod), Verdict("Failed"))
        failed = outcome["type"] == "Failed"
        extra = {} if failed else {"completionTime": now()}
        sign = outcome | {"type": "FailureTarget" if failed else "SuccessCriteriaMet"}
        status = self._counts(job, [], tally) | extra | {"conditions": with_conditions(job, sign, outcome)}
        await self._write(job, status, tally)
        reason = outcome["reason"] if failed else "Completed"
        message = outcome["message"] if failed else "Job completed"
        await self._client.event(job, "Warning" if failed else "Normal", reason, message, SOURCE)

    async def _create(self, job: Object, active: list[Object], tally: Tally) -> list[Object]:
        made = []
        for index in missing_indexes(job, active, tally):
            try:
                pod = await self._client.create(PODS, namespace_of(job), new_pod(job, index))
            except ApiError as error:
                message = f"Error creating: {error.message}"
                await self._client.event(job, "Warning", "FailedCreate", message, SOURCE)
                tally.last_failure = time.monotonic()
                break
            if (namespace_of(pod), name_of(pod)) not in self._pods.items and uid_of(pod) not in tally.verdicts:
                tally.expected[uid_of(pod)] = pod
            made.append(pod)
            await self._client.event(job, "Normal", "SuccessfulCreate", f"Created pod: {name_of(pod)}", SOURCE)
        return made

    async def _report(self, job: Object, active: list[Object], tally: Tally) -> None:
        counts = self._counts(job, active, tally)
        if any(dig(job, f"status.{key}", 0) != (value or 0) for key, value in counts.items()):
            await self._write(job, counts, tally)

    async def _write(self, job: Object, status: Object, tally: Tally) -> Object:
        tally.written = await self._client.patch_status(JOBS, job, status)
        return tally.written

    def _counts(self, job: Object, active: list[Object], tally: Tally) -> Object:
        """As the real controller writes them: what is zero is left out, but for `ready`."""
        counts: Object = {
            "active": len(active) or None,
            "ready": sum(is_true(pod, "Ready") for pod in active),
            "failed": len(tally.failed()) or None,
            "succeeded": len(tally.succeeded()) or None,
        }
        if dig(job, "spec.completionMode") == "Indexed":
            counts["succeeded"] = len(tally.indexes()) or None
            counts["completedIndexes"] = with_indexes(tally.indexes()) or None
        return counts

    async def _expire(self, job: Object, tally: Tally) -> float:
        ttl = dig(job, "spec.ttlSecondsAfterFinished")
        if ttl is None:
            tally.rests_until = math.inf
            return tally.rests_until
        ended = [c["lastTransitionTime"] for c in job["status"]["conditions"] if c["type"] in ("Complete", "Failed")]
        left = float(ttl) - seconds_since(ended[0])
        if left <= 0:
            await self._client.delete(JOBS, job)
        wait = max(left, 0.0) + 0.1
        tally.rests_until = time.monotonic() + wait
        return wait


def _newest(shown: Object, tally: Tally) -> Object:
    """The Job as the watch shows it, or as it was written since: what was done is not done again."""
    revision = int(shown["metadata"]["resourceVersion"])
    written = tally.written
    return written if written and int(written["metadata"]["resourceVersion"]) > revision else shown


def _is_complete(job: Object, active: list[Object], tally: Tally) -> bool:
    completions: int | None = dig(job, "spec.completions")
    if completions is None:
        return bool(tally.succeeded()) and not active
    done = tally.indexes() if dig(job, "spec.completionMode") == "Indexed" else tally.succeeded()
    return len(done) >= completions
