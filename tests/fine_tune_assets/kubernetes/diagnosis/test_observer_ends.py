"""How a step's pod ends on a cluster, or goes on elsewhere, and the sentence that a person reads about it."""

from dataclasses import replace

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.kinds import JOBS
from tests.fine_tune_assets.kubernetes.looks import LIMITS, WAIT, Looks, make_looks, step_job

pytestmark = pytest.mark.cluster


def test_memory_beyond_the_limit_is_named_with_the_limit(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    limit = {"resources": {"limits": {"memory": "2Gi"}}}
    cluster.create(JOBS, step_job("train", WAIT, container=limit))
    looks.until_said("train", "Runs: pod")

    cluster.oom_kill(cluster.pods()[0]["metadata"]["name"])

    verdict = looks.until_failure("train")
    assert str(verdict.failure).endswith("used more memory than its limit of 2Gi (OOMKilled)")
    assert verdict.retry is True


def test_an_exit_code_comes_with_the_pod_whose_log_explains_it(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, step_job("train", "echo 'No module named dagster_postgres'; exit 3"))

    verdict = looks.until_failure("train")

    assert str(verdict.failure).endswith("ended with exit code 3 in container main (image local/test)")
    assert verdict.pod is not None
    assert looks.observer.client.last_lines(verdict.pod) == "No module named dagster_postgres"


def test_a_pod_that_ends_without_a_result_is_a_failure(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, step_job("train", "exit 0"))

    assert looks.until_failure("train").failure == "its pod ended with exit code 0 but reported no result"


def test_a_deadline_is_named(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, step_job("train", WAIT, activeDeadlineSeconds=1))

    verdict = looks.until_failure("train")

    assert verdict.failure == "it was not done within its deadline of 1 seconds (deadline_minutes)"
    assert verdict.retry is False


def test_a_job_that_somebody_deleted_is_a_failure(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, step_job("train", WAIT))
    looks.until_said("train", "Runs: pod")

    assert looks.observer.client.delete("Job", "train")

    cluster.wait_for(lambda: not cluster.pods(), "its pods to go with it")
    assert looks.until_failure("train").failure == "its Job is gone"


def test_a_pod_that_somebody_deleted_is_a_failure(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, step_job("train", WAIT))
    looks.until_said("train", "Runs: pod")

    cluster.api.delete_namespaced_pod(cluster.pods()[0]["metadata"]["name"], "default", grace_period_seconds=1)

    verdict = looks.until_failure("train")
    # Which of the two depends on whether the pod was seen while it ended.
    assert "its pod is gone" in str(verdict.failure) or str(verdict.failure).endswith("was deleted")
    assert verdict.retry is True


def test_a_spot_interruption_moves_the_pod_without_a_failure(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("spot-1")
    cluster.create(JOBS, step_job("train", WAIT))
    looks.until_said("train", "on node spot-1")
    cluster.add_node("spot-2")

    cluster.reclaim_node("spot-1", grace_seconds=1)

    looks.until_said("train", "on node spot-2, started again after disruption 1")


def test_an_eviction_for_the_nodes_sake_moves_the_pod_without_a_failure(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, step_job("train", WAIT))
    looks.until_said("train", "Runs: pod")

    cluster.evict(cluster.pods()[0]["metadata"]["name"])

    looks.until_said("train", "started again after disruption 1")


def test_a_lost_node_is_noticed_and_its_pod_runs_elsewhere(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, step_job("train", WAIT))
    looks.until_said("train", "on node node-a")
    cluster.add_node("node-b")

    cluster.lose_node("node-a")

    looks.until_said("train", "on node node-b, started again after disruption 1")


def test_disruptions_without_end_are_a_failure(cluster: Cluster) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, step_job("train", WAIT))
    looks = make_looks(cluster, replace(LIMITS, max_disruptions=0))
    looks.until_said("train", "Runs: pod")

    cluster.evict(cluster.pods()[0]["metadata"]["name"])

    verdict = looks.until_failure("train")
    assert verdict.failure == "its pod was taken away 1 times, more than max_disruptions allows (0)"
