"""The Job controller, with real pods below it."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

from tests.cluster.client import Client
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import job
from tests.cluster.jobs import JobController
from tests.cluster.kinds import JOBS, PODS, Kind
from tests.cluster.objects import Object, dig, find_condition, is_true, merge_patch, name_of, namespace_of

IGNORE_DISRUPTION = {
    "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
}
WAIT = "trap 'exit 3' TERM; echo started; while true; do sleep 0.05; done"


def the_job(cluster: Cluster) -> Object:
    return cluster.jobs()[0]


def wait_for_condition(cluster: Cluster, kind: str) -> Object:
    """The Job's condition of this kind, once it is true."""
    cluster.wait_for(lambda: is_true(the_job(cluster), kind), f"the Job to be {kind}")
    found = find_condition(the_job(cluster), kind)
    assert found is not None
    return found


def wait_for_running_pod(cluster: Cluster, other_than: str = "") -> str:
    def look() -> str | None:
        running = [pod for pod in cluster.pods() if dig(pod, "status.phase") == "Running"]
        names = [pod["metadata"]["name"] for pod in running if pod["metadata"]["name"] != other_than]
        return names[0] if names else None

    return cluster.wait_for(look, "a running pod")


def test_a_job_completes_when_its_pod_succeeds(cluster: Cluster) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, job("hello", "echo hello"))

    done = wait_for_condition(cluster, "Complete")

    status = the_job(cluster)["status"]
    assert done["reason"] == "CompletionsReached"
    assert (status["succeeded"], status.get("failed"), status.get("active")) == (1, None, None)
    assert status["completionTime"]
    assert cluster.log(cluster.pods()[0]["metadata"]["name"]) == "hello\n"


def test_a_job_fails_at_its_backoff_limit(cluster: Cluster) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, job("doomed", "exit 7", backoffLimit=1))

    failed = wait_for_condition(cluster, "Failed")

    assert failed["reason"] == "BackoffLimitExceeded"
    assert failed["message"] == "Job has reached the specified backoff limit"
    assert the_job(cluster)["status"]["failed"] == 2
    codes = [dig(pod, "status.containerStatuses")[0]["state"]["terminated"]["exitCode"] for pod in cluster.pods()]
    assert codes == [7, 7]
    cluster.wait_for(lambda: cluster.events("BackoffLimitExceeded"), "the event, which is written last")
    assert [event["type"] for event in cluster.events("BackoffLimitExceeded")] == ["Warning"]


def test_an_indexed_job_runs_each_index_once_and_tells_each_pod_its_own(cluster: Cluster) -> None:
    cluster.add_node("node-a")
    script = "echo $JOB_COMPLETION_INDEX on $HOSTNAME"
    cluster.create(JOBS, job("world", script, completionMode="Indexed", completions=3, parallelism=3))

    wait_for_condition(cluster, "Complete")

    logs = sorted(cluster.log(pod["metadata"]["name"]) for pod in cluster.pods())
    assert logs == ["0 on world-0\n", "1 on world-1\n", "2 on world-2\n"]
    assert the_job(cluster)["status"]["completedIndexes"] == "0-2"


def test_a_failed_index_is_tried_again_and_the_others_are_not(cluster: Cluster) -> None:
    cluster.add_node("node-a")
    script = f"[ $JOB_COMPLETION_INDEX = 0 ] || mkdir {cluster.root}/second"
    cluster.root.joinpath("second").mkdir()
    cluster.create(JOBS, job("w", script, completionMode="Indexed", completions=2, parallelism=2, backoffLimit=30))
    cluster.wait_for(lambda: dig(the_job(cluster), "status.failed"), "a failure")

    cluster.root.joinpath("second").rmdir()
    wait_for_condition(cluster, "Complete")

    names = [pod["metadata"]["name"].rsplit("-", 1)[0] for pod in cluster.pods()]
    assert names.count("w-0") == 1
    assert names.count("w-1") >= 2


def test_a_deadline_ends_the_pods_and_fails_the_job(cluster: Cluster) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, job("slow", WAIT, activeDeadlineSeconds=1))

    failed = wait_for_condition(cluster, "Failed")

    assert (failed["reason"], failed["message"]) == (
        "DeadlineExceeded",
        "Job was active longer than specified deadline",
    )
    cluster.wait_for(lambda: not cluster.pods(), "the pods to be gone")


def test_a_disrupted_pod_is_replaced_without_counting_where_the_policy_says_so(cluster: Cluster) -> None:
    cluster.add_node("spot-1")
    cluster.create(JOBS, job("train", WAIT, podFailurePolicy=IGNORE_DISRUPTION))
    first = wait_for_running_pod(cluster)
    cluster.add_node("spot-2")

    cluster.reclaim_node("spot-1", grace_seconds=1)
    second = wait_for_running_pod(cluster, other_than=first)

    assert cluster.pod(second)["spec"]["nodeName"] == "spot-2"
    assert "failed" not in the_job(cluster)["status"]


def test_an_exit_code_that_the_policy_names_fails_the_job_at_once(cluster: Cluster) -> None:
    cluster.add_node("node-a")
    rule = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [64, 65]}}
    cluster.create(JOBS, job("wrong-input", "exit 65", backoffLimit=6, podFailurePolicy={"rules": [rule]}))

    failed = wait_for_condition(cluster, "Failed")

    pod = cluster.pods()[0]["metadata"]["name"]
    assert failed["reason"] == "PodFailurePolicy"
    assert failed["message"] == (
        f"Container main for pod default/{pod} failed with exit code 65 matching FailJob rule at index 0"
    )


