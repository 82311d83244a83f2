"""A training on several nodes of a cluster: its pods are made, followed and ended together."""

import threading
import time
from pathlib import Path

import pytest

from fine_tune_assets.kubernetes.multi_node.manifests import Training, manifests
from neuron_ops.errors import InvalidInput
from neuron_ops.launch.outcome import ExitResult
from neuron_ops.recipe.schema import HardwareSection
from tests.cluster.cluster import Cluster
from tests.cluster.kinds import PODS, PYTORCH_JOBS, SERVICES
from tests.cluster.objects import Object, name_of, uid_of
from tests.fine_tune_assets.kubernetes.multi_node.bench import LIMITS, SLEEP, Bench, assert_nothing_is_left


def test_every_node_learns_its_number_and_the_rendezvous_and_its_log_is_followed(bench: Bench) -> None:
    result = bench.run("print('hello from', node, 'at', rendezvous)")

    port = Training("fine-tune-train-1", bench.hardware, (), {}).port
    assert result == ExitResult(0)
    # The test cluster has no DNS: names of headless Services become its one address.
    assert sorted(bench.lines) == [f"[node {node}] hello from {node} at 127.0.0.1:{port}\n" for node in (0, 1)]
    assert bench.said[0] == "Job fine-tune-train-1 was created: 2 pods, one for each node"
    assert_nothing_is_left(bench.cluster)


def test_each_line_of_a_long_log_comes_once_and_in_order(bench: Bench) -> None:
    bench.run("for number in range(3000): print(number)")

    for node in (0, 1):
        own = [line for line in bench.lines if line.startswith(f"[node {node}]")]
        assert own == [f"[node {node}] {number}\n" for number in range(3000)]


def test_a_node_that_is_done_before_the_others_may_go(bench: Bench, tmp_path: Path) -> None:
    """One that takes part in a warm-up ends an hour before the node that compiles, and its machine with it."""

    def take_the_second_node_away() -> None:
        bench.cluster.wait_for(lambda: "node 1 has done its part" in bench.said, "the end of node 1")
        bench.cluster.delete(PODS, bench.cluster.pod(bench.pod(1)), 0)
        bench.cluster.wait_for(lambda: len(bench.cluster.pods("fine-tune/training")) == 1, "the pod to go")
        time.sleep(5 * LIMITS.check_interval_seconds)
        (tmp_path / "end").touch()

    wait = f"while node == 0 and not os.path.exists({str(tmp_path / 'end')!r}): time.sleep(0.1)"
    result = bench.run_while(f"print('node', node, 'is up', flush=True)\n{wait}", take_the_second_node_away)

    assert result == ExitResult(0)
    assert_nothing_is_left(bench.cluster)


def test_an_interrupted_training_leaves_nothing(bench: Bench) -> None:
    training = bench.training(SLEEP)

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt(line)

    training.report = interrupt
    with pytest.raises(KeyboardInterrupt):
        training.run()

    assert_nothing_is_left(bench.cluster)


def test_what_a_killed_launcher_leaves_goes_with_its_pod(bench: Bench) -> None:
    training = bench.training(SLEEP)
    for manifest in manifests(training.training):
        training.client.create(manifest["kind"], manifest)
    bench.cluster.wait_for(lambda: len(bench.cluster.pods()) == 3, "the pods")

    bench.cluster.delete(PODS, bench.cluster.pod("launcher"), 0)

    bench.cluster.wait_for(lambda: bench.cluster.pods() == [], "the pods to go")
    assert bench.cluster.jobs() == []
    assert bench.cluster.objects(SERVICES) == []


def test_an_api_server_that_stumbles_is_asked_again(bench: Bench) -> None:
    training = bench.training("time.sleep(1)")
    bench.cluster.fault("POST .*/jobs", status=503, times=2)
    bench.cluster.fault("GET .*/jobs", reset=True, times=2)
    bench.cluster.fault("GET .*/log", status=500, times=1)

    assert training.run() == ExitResult(0)


def test_a_role_that_may_not_list_events_ends_no_training(bench: Bench) -> None:
    bench.cluster.fault("GET .*/default/events", status=403, times=10_000)

    assert bench.run("time.sleep(1)") == ExitResult(0)


def test_what_the_service_account_may_not_do_is_one_clear_error(bench: Bench) -> None:
    training = bench.training("pass")
    bench.cluster.fault("POST .*/jobs", status=403, times=1)

    with pytest.raises(
        InvalidInput,
        match=r"not let this account create Job fine-tune-train-1 in namespace default: .* service account",
    ):
        training.run()

    assert_nothing_is_left(bench.cluster)


def test_a_pytorch_job_is_followed_like_a_job(bench: Bench) -> None:
    """The test plays Kubeflow's operator, which makes the pods; and one that then is too busy to say how they ended."""
    bench.hardware = HardwareSection(nodes=2, multi_node="pytorch_job")
    training = bench.training("print('hello from', node)")
    operator = threading.Thread(target=play_operator, args=(bench.cluster,))
    operator.start()

    result = training.run()
    operator.join()

    assert result == ExitResult(0)
    assert sorted(bench.lines) == [f"[node {node}] hello from {node}\n" for node in (0, 1)]
    assert bench.cluster.objects(PYTORCH_JOBS) == []


def play_operator(cluster: Cluster) -> None:
    job = cluster.wait_for(lambda: next(iter(cluster.objects(PYTORCH_JOBS)), None), "the PyTorchJob")
    owner = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": name_of(job), "uid": uid_of(job)}
    for number, (kind, replica) in enumerate(job["spec"]["pytorchReplicaSpecs"].items()):
        template = replica["template"]
        labels = {"training.kubeflow.org/replica-type": kind.lower(), "training.kubeflow.org/replica-index": "0"}
        metadata: Object = {"name": f"{name_of(job)}-{kind.lower()}-0", "ownerReferences": [owner]}
        metadata["labels"] = {**template["metadata"]["labels"], **labels}
        container = {**template["spec"]["containers"][0], "env": [{"name": "RANK", "value": str(number)}]}
        spec = {**template["spec"], "containers": [container], "restartPolicy": replica["restartPolicy"]}
        cluster.create(PODS, {"metadata": metadata, "spec": spec})
