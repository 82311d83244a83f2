"""What pods say about themselves, read from the JSON that the API shows."""

from typing import Any

from fine_tune_assets.kubernetes.multi_node.pods import failure, first

Object = dict[str, Any]


def ended(node: int, exit_code: int, *, deleted: bool = False, reason: str = "Error") -> Object:
    """The pod of a node whose program has ended."""
    gone = {"deletionTimestamp": "2026-11-23T04:00:00Z"} if deleted else {}
    terminated = {"exitCode": exit_code, "reason": reason, "finishedAt": "2026-11-23T04:00:01Z"}
    return {
        "metadata": {
            "name": f"train-{node}",
            "labels": {"batch.kubernetes.io/job-completion-index": str(node)},
            **gone,
        },
        "spec": {"nodeName": f"trn1-{node}", "containers": [{"resources": {"limits": {"memory": "8Gi"}}}]},
        "status": {"phase": "Failed", "containerStatuses": [{"state": {"terminated": terminated}}]},
    }


def test_a_pod_that_was_deleted_did_not_fail_by_itself() -> None:
    assert failure(ended(0, 143, deleted=True)) is None
    assert failure(ended(0, 137, deleted=True)) is None


def test_a_pod_that_failed_and_was_then_deleted_keeps_its_reason() -> None:
    crashed, starved = failure(ended(1, 3, deleted=True)), failure(ended(1, 137, deleted=True, reason="OOMKilled"))

    assert crashed is not None
    assert "ended with exit status 3" in crashed.why
    assert starved is not None
    assert "more memory than its limit of 8Gi" in starved.why


def test_a_pod_that_has_done_its_work_did_not_fail_when_its_machine_is_taken_away() -> None:
    done = ended(1, 0, reason="Completed")
    taken_away = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "…"}
    done["status"] = {**done["status"], "phase": "Succeeded", "conditions": [taken_away]}

    assert failure(done) is None


def test_what_happened_to_a_pod_comes_before_programs_that_ended_because_of_it() -> None:
    other, killed = failure(ended(0, 1)), failure(ended(1, 137))

    assert other is not None
    assert killed is not None
    assert first([other, killed]) is killed
