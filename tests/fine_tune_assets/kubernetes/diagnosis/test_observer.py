"""What a step's pod waits for on a cluster, what is said meanwhile, and what a look costs."""

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.conftest import job, pod_spec
from tests.cluster.kinds import JOBS, SECRETS
from tests.cluster.objects import Object
from tests.fine_tune_assets.kubernetes.looks import INTERVAL, LABELS, LIMITS, WAIT, Looks, step_job

pytestmark = pytest.mark.cluster


def test_a_pod_that_runs_is_announced_with_its_node(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, step_job("train", WAIT))

    verdict = looks.until_said("train", "Runs: pod")

    assert verdict.message is not None
    assert verdict.message.endswith("on node node-a.")


def test_an_accelerator_that_no_node_has_is_named_in_the_schedulers_words(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a", {"aws.amazon.com/neuron": "1"})
    cluster.create(JOBS, step_job("train", WAIT, container={"resources": {"limits": {"aws.amazon.com/neuron": "16"}}}))
    looks.until_said("train", "Insufficient aws.amazon.com/neuron")

    looks.clock.put_forward(LIMITS.pending_timeout_seconds)
    verdict = looks.until_failure("train")

    assert verdict.failure is not None
    assert "did not run within 600 seconds (pending_timeout_seconds)" in verdict.failure
    assert "0/1 nodes are available: 1 Insufficient aws.amazon.com/neuron" in verdict.failure
    assert verdict.retry is False


TOKEN = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hugging-face", "key": "token"}}}


@pytest.mark.parametrize(
    ("container", "said"),
    [
        ({"image": "registry.example/typo:1"}, "of container main (image registry.example/typo:1): "),
        (
            {"env": [TOKEN]},
            'CreateContainerConfigError of container main (image local/test): secret "hugging-face" not found',
        ),
    ],
    ids=["image", "secret"],
)
def test_what_the_pod_names_and_the_cluster_lacks_is_named(
    container: Object, said: str, cluster: Cluster, looks: Looks
) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, step_job("train", WAIT, container=container))

    verdict = looks.until_failure("train")

    assert verdict.failure is not None
    assert " cannot start: " in verdict.failure
    assert said in verdict.failure
    assert verdict.retry is False


def test_a_volume_that_waits_for_a_secret_says_so_and_goes_on_once_it_is_there(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    volumes = [{"name": "token", "secret": {"secretName": "late"}}]
    cluster.create(JOBS, step_job("train", WAIT, template={"volumes": volumes}))

    looks.until_said("train", 'secret "late" not found')
    cluster.create(SECRETS, {"metadata": {"name": "late"}, "data": {}})

    looks.until_said("train", "Runs: pod")


def test_a_suspended_job_is_not_pending(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    body = step_job("train", WAIT, suspend=True)
    body["metadata"]["labels"] = {**LABELS, "kueue.x-k8s.io/queue-name": "trainium"}
    made = cluster.create(JOBS, body)

    looks.until_said("train", "its Job is suspended, waiting in queue trainium")
    looks.clock.put_forward(10 * LIMITS.pending_timeout_seconds)
    assert looks.observer.verdict("train").failure is None
    cluster.patch(JOBS, made, {"spec": {"suspend": False}})

    looks.until_said("train", "Runs: pod")


def test_a_service_account_that_does_not_exist_is_named(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, step_job("train", WAIT, template=pod_spec(WAIT) | {"serviceAccountName": "nobody"}))

    verdict = looks.until_failure("train")

    assert verdict.failure is not None
    assert "nobody" in verdict.failure


def test_one_list_of_pods_serves_all_steps_of_a_run(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    names = [f"step-{number}" for number in range(5)]
    for name in names:
        cluster.create(JOBS, step_job(name, WAIT))
    for name in names:
        looks.until_said(name, "Runs: pod")
    looks.clock.put_forward(INTERVAL)
    looks.clock.stop()
    assert cluster.server is not None
    before = len(cluster.server.requests)

    for name in names:
        looks.observer.verdict(name)

    ours = [asked for asked in cluster.server.requests[before:] if asked.startswith("GET") and "/default/" in asked]
    assert ours == ["GET /api/v1/namespaces/default/pods"]


def test_a_step_goes_on_while_the_api_does_not_answer(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, step_job("train", WAIT))
    looks.until_said("train", "Runs: pod")

    cluster.fault("GET .*/default/pods", times=1, status=503)

    verdict = looks.until_said("train", "Waits to see its pod")
    assert verdict.failure is None
    looks.until_said("train", "Runs: pod")


def test_a_step_goes_on_after_a_refusal_that_passes(cluster: Cluster, looks: Looks) -> None:
    """An authorizer that is out of order for a moment says the same as a permission that is missing."""
    cluster.add_node("node-a")
    cluster.create(JOBS, step_job("train", WAIT))
    looks.until_said("train", "Runs: pod")

    cluster.fault("GET .*/default/pods", times=1, status=403)

    looks.until_said("train", "Waits to see its pod: Kubernetes does not let this account list pods")
    looks.until_said("train", "Runs: pod")


def test_a_missing_permission_is_one_clear_error(cluster: Cluster, looks: Looks) -> None:
    cluster.fault("GET .*/default/pods", times=10_000, status=403)

    verdict = looks.until_failure("train")

    assert verdict.failure is not None
    assert "Kubernetes does not let this account list pods in namespace default" in verdict.failure
    assert verdict.retry is False


def test_what_is_left_of_a_run_is_deleted_and_nothing_else(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, step_job("train", WAIT))
    cluster.create(JOBS, job("somebody-elses", WAIT))

    assert looks.observer.delete_unfinished() == ["train"]

    cluster.wait_for(lambda: len(cluster.pods()) == 1, "the pods of one Job to be gone")
    assert [found["metadata"]["name"] for found in cluster.jobs()] == ["somebody-elses"]
