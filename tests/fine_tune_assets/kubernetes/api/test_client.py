"""What the client sends, and what it makes of an answer or of none, asked of the test cluster."""

from collections.abc import Callable

import pytest

from fine_tune_assets.kubernetes.api.client import Client, connect, until_answered
from fine_tune_assets.kubernetes.api.errors import Forbidden, NoCluster, NotFound
from neuron_ops.errors import Unavailable
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import job, pod
from tests.cluster.kinds import JOBS, PODS

NAMESPACE = "/api/v1/namespaces/default"
JOBS_OF_NAMESPACE = "/apis/batch/v1/namespaces/default/jobs"


@pytest.fixture
def client(cluster: Cluster) -> Client:
    return connect(str(cluster.kubeconfig), None)


@pytest.mark.parametrize(
    ("call", "sent"),
    [
        (lambda client: client.find("Job", "train"), f"GET {JOBS_OF_NAMESPACE}/train"),
        (lambda client: client.find_all("Pod", labels="a=b"), f"GET {NAMESPACE}/pods"),
        (lambda client: client.create("Job", job("new", "true")), f"POST {JOBS_OF_NAMESPACE}"),
        (lambda client: client.delete("Job", "train"), f"DELETE {JOBS_OF_NAMESPACE}/train"),
        (lambda client: client.wait_until_gone("Job", "train"), f"GET {JOBS_OF_NAMESPACE}/train"),
        (lambda client: client.warnings("uid"), f"GET {NAMESPACE}/events"),
        (lambda client: client.last_lines("train"), f"GET {NAMESPACE}/pods/train/log"),
    ],
)
def test_each_question_is_one_request(
    call: Callable[[Client], object], sent: str, client: Client, cluster: Cluster
) -> None:
    assert cluster.server is not None
    before = len(cluster.server.requests)

    call(client)

    # The controllers of the cluster ask too, but for all namespaces at once or about what they found.
    assert sent in cluster.server.requests[before:]


def test_an_object_that_is_not_there_is_none_and_not_deleted(client: Client) -> None:
    assert client.find("Job", "train") is None
    assert client.delete("Job", "train") is False
    assert client.last_lines("train") == ""


def test_an_answer_that_got_lost_does_not_create_twice(client: Client, cluster: Cluster) -> None:
    for _ in range(2):
        client.create("Job", job("train", "true"))

    assert len(cluster.jobs()) == 1


def test_a_deleted_job_takes_its_pods_with_it(client: Client, cluster: Cluster) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, job("train", "sleep 600"))
    cluster.wait_for(cluster.pods, "the pod")

    assert client.delete("Job", "train")

    client.wait_until_gone("Job", "train")
    cluster.wait_for(lambda: cluster.pods() == [], "the pod to go")


def test_a_log_is_followed_with_the_time_of_each_line(client: Client, cluster: Cluster) -> None:
    cluster.add_node("node-a")
    cluster.create(PODS, pod("train", "echo one; echo two"))
    ended = cluster.wait_for_phase("train", "Succeeded")

    stamps, lines = zip(*(line.split(" ", 1) for line in client.follow_log(ended, since=None)), strict=True)

    assert lines == ("one", "two")
    assert [line.split(" ", 1)[1] for line in client.follow_log(ended, since=stamps[0])][-1] == "two"


def test_a_refusal_is_said_with_verb_object_and_namespace(client: Client, cluster: Cluster) -> None:
    cluster.fault("GET .*/default/pods", status=403, times=1)

    with pytest.raises(Forbidden, match="does not let this account list pods in namespace default: "):
        client.find_all("Pod")


def test_a_request_that_has_to_succeed_is_repeated_while_nobody_answers(client: Client, cluster: Cluster) -> None:
    cluster.fault("GET .*/default/pods", status=503, times=1)
    cluster.fault("GET .*/default/pods", reset=True, times=1)

    assert until_answered(lambda: client.find_all("Pod")) == []


def test_a_request_that_nobody_answers_is_given_up(client: Client, cluster: Cluster) -> None:
    cluster.fault("GET .*/default/pods", status=503, times=2)

    with pytest.raises(Unavailable, match="did not list pods in namespace default"):
        until_answered(lambda: client.find_all("Pod"), seconds=0.0)


def test_a_refusal_is_not_repeated(client: Client, cluster: Cluster) -> None:
    cluster.fault("GET .*/default/pods", status=403, times=1)

    with pytest.raises(Forbidden):
        until_answered(lambda: client.find_all("Pod"))


def test_without_a_pod_and_without_a_kubeconfig_there_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")

    with pytest.raises(NoCluster, match="KUBECONFIG is not set"):
        connect(None, None)


def test_a_kind_that_the_cluster_does_not_know_is_not_found(client: Client, cluster: Cluster) -> None:
    cluster.fault("POST .*/pytorchjobs", status=404, times=1)

    with pytest.raises(NotFound, match="that the cluster has this kind"):
        client.create("PyTorchJob", {"metadata": {"name": "train"}})
