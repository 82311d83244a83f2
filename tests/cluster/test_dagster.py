"""Unmodified dagster-k8s on the cluster: a launched run has a pod, and each of its steps another."""

import pytest
from dagster import DagsterRunStatus

from tests.cluster.deployment import Deployment
from tests.cluster.objects import dig

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


def _logs_in_s3(deployment: Deployment) -> str:
    import boto3

    s3 = boto3.client("s3")
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=deployment.log_bucket)["Contents"]]
    bodies = [s3.get_object(Bucket=deployment.log_bucket, Key=key)["Body"].read() for key in keys]
    return b"".join(bodies).decode()
