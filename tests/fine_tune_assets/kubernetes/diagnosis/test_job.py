"""What a Job and its pods say about a step, in a sentence that names the thing and the reason."""

from typing import Any

import pytest

from fine_tune_assets.kubernetes.diagnosis.job import diagnose
from fine_tune_assets.kubernetes.diagnosis.pod import Ended, Running, Waiting, with_events
from tests.fine_tune_assets.kubernetes.objects import (
    COMPLETE_JOB,
    FAILED_JOB,
    PREEMPTED,
    RUNNING,
    condition,
    ended,
    job,
    pod,
    waits,
)

UNSCHEDULABLE = "0/3 nodes are available: 1 Insufficient aws.amazon.com/neuron, 2 node(s) had untolerated taint."
PULL = 'Back-off pulling image "slim:9": ErrImagePull: rpc error: code = NotFound desc = slim:9: not found'


def test_a_running_container_is_all_that_has_to_be_known() -> None:
    assert diagnose(None, [RUNNING]) == Running("pod train-x1", "node-a")


def test_a_running_pod_is_found_beside_the_one_that_it_replaced() -> None:
    gone = pod("Failed", state=ended(143), conditions=(PREEMPTED,), name="train-x0")

    assert diagnose(job(active=1), [gone, RUNNING]) == Running("pod train-x1", "node-a")


def test_a_node_that_stopped_reporting_is_noticed_before_kubernetes_gives_it_up() -> None:
    silent = pod(state={"running": {}}, conditions=(condition("Ready", status="False"), condition("ContainersReady")))

    assert diagnose(job(active=1), [silent]) == Running("pod train-x1", "node-a", silent=True)


@pytest.mark.parametrize(
    ("pods", "why", "stuck"),
    [
        ([], "its Job has no pod yet", False),
        (
            [pod("Pending", conditions=(condition("PodScheduled", "Unschedulable", UNSCHEDULABLE, "False"),))],
            f"pod train-x1 cannot be scheduled: {UNSCHEDULABLE}",
            False,
        ),
        (
            [pod("Pending", state=waits("ImagePullBackOff", PULL))],
            f"pod train-x1 cannot start: ImagePullBackOff of container dagster (image slim:1): {PULL}",
            True,
        ),
        (
            [pod("Pending", state=waits("ErrImagePull", "429 Too Many Requests"))],
            "pod train-x1 cannot start: ErrImagePull of container dagster (image slim:1): 429 Too Many Requests",
            False,
        ),
        (
            [pod("Pending", state=waits("CreateContainerConfigError", 'secret "hf" not found'))],
            "pod train-x1 cannot start: CreateContainerConfigError of container dagster (image slim:1): "
            'secret "hf" not found',
            True,
        ),
        (
            [pod("Running", state=waits("CrashLoopBackOff", "back-off 10s restarting failed container"))],
            "pod train-x1 cannot start: CrashLoopBackOff of container dagster (image slim:1): "
            "back-off 10s restarting failed container",
            True,
        ),
        ([pod("Pending", state=waits("ContainerCreating"))], "pod train-x1 is starting on node node-a", False),
        (
            [pod("Running", state={"running": {}}, conditions=(PREEMPTED,), deleted=True)],
            "pod train-x1 is being ended (PreemptionByScheduler: preempted by a pod of higher priority)",
            False,
        ),
        (
            [pod("Failed", state=ended(143), conditions=(PREEMPTED,))],
            "pod train-x1 was taken from node node-a (PreemptionByScheduler: preempted by a pod of higher priority)",
            False,
        ),
    ],
)
def test_a_pod_that_does_not_run_yet_says_why(pods: list[dict[str, Any]], why: str, stuck: bool) -> None:
    state = diagnose(job(active=1), pods)

    assert isinstance(state, Waiting)
    assert (state.why, state.stuck, state.held) == (why, stuck, False)


