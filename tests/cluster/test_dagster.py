"""Unmodified dagster-k8s on the cluster: runs and steps in pods, and what its users meet when something goes wrong."""

from pathlib import Path

import pytest
from dagster import DagsterEventType, DagsterRunStatus

from tests.cluster.deployment import Deployment, stop
from tests.cluster.objects import Object, dig, find_condition, is_true

pytestmark = pytest.mark.cluster


def test_a_launched_run_has_a_pod_and_each_of_its_steps_another(deployment: Deployment) -> None:
    cluster = deployment.cluster
    cluster.add_node("cpu-1")
    cluster.add_node("trn1-1", {"aws.amazon.com/neuron": "16"})

    run_id = deployment.launch("chain")
    run = deployment.wait_for_end(run_id)

    assert run.status == DagsterRunStatus.SUCCESS
    cluster.wait_for(lambda: all(dig(pod, "status.phase") == "Succeeded" for pod in cluster.pods()), "the pods to end")
    pods = {pod["metadata"]["labels"].get("dagster/op", "the run"): pod for pod in cluster.pods()}
    assert set(pods) == {"the run", "first", "second"}
    assert pods["second"]["spec"]["nodeName"] == "trn1-1"
    assert "first speaks" in _logs_in_s3(deployment)


def test_what_happens_every_day_is_not_named_or_hangs(deployment: Deployment) -> None:
    cluster = deployment.cluster
    cluster.add_node("cpu-1")
    cluster.add_node("spot-1", labels={"capacity": "spot"})
    cluster.add_node("spot-2", labels={"capacity": "spot"})
    cluster.fault(r"POST .*/jobs", times=2, status=503)

    command = deployment.execute("everyday_faults")
    cluster.wait_for(lambda: _has_started(deployment, "killed", "on_spot"), "two steps to run", 180)
    cluster.lose_node(_pod_of(deployment, "on_spot")["spec"]["nodeName"])
    cluster.wait_for(lambda: is_true(_job_of(deployment, "on_spot"), "Complete"), "the second pod to end", 180)
    cluster.oom_kill(_pod_of(deployment, "killed")["metadata"]["name"])
    cluster.wait_for(lambda: _ended(deployment), "the next health check", 180)

    # One round of checks has looked at all four. Only the Job that failed was noticed, and not why it failed.
    assert _ended(deployment) == ["killed"]
    run_id = deployment.runs()[0].run_id
    failure = deployment.events(run_id, DagsterEventType.STEP_FAILURE)[0]
    assert "Discovered failed Kubernetes job" in str(failure.event_specific_data)
    assert "OOM" not in str(failure.event_specific_data)
    # The others wait for ever, though the cluster says what is wrong. The pod that replaced the one on the lost node
    # found its step started, did nothing, and succeeded.
    unscheduled = find_condition(_pod_of(deployment, "too_big"), "PodScheduled")
    assert unscheduled is not None
    assert "Insufficient aws.amazon.com/neuron" in unscheduled["message"]
    status = _pod_of(deployment, "unknown_image")["status"]["containerStatuses"][0]
    assert status["state"]["waiting"]["reason"] == "ImagePullBackOff"
    assert command.poll() is None

    stop(command)
    cluster.wait_for(lambda: not cluster.jobs() or all(map(_is_over, cluster.jobs())), "the Jobs to be deleted")


def _has_started(deployment: Deployment, *ops: str) -> bool:
    folder = Path(deployment.environment["CLUSTER_TEST_FOLDER"])
    return all((folder / f"{op}-started").exists() for op in ops)


def _pod_of(deployment: Deployment, op: str) -> Object:
    return deployment.cluster.pods(f"dagster/op={op}")[-1]


def _job_of(deployment: Deployment, op: str) -> Object:
    return deployment.cluster.jobs(f"dagster/op={op}")[0]


def _is_over(job: Object) -> bool:
    return is_true(job, "Complete") or is_true(job, "Failed")


def _ended(deployment: Deployment) -> list[str | None]:
    """The steps that Dagster knows to be over."""
    run_id = deployment.runs()[0].run_id
    kinds = DagsterEventType.STEP_FAILURE, DagsterEventType.STEP_SUCCESS
    return [event.step_key for event in deployment.events(run_id, *kinds)]


def _logs_in_s3(deployment: Deployment) -> str:
    import boto3

    s3 = boto3.client("s3")
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=deployment.log_bucket)["Contents"]]
    bodies = [s3.get_object(Bucket=deployment.log_bucket, Key=key)["Body"].read() for key in keys]
    return b"".join(bodies).decode()
