"""What becomes of a step's pod on a cluster, and the sentence that a person reads about it."""

import time
from dataclasses import dataclass
from typing import Any

import pytest

from fine_tune_assets.kubernetes.cluster import COMPONENT_LABEL, RUN_LABEL
from fine_tune_assets.kubernetes.cluster import Cluster as OurCluster
from fine_tune_assets.kubernetes.observer import Observer
from fine_tune_assets.kubernetes.pod_config import REPLACED_WHEN_DISRUPTED
from fine_tune_assets.kubernetes.watch import Patience, Verdict
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import job, pod_spec
from tests.cluster.kinds import JOBS, SECRETS
from tests.cluster.objects import Object

pytestmark = pytest.mark.cluster

LABELS = {RUN_LABEL: "run-1", COMPONENT_LABEL: "step_worker"}
WAIT = "trap 'exit 143' TERM; echo started; while true; do sleep 0.05; done"
PATIENCE = Patience(pending_timeout_seconds=600, max_disruptions=3, stuck_seconds=1.5)
INTERVAL = 0.2


def labelled_job(
    name: str,
    script: str,
    labels: dict[str, str],
    *,
    container: Object | None = None,
    template: Object | None = None,
    **spec: Any,
) -> Object:
    """A Job as the step handler makes them, with a few lines of shell for a step."""
    body = job(name, script, template=template, **{**REPLACED_WHEN_DISRUPTED, **spec})
    body["metadata"]["labels"] = labels
    body["spec"]["template"]["metadata"] = {"labels": labels}
    body["spec"]["template"]["spec"]["containers"][0] |= container or {}
    return body


def _job(name: str, script: str, **more: Any) -> Object:
    return labelled_job(name, script, LABELS, **more)


class Clock:
    """The observer's: it goes as time does, but where a test stops it or puts it forward."""

    def __init__(self) -> None:
        self._ahead, self._stopped_at = 0.0, 0.0

    def __call__(self) -> float:
        return self._stopped_at or time.monotonic() + self._ahead

    def put_forward(self, seconds: float) -> None:
        self._ahead += seconds

    def stop(self) -> None:
        self._stopped_at = self()


@dataclass
class Looks:
    """Looks at Jobs every fifth of a second, as an executor with that interval would."""

    observer: Observer
    clock: Clock
    said: list[str]

    def until_failure(self, name: str) -> Verdict:
        return self.until(name, lambda verdict: verdict.failure is not None)

    def until_said(self, name: str, words: str) -> Verdict:
        return self.until(name, lambda verdict: words in (verdict.say or ""))

    def until(self, name: str, done: Any, seconds: float = 120.0) -> Verdict:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            verdict = self.observer.verdict(name)
            if verdict.say:
                self.said.append(verdict.say)
            if done(verdict):
                return verdict
            if verdict.failure is not None:
                break
            time.sleep(INTERVAL)
        raise AssertionError(f"not within {seconds:g} s; said {self.said}, last {verdict}")


@pytest.fixture
def looks(cluster: Cluster) -> Looks:
    return _looks(cluster, PATIENCE)


def _looks(cluster: Cluster, patience: Patience) -> Looks:
    clock = Clock()
    ours = OurCluster(cluster.batch, cluster.api, "default")
    return Looks(Observer(ours, "run-1", patience, INTERVAL, clock), clock, [])


def test_a_pod_that_runs_is_announced_with_its_node(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, _job("train", WAIT))

    verdict = looks.until_said("train", "Runs in pod")

    assert verdict.say is not None
    assert verdict.say.endswith("on node node-a.")


