"""Which pod of a training failed and why, read from the JSON that the API shows."""

from typing import Any

import pytest

from fine_tune_assets.kubernetes.diagnosis.job import diagnose
from fine_tune_assets.kubernetes.diagnosis.pod import Running, Waiting
from fine_tune_assets.kubernetes.multi_node.nodes import Failure, failure, first, job_end, states
from neuron_ops.errors import Unavailable
from tests.fine_tune_assets.kubernetes import objects
from tests.fine_tune_assets.kubernetes.objects import FAILED_JOB, PREEMPTED, condition, ended, job, pod, waits

Object = dict[str, Any]
UNSCHEDULABLE = condition("PodScheduled", "Unschedulable", "0/3 nodes are available.", "False")


def node(number: int, *args: Any, **more: Any) -> Object:
    """The pod of a node."""
    made = pod(*args, name=f"train-{number}-x1", **more)
    made["metadata"]["labels"] = {"batch.kubernetes.io/job-completion-index": str(number)}
    return made


def exited(number: int, code: int, *, deleted: bool = False, reason: str = "Error", message: str = "") -> Failure:
    """How a node failed whose program has ended."""
    state = ended(code, reason, message=message, finishedAt="2026-11-23T04:00:01Z")
    found = failure(node(number, "Failed", state=state, deleted=deleted), 2)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "status",
    [
        {"state": ended(137, "OOMKilled")},
        {"state": ended(3)},
        {"state": ended(3, message="no space left")},
        {"state": ended(137)},
        {"state": ended(143), "deleted": True},
        {"conditions": (PREEMPTED,)},
        {"reason": "Evicted", "message": "Pod ephemeral local storage usage exceeds the total limit of 1Gi."},
        {"reason": "UnexpectedAdmissionError", "message": "Allocate failed"},
    ],
    ids=lambda status: " ".join(map(str, status)),
)
def test_the_same_end_is_the_same_sentence_for_a_node_as_for_a_step(status: Object) -> None:
    as_node = failure(node(1, "Failed", **status), 4)
    as_step = diagnose(FAILED_JOB, [pod("Failed", name="train-1-x1", **status)])

    assert as_node is not None
    assert as_node.ended.why == as_step.why.replace("pod train-1-x1", "node 1 of 4 (pod train-1-x1)")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "status",
    [
        {"conditions": (UNSCHEDULABLE,)},
        {"state": waits("ImagePullBackOff", "slim:9: not found")},
        {"state": waits("CreateContainerConfigError", 'secret "hf" not found')},
        {"state": waits("ContainerCreating")},
    ],
    ids=["unschedulable", "image", "secret", "starting"],
)
def test_the_same_wait_is_the_same_sentence_for_a_node_as_for_a_step(status: Object) -> None:
    [(_, as_node)] = states(job(active=1), [node(1, "Pending", **status)], 4, done={0, 2, 3})
    as_step = diagnose(job(active=1), [pod("Pending", name="train-1-x1", **status)])

    assert isinstance(as_node, Waiting)
    assert isinstance(as_step, Waiting)
    assert as_node.why == as_step.why.replace("pod train-1-x1", "node 1 of 4 (pod train-1-x1)")
    assert as_node.stuck is as_step.stuck


def test_a_suspended_job_is_one_wait_for_all_its_nodes() -> None:
    suspended = job()
    suspended["spec"]["suspend"] = True

    assert list(states(suspended, [], 4, done=())) == [("job", Waiting("its Job is suspended", held=True))]


def test_pods_that_are_not_there_yet_are_counted() -> None:
    found = dict(states(job(active=1), [node(0, state={"running": {}})], 4, done=()))

    assert found == {
        "job": Waiting("its Job has no pod yet for 3 of 4 nodes", events_of="job-1"),
        "node 0": Running("node 0 of 4 (pod train-0-x1)", "node-a"),
    }


def test_what_a_program_reports_is_the_error_of_the_training() -> None:
    found = exited(1, 5, message='{"exit_code": 5, "message": "no answer"}').ended

    assert (type(found.error), str(found.error)) == (Unavailable, "no answer")
    assert found.why == "node 1 of 2 (pod train-1-x1) reported: no answer"


def test_a_pod_that_failed_and_was_then_deleted_keeps_its_reason() -> None:
    assert "ended with exit code 3" in exited(1, 3, deleted=True).ended.why
    assert "more memory than its limit of 8Gi" in exited(1, 137, deleted=True, reason="OOMKilled").ended.why


def test_a_pod_that_has_done_its_work_did_not_fail_when_its_machine_is_taken_away() -> None:
    taken_away = condition("DisruptionTarget", "DeletionByTaintManager")

    assert failure(node(1, "Succeeded", state=ended(0, "Completed"), conditions=(taken_away,)), 2) is None


def test_a_pod_that_runs_did_not_fail() -> None:
    assert failure(objects.RUNNING, 2) is None


def test_the_cause_is_what_explains_itself_before_what_follows_from_it() -> None:
    reported = exited(0, 5, message='{"exit_code": 5, "message": "no answer"}')
    starved, killed, crashed = exited(1, 137, reason="OOMKilled"), exited(1, 137), exited(0, 1)
    deleted = exited(0, 143, deleted=True)

    assert first([deleted, crashed, starved, reported]) is reported
    assert first([deleted, crashed, starved]) is starved
    assert first([deleted, crashed, killed]) is killed
    assert first([deleted, crashed]) is crashed


def test_a_pod_that_is_gone_before_it_was_seen_is_explained_by_the_job() -> None:
    said = "Pod default/train-1-x1 has condition DisruptionTarget matching FailJob rule at index 0"
    disrupted = job_end(job(conditions=[condition("FailureTarget", "PodFailurePolicy", said)]), "Job")

    assert (disrupted.why, disrupted.disrupted) == (f"its pod is gone: {said}", True)
    assert job_end(None, "Job").why == "its Job is gone"


def test_a_training_that_a_queue_stops_was_disrupted() -> None:
    stopped = job()
    stopped["spec"]["suspend"] = True
    stopped["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "trainium"}

    end = job_end(stopped, "Job")

    assert end.why == "its Job is suspended, waiting in queue trainium; its pods were taken away"
    assert end.disrupted