def test_a_job_that_a_queue_holds_back_is_not_pending() -> None:
    suspended = job()
    suspended["spec"]["suspend"] = True
    suspended["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "trainium"}

    assert diagnose(suspended, []) == Waiting("its Job is suspended, waiting in queue trainium", held=True)


def test_a_pod_behind_a_scheduling_gate_is_not_pending() -> None:
    gated = pod("Pending")
    gated["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}]

    assert diagnose(job(active=1), [gated]) == Waiting(
        "pod train-x1 is held back by kueue.x-k8s.io/admission", held=True
    )


@pytest.mark.parametrize(
    ("warning", "stuck"),
    [
        ('FailedCreate: Error creating: pods "x" is forbidden: serviceaccount "steps" not found', True),
        ('FailedCreate: Error creating: pods "x" is forbidden: exceeded quota: gpus', False),
        ('FailedMount: MountVolume.SetUp failed for volume "hf": secret "hf" not found', False),
    ],
)
def test_the_newest_warning_completes_what_the_status_leaves_out(warning: str, stuck: bool) -> None:
    assert with_events(Waiting("no pod yet"), ["Old: news", warning]) == Waiting(f"no pod yet: {warning}", stuck=stuck)
    assert with_events(Waiting("no pod yet"), []) == Waiting("no pod yet")


@pytest.mark.parametrize(
    ("found", "pods", "why"),
    [
        (
            FAILED_JOB,
            [pod("Failed", state=ended(137, "OOMKilled"))],
            "pod train-x1 used more memory than its limit of 8Gi (OOMKilled)",
        ),
        (
            FAILED_JOB,
            [pod("Failed", conditions=(condition("DisruptionTarget", "DeletionByTaintManager", "node is down"),))],
            "pod train-x1 was taken from node node-a (DeletionByTaintManager: node is down)",
        ),
        (
            FAILED_JOB,
            [pod("Failed", state=ended(3, message="no such file\n"))],
            "pod train-x1 ended with exit code 3 in container dagster (image slim:1). "
            "The last lines of its log:\nno such file",
        ),
        (
            FAILED_JOB,
            [pod("Failed", reason="UnexpectedAdmissionError", message="Allocate failed for aws.amazon.com/neuron")],
            "pod train-x1 failed (UnexpectedAdmissionError: Allocate failed for aws.amazon.com/neuron)",
        ),
        (FAILED_JOB, [pod("Failed", state=ended(143), deleted=True)], "pod train-x1 was deleted"),
        (
            FAILED_JOB,
            [pod("Failed", state=ended(137))],
            "pod train-x1 ended with exit code 137 (SIGKILL) in container dagster (image slim:1)",
        ),
        (FAILED_JOB, [], "its pod is gone: Job has reached the limit"),
        (
            COMPLETE_JOB,
            [pod("Succeeded", state=ended(0, "Completed"))],
            "its pod ended with exit code 0 but reported no result",
        ),
        (None, [], "its Job is gone"),
        (
            job(active=1),
            [
                pod(
                    "Failed",
                    reason="Evicted",
                    message="Pod ephemeral local storage usage exceeds the total limit of 1Gi.",
                )
            ],
            "pod train-x1 was evicted from node node-a: Pod ephemeral local storage usage exceeds the total limit of "
            "1Gi",
        ),
    ],
)
def test_an_end_is_named_and_may_be_tried_again(
    found: dict[str, Any] | None, pods: list[dict[str, Any]], why: str
) -> None:
    state = diagnose(found, pods)

    assert isinstance(state, Ended)
    assert (state.why, state.retry) == (why, True)


def test_a_deadline_is_not_tried_again() -> None:
    late = job(failed=1, conditions=[condition("Failed", "DeadlineExceeded", "Job was active longer")])

    assert diagnose(late, []) == Ended(
        "it was not done within its deadline of 600 seconds (deadline_minutes)", retry=False
    )


def test_an_end_that_the_log_may_explain_names_the_pod() -> None:
    state = diagnose(FAILED_JOB, [pod("Failed", state=ended(1))])

    assert isinstance(state, Ended)
    assert state.pod == "train-x1"


def test_an_eviction_for_the_nodes_sake_is_a_disruption() -> None:
    message = "The node was low on resource: memory. Container dagster was using 7Gi, request is 2Gi."
    evicted = pod(
        "Failed",
        conditions=(condition("DisruptionTarget", "TerminationByKubelet"),),
        reason="Evicted",
        message=message,
    )

    state = diagnose(job(active=1), [evicted])

    assert isinstance(state, Waiting)
    assert f"TerminationByKubelet: {message}" in state.why