def test_an_accelerator_that_no_node_has_is_named_in_the_schedulers_words(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a", {"aws.amazon.com/neuron": "1"})
    cluster.create(JOBS, _job("train", WAIT, container={"resources": {"limits": {"aws.amazon.com/neuron": "16"}}}))
    looks.until_said("train", "Insufficient aws.amazon.com/neuron")

    looks.clock.put_forward(PATIENCE.pending_timeout_seconds)
    verdict = looks.until_failure("train")

    assert verdict.failure is not None
    assert "did not run within 600 seconds (pending_timeout_seconds)" in verdict.failure
    assert "0/1 nodes are available: 1 Insufficient aws.amazon.com/neuron" in verdict.failure
    assert verdict.retry is False


def test_an_image_that_cannot_be_pulled_is_named(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, _job("train", WAIT, container={"image": "registry.example/typo:1"}))

    verdict = looks.until_failure("train")

    assert verdict.failure is not None
    assert "its pod cannot start" in verdict.failure
    assert "registry.example/typo:1" in verdict.failure
    assert verdict.retry is False


def test_a_secret_that_does_not_exist_is_named(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    env = [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hugging-face", "key": "token"}}}]
    cluster.create(JOBS, _job("train", WAIT, container={"env": env}))

    verdict = looks.until_failure("train")

    assert verdict.failure is not None
    assert 'CreateContainerConfigError of container main (image local/test): secret "hugging-face" not found' in (
        verdict.failure
    )


def test_a_volume_that_waits_for_a_secret_says_so_and_goes_on_once_it_is_there(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    volumes = [{"name": "token", "secret": {"secretName": "late"}}]
    cluster.create(JOBS, _job("train", WAIT, template={"volumes": volumes}))

    looks.until_said("train", 'secret "late" not found')
    cluster.create(SECRETS, {"metadata": {"name": "late"}, "data": {}})

    looks.until_said("train", "Runs in pod")


def test_memory_beyond_the_limit_is_named_with_the_limit(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    limit = {"resources": {"limits": {"memory": "2Gi"}}}
    cluster.create(JOBS, _job("train", WAIT, container=limit))
    looks.until_said("train", "Runs in pod")

    cluster.oom_kill(cluster.pods()[0]["metadata"]["name"])

    verdict = looks.until_failure("train")
    assert (verdict.failure, verdict.retry) == (
        "its container used more memory than its limit of 2Gi (OOMKilled)",
        True,
    )


def test_an_exit_code_comes_with_the_pod_whose_log_explains_it(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, _job("train", "echo 'No module named dagster_postgres'; exit 3"))

    verdict = looks.until_failure("train")

    assert verdict.failure == "container main (image local/test) ended with exit code 3"
    assert verdict.pod is not None
    assert looks.observer.cluster.last_lines(verdict.pod) == "No module named dagster_postgres"


def test_a_pod_that_ends_without_a_result_is_a_failure(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, _job("train", "exit 0"))

    assert looks.until_failure("train").failure == "its pod ended with exit code 0 but reported no result"


def test_a_deadline_is_named(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, _job("train", WAIT, activeDeadlineSeconds=1))

    verdict = looks.until_failure("train")

    assert verdict.failure == "it was not done within its deadline of 1 seconds (deadline_minutes)"
    assert verdict.retry is False


def test_a_job_that_somebody_deleted_is_a_failure(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, _job("train", WAIT))
    looks.until_said("train", "Runs in pod")

    assert looks.observer.cluster.delete_job("train")

    cluster.wait_for(lambda: not cluster.pods(), "its pods to go with it")
    assert looks.until_failure("train").failure == "its Kubernetes Job is gone"


def test_a_pod_that_somebody_deleted_is_a_failure(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, _job("train", WAIT))
    looks.until_said("train", "Runs in pod")

    cluster.api.delete_namespaced_pod(cluster.pods()[0]["metadata"]["name"], "default", grace_period_seconds=1)

    verdict = looks.until_failure("train")
    assert verdict.failure is not None
    assert verdict.retry is True


def test_a_spot_interruption_moves_the_pod_without_a_failure(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("spot-1")
    cluster.create(JOBS, _job("train", WAIT))
    looks.until_said("train", "on node spot-1")
    cluster.add_node("spot-2")

    cluster.reclaim_node("spot-1", grace_seconds=1)

    looks.until_said("train", "on node spot-2, started again after disruption 1")


def test_an_eviction_for_the_nodes_sake_moves_the_pod_without_a_failure(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, _job("train", WAIT))
    looks.until_said("train", "Runs in pod")

    cluster.evict(cluster.pods()[0]["metadata"]["name"])

    looks.until_said("train", "started again after disruption 1")


def test_a_lost_node_is_noticed_and_its_pod_runs_elsewhere(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, _job("train", WAIT))
    looks.until_said("train", "on node node-a")
    cluster.add_node("node-b")

    cluster.lose_node("node-a")

    looks.until_said("train", "on node node-b, started again after disruption 1")


def test_disruptions_without_end_are_a_failure(cluster: Cluster) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, _job("train", WAIT))
    looks = _looks(cluster, Patience(pending_timeout_seconds=600, max_disruptions=0))
    looks.until_said("train", "Runs in pod")

    cluster.evict(cluster.pods()[0]["metadata"]["name"])

    verdict = looks.until_failure("train")
    assert verdict.failure == "its pod was taken away 1 times, more than max_disruptions allows (0)"


def test_a_suspended_job_is_not_pending(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    body = _job("train", WAIT, suspend=True)
    body["metadata"]["labels"] = {**LABELS, "kueue.x-k8s.io/queue-name": "trainium"}
    made = cluster.create(JOBS, body)

    looks.until_said("train", "its Job is suspended, waiting in queue trainium")
    looks.clock.put_forward(10 * PATIENCE.pending_timeout_seconds)
    assert looks.observer.verdict("train").failure is None
    cluster.patch(JOBS, made, {"spec": {"suspend": False}})

    looks.until_said("train", "Runs in pod")


def test_a_service_account_that_does_not_exist_is_named(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, _job("train", WAIT, template=pod_spec(WAIT) | {"serviceAccountName": "nobody"}))

    verdict = looks.until_failure("train")

    assert verdict.failure is not None
    assert "nobody" in verdict.failure


def test_one_list_of_pods_serves_all_steps_of_a_run(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    names = [f"step-{number}" for number in range(5)]
    for name in names:
        cluster.create(JOBS, _job(name, WAIT))
    for name in names:
        looks.until_said(name, "Runs in pod")
    looks.clock.put_forward(INTERVAL)
    looks.clock.stop()
    assert cluster.server is not None
    before = len(cluster.server.requests)

    for name in names:
        looks.observer.verdict(name)

    ours = [asked for asked in cluster.server.requests[before:] if asked.startswith("GET") and "/default/" in asked]
    assert ours == ["GET /api/v1/namespaces/default/pods"]


def test_an_api_that_does_not_answer_is_borne(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, _job("train", WAIT))
    looks.until_said("train", "Runs in pod")

    cluster.fault("GET .*/default/pods", times=1, status=503)

    verdict = looks.until_said("train", "Waits to see its pod")
    assert verdict.failure is None
    looks.until_said("train", "Runs in pod")


def test_a_refusal_that_passes_is_borne(cluster: Cluster, looks: Looks) -> None:
    """An authorizer that is out of order for a moment says the same as a permission that is missing."""
    cluster.add_node("node-a")
    cluster.create(JOBS, _job("train", WAIT))
    looks.until_said("train", "Runs in pod")

    cluster.fault("GET .*/default/pods", times=1, status=403)

    looks.until_said("train", "Waits to see its pod: Kubernetes does not let this account list pods")
    looks.until_said("train", "Runs in pod")


def test_a_missing_permission_is_one_clear_error(cluster: Cluster, looks: Looks) -> None:
    cluster.fault("GET .*/default/pods", times=10_000, status=403)

    verdict = looks.until_failure("train")

    assert verdict.failure is not None
    assert "Kubernetes does not let this account list pods in namespace default" in verdict.failure
    assert verdict.retry is False


def test_what_is_left_of_a_run_is_deleted_and_nothing_else(cluster: Cluster, looks: Looks) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, _job("train", WAIT))
    cluster.create(JOBS, job("somebody-elses", WAIT))

    assert looks.observer.delete_unfinished() == ["train"]

    cluster.wait_for(lambda: len(cluster.pods()) == 1, "the pods of one Job to be gone")
    assert [found["metadata"]["name"] for found in cluster.jobs()] == ["somebody-elses"]