def test_a_deleted_pod_counts_as_failed(cluster: Cluster) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, job("deleted", WAIT, backoffLimit=1))
    first = wait_for_running_pod(cluster)

    cluster.delete(PODS, cluster.pod(first))
    wait_for_running_pod(cluster, other_than=first)

    assert the_job(cluster)["status"]["failed"] == 1


def test_a_suspended_job_has_no_pods_until_it_is_resumed(cluster: Cluster) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, job("queued", "true", suspend=True))
    suspended = wait_for_condition(cluster, "Suspended")

    assert (suspended["reason"], cluster.pods()) == ("JobSuspended", [])

    cluster.patch(JOBS, the_job(cluster), {"spec": {"suspend": False}})
    wait_for_condition(cluster, "Complete")
    assert not is_true(the_job(cluster), "Suspended")


def test_suspending_a_running_job_ends_its_pods_and_counts_no_failure(cluster: Cluster) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, job("preempted", WAIT))
    wait_for_running_pod(cluster)

    cluster.patch(JOBS, the_job(cluster), {"spec": {"suspend": True}})
    wait_for_condition(cluster, "Suspended")
    cluster.wait_for(lambda: not cluster.pods(), "the pods to be gone")

    assert "failed" not in the_job(cluster)["status"]


def test_a_finished_job_goes_with_its_pods_when_its_time_is_up(cluster: Cluster) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, job("brief", "true", ttlSecondsAfterFinished=0))

    cluster.wait_for(lambda: cluster.events("Completed"), "the Job to complete")
    cluster.wait_for(lambda: not cluster.jobs() and not cluster.pods(), "everything to be gone")


def test_a_job_whose_service_account_is_missing_says_so_and_makes_no_pod(cluster: Cluster) -> None:
    cluster.create(JOBS, job("nobody", template={"serviceAccountName": "trainer"}))

    cluster.wait_for(lambda: cluster.events("FailedCreate"), "the event")

    message = cluster.events("FailedCreate")[0]["message"]
    assert message.endswith('error looking up service account default/trainer: serviceaccount "trainer" not found')
    assert cluster.pods() == []


def test_a_cluster_that_has_nothing_to_do_asks_for_nothing(cluster: Cluster) -> None:
    cluster.create(JOBS, job("pending", "true"))  # no node: it stays pending
    cluster.wait_for(lambda: cluster.events("FailedScheduling"), "the pod to be looked at")

    cluster.wait_for(lambda: _asked_within_a_second(cluster) == 0, "the cluster to come to rest")


def _asked_within_a_second(cluster: Cluster) -> int:
    assert cluster.server is not None
    before = len(cluster.server.requests)
    time.sleep(1)
    return len(cluster.server.requests) - before


class SlowWatch:
    """The Job controller's view of a cluster whose watches show things when the test says so, and its client."""

    def __init__(self, *jobs: Object) -> None:
        self.made: list[Object] = []
        self.events: list[str] = []
        self.shows_pods = False
        self.controller = JobController(cast(Client, self))
        self.controller._jobs = cast(Any, SimpleNamespace(items={("default", name_of(job)): job for job in jobs}))
        self.controller._pods = cast(Any, SimpleNamespace(items={}))

    def passes(self, number: int) -> None:
        for _ in range(number):
            asyncio.run(self.controller._reconcile())

    def show(self, old: Object | None, new: Object) -> None:
        self.controller._pods.items[namespace_of(new), name_of(new)] = new
        self.controller._notice(old, new)

    async def create(self, kind: Kind, namespace: str, body: Object) -> Object:
        self.made.append(merge_patch(body, {"metadata": {"uid": f"pod-{len(self.made)}"}}))
        return self.made[-1]

    async def patch_status(self, kind: Kind, thing: Object, status: Object) -> Object:
        if self.shows_pods:
            for pod in self.made:
                self.show(None, pod)
        revision = str(int(thing["metadata"]["resourceVersion"]) + 1)
        return cast(Object, merge_patch(thing, {"status": status, "metadata": {"resourceVersion": revision}}))

    async def event(self, about: Object, kind: str, reason: str, message: str, source: str) -> None:
        self.events.append(f"{name_of(about)} {reason}")


def stored(name: str) -> Object:
    """A Job as the API server keeps it."""
    body = job(name, completions=1, parallelism=1)
    body["metadata"] |= {"namespace": "default", "uid": f"uid-{name}", "resourceVersion": "1"}
    return {**body, "apiVersion": "batch/v1", "kind": "Job"}


def test_a_pod_that_the_watch_shows_in_the_middle_of_a_pass_is_not_made_again() -> None:
    other, one = stored("other"), stored("one")
    watch = SlowWatch(other, one)
    watch.passes(1)
    assert len(watch.made) == 2

    # The pass begins before the watch has shown a pod; while it writes the first Job's status, the watch shows both.
    other["metadata"]["resourceVersion"], other["status"] = "9", {}
    watch.shows_pods = True
    watch.passes(1)

    assert len(watch.made) == 2


def test_a_job_ends_once_while_the_watch_is_behind() -> None:
    watch = SlowWatch(stored("one"))
    watch.passes(1)
    [pod] = watch.made
    watch.show(None, pod)
    watch.show(pod, merge_patch(pod, {"status": {"phase": "Succeeded"}}))

    watch.passes(3)

    assert [event for event in watch.events if "Completed" in event] == ["one Completed"]
