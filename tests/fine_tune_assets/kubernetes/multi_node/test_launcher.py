"""A training on several nodes of a cluster: pods, the Job controller, and everything that can happen to them.

The pods' image holds a stand-in for our program that does what a test tells it to; one test trains for real.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from dagster import AssetsDefinition, AssetSelection, ExecuteInProcessResult, materialize

from fine_tune_assets.assets import build_assets
from fine_tune_assets.kubernetes.multi_node.api import Api
from fine_tune_assets.kubernetes.multi_node.launcher import Patience, PodTraining, open_training
from fine_tune_assets.kubernetes.multi_node.manifests import ZONE, Training, manifests
from fine_tune_assets.resources import fine_tuning
from neuron_ops.errors import InvalidInput, OpsError, Unavailable
from neuron_ops.launch.outcome import ExitResult
from neuron_ops.recipe.schema import HardwareSection
from neuron_ops.steps.table import BY_VERB
from tests.cluster.cluster import Cluster
from tests.cluster.deployment import CHECKOUT
from tests.cluster.kinds import JOBS, PODS, PYTORCH_JOBS, SERVICES
from tests.cluster.objects import Object, name_of, uid_of
from tests.cluster.pod_setup import Image
from tests.fine_tune_assets.conftest import Project, run_config
from tests.neuron_ops.compilers.played_compiler import CONFIG, Compiler
from tests.neuron_ops.conftest import publish_files
from tests.neuron_ops.training.workbench import make_model, make_recipe, open_lineage

# In place of neuron_ops.steps.nodes: each node runs the test's lines of Python.
PROGRAM = """
import os, sys, time

def report(exit_code, message):
    with open(os.environ["FINE_TUNE_ERROR_FILE"], "w") as file:
        file.write('{"exit_code": %d, "message": "%s"}' % (exit_code, message))
    sys.exit(exit_code)

node, meeting = int(sys.argv[2]), sys.argv[4]
exec(sys.argv[-1])
"""

PATIENCE = Patience(poll=0.2, silence=60.0, settle=5.0)
TRN1 = {"cpu": "128", "memory": "512Gi", "aws.amazon.com/neuron": "16", "vpc.amazonaws.com/efa": "8"}
SLEEP = "print('node', node, 'is up', flush=True); time.sleep(600)"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two machines, and two images: the stand-in program, and this checkout."""
    package = tmp_path / "image" / "neuron_ops" / "steps"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "nodes.py").write_text(PROGRAM)
    images = {"local/program": Image(environment={"PYTHONPATH": str(package.parents[1])}), "local/checkout": CHECKOUT}
    with Cluster(tmp_path / "cluster", images=images) as made:
        made.add_node("machine-a")
        made.add_node("machine-b")
        yield made


@dataclass
class Bench:
    """The launching pod, and what a training says."""

    cluster: Cluster
    image: str = "local/program"
    hardware: HardwareSection = field(default_factory=lambda: HardwareSection(nodes=2))
    environment: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def launcher(self) -> Object:
        environment = [{"name": name, "value": value} for name, value in self.environment.items()]
        container = {"name": "dagster", "image": self.image, "command": ["sleep", "600"], "env": environment}
        spec = {"restartPolicy": "Never", "containers": [container], "terminationGracePeriodSeconds": 0}
        self.cluster.create(PODS, {"metadata": {"name": "launcher"}, "spec": spec})
        return self.cluster.wait_for_phase("launcher", "Running")

    def training(self, script: str) -> PodTraining:
        training = Training("fine-tune-train-1", self.hardware, (script,), self.launcher())
        api = Api(str(self.cluster.kubeconfig))
        return PodTraining(training, api, self.said.append, self.lines.append, PATIENCE)

    def run(self, script: str) -> ExitResult:
        return self.training(script).run()

    def run_while(self, script: str, happens: Callable[[], object]) -> ExitResult:
        """Run it, and let something happen once all nodes are up."""
        training = self.training(script)
        with ThreadPoolExecutor(1) as pool:
            ending = pool.submit(training.run)
            try:
                self.cluster.wait_for(lambda: sum("is up" in line for line in self.lines) == 2, "both nodes")
                happens()
                return ending.result(120)
            finally:
                training.api.delete(manifests(training.training)[-1])  # also what a failing test leaves

    def hours_later_once(self, *words: str) -> float:
        """The time: it stands still until all of this was said, and then all patience is at its end."""
        return 100_000.0 if all(any(word in said for said in self.said) for word in words) else 0.0

    def pod(self, node: int) -> str:
        """The name of a node's pod."""
        index = {"batch.kubernetes.io/job-completion-index": str(node)}
        names = [
            name_of(pod) for pod in self.cluster.pods() if index.items() <= pod["metadata"].get("labels", {}).items()
        ]
        return names[0]


@pytest.fixture
def bench(cluster: Cluster) -> Bench:
    return Bench(cluster)


def assert_nothing_is_left(cluster: Cluster) -> None:
    cluster.wait_for(lambda: cluster.pods("fine-tune/training") == [], "the pods to go")
    assert cluster.jobs() == []
    assert cluster.objects(SERVICES) == []


def test_every_node_learns_its_number_and_where_to_meet_and_its_log_is_followed(bench: Bench) -> None:
    ending = bench.run("print('hello from', node, 'at', meeting)")

    port = Training("fine-tune-train-1", bench.hardware, (), {}).port
    assert ending == ExitResult(0)
    # The test cluster has no DNS: names of headless Services become its one address.
    assert sorted(bench.lines) == [f"[node {node}] hello from {node} at 127.0.0.1:{port}\n" for node in (0, 1)]
    assert bench.said[0] == "Job fine-tune-train-1 was created: 2 pods, one for each node"
    assert_nothing_is_left(bench.cluster)


def test_each_line_of_a_long_log_comes_once_and_in_order(bench: Bench) -> None:
    bench.run("for number in range(3000): print(number)")

    for node in (0, 1):
        own = [line for line in bench.lines if line.startswith(f"[node {node}]")]
        assert own == [f"[node {node}] {number}\n" for number in range(3000)]


@pytest.mark.parametrize("kind", [InvalidInput, Unavailable])
def test_an_error_of_ours_on_any_node_is_what_the_training_ends_with(bench: Bench, kind: type[OpsError]) -> None:
    ending = bench.run(f"time.sleep(600) if node == 0 else report({kind.exit_code}, 'the reason')")

    assert (type(ending.error), str(ending.error)) == (kind, "the reason")
    assert ending.final is not kind.retry
    assert_nothing_is_left(bench.cluster)


def test_a_node_that_just_ends_is_named_with_its_last_lines(bench: Bench) -> None:
    ending = bench.run("time.sleep(600) if node == 0 else sys.exit('no space left')")

    assert ending.error is None
    assert ending.reason.startswith("node 1 (pod fine-tune-train-1-1-")
    assert "on machine-" in ending.reason
    assert ending.reason.endswith("ended with exit status 1; its last lines:\nno space left")
    assert_nothing_is_left(bench.cluster)


def test_a_node_without_memory_is_the_cause_even_if_another_ended_too(bench: Bench) -> None:
    ending = bench.run_while(SLEEP, lambda: bench.cluster.oom_kill(bench.pod(1)))

    assert ending.reason.startswith("node 1 (pod ")
    assert "more memory than what its node has (OOMKilled)" in ending.reason
    assert not ending.disrupted
    assert_nothing_is_left(bench.cluster)


def test_an_evicted_pod_is_named_with_the_clusters_words(bench: Bench) -> None:
    ending = bench.run_while(SLEEP, lambda: bench.cluster.evict(bench.pod(0)))

    assert ending.reason.startswith("node 0 (pod ")
    assert "was taken away (TerminationByKubelet: The node was low on resource: memory." in ending.reason
    assert ending.disrupted
    assert_nothing_is_left(bench.cluster)


@pytest.mark.slow  # as long as a node is given to come back
def test_a_lost_machine_ends_the_training(bench: Bench) -> None:
    def lose_the_machine_of_node_1() -> None:
        bench.cluster.lose_node(bench.cluster.pod(bench.pod(1))["spec"]["nodeName"])

    ending = bench.run_while(SLEEP, lose_the_machine_of_node_1)

    assert (ending.status, ending.disrupted) == (1, True)
    assert "taken away" in ending.reason
    assert_nothing_is_left(bench.cluster)


def test_a_pod_that_somebody_deletes_ends_the_training(bench: Bench) -> None:
    ending = bench.run_while(SLEEP, lambda: bench.cluster.delete(PODS, bench.cluster.pod(bench.pod(1)), 0))

    assert ending.status == 1
    assert "taken away" in ending.reason or "killed by signal 9" in ending.reason
    assert_nothing_is_left(bench.cluster)


def test_a_node_that_is_done_before_the_others_may_go(bench: Bench, tmp_path: Path) -> None:
    """One that takes part in a warm-up ends an hour before the node that compiles, and its machine with it."""

    def take_the_second_node_away() -> None:
        bench.cluster.wait_for(lambda: "node 1 has done its part" in bench.said, "the end of node 1")
        bench.cluster.delete(PODS, bench.cluster.pod(bench.pod(1)), 0)
        bench.cluster.wait_for(lambda: len(bench.cluster.pods("fine-tune/training")) == 1, "the pod to go")
        time.sleep(5 * PATIENCE.poll)
        (tmp_path / "end").touch()

    wait = f"while node == 0 and not os.path.exists({str(tmp_path / 'end')!r}): time.sleep(0.1)"
    ending = bench.run_while(f"print('node', node, 'is up', flush=True)\n{wait}", take_the_second_node_away)

    assert ending == ExitResult(0)
    assert_nothing_is_left(bench.cluster)


def test_a_job_that_somebody_deletes_ends_the_training(bench: Bench) -> None:
    ending = bench.run_while(SLEEP, lambda: bench.cluster.delete(JOBS, bench.cluster.jobs()[0]))

    assert ending.status == 1
    assert_nothing_is_left(bench.cluster)


def test_pods_that_no_machine_can_take_are_said_and_given_up(bench: Bench) -> None:
    bench.hardware = HardwareSection(backend="neuron", nodes=2, instance_type="trn1.32xlarge")

    training = bench.training(SLEEP)
    training.clock = lambda: bench.hours_later_once("node 0 cannot be placed", "node 1 cannot be placed")

    ending = training.run()

    assert ending.final, "to start again would be to wait as long again"
    assert str(ending.error).startswith("After 30 minutes node 0 cannot be placed (Unschedulable: 0/2 nodes are")
    said = [text for text in bench.said if text.startswith("node 1 cannot be placed")]
    assert len(said) == 1, "not at each look"
    assert_nothing_is_left(bench.cluster)


def test_an_image_that_cannot_be_pulled_is_said_and_given_up(bench: Bench) -> None:
    training = bench.training(SLEEP)
    training.clock = lambda: bench.hours_later_once("node 0 cannot start", "node 1 cannot start")
    training.training.launcher["spec"]["containers"][0]["image"] = "registry.example/none:1"

    ending = training.run()

    assert "cannot start (" in str(ending.error)
    assert "ImagePull" in str(ending.error)
    assert_nothing_is_left(bench.cluster)


def test_an_interrupted_training_leaves_nothing(bench: Bench) -> None:
    training = bench.training(SLEEP)

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt(line)

    training.say = interrupt
    with pytest.raises(KeyboardInterrupt):
        training.run()

    assert_nothing_is_left(bench.cluster)


def test_what_a_killed_launcher_leaves_goes_with_its_pod(bench: Bench) -> None:
    training = bench.training(SLEEP)
    for manifest in manifests(training.training):
        training.api.create(manifest)
    bench.cluster.wait_for(lambda: len(bench.cluster.pods()) == 3, "the pods")

    bench.cluster.delete(PODS, bench.cluster.pod("launcher"), 0)

    bench.cluster.wait_for(lambda: bench.cluster.pods() == [], "the pods to go")
    assert bench.cluster.jobs() == []
    assert bench.cluster.objects(SERVICES) == []


def test_an_api_server_that_stumbles_is_asked_again(bench: Bench) -> None:
    training = bench.training("time.sleep(1)")
    bench.cluster.fault("POST .*/jobs", status=503, times=4)  # the client itself tries three times
    bench.cluster.fault("GET .*/jobs", reset=True, times=2)
    bench.cluster.fault("GET .*/log", status=500, times=1)

    assert training.run() == ExitResult(0)


def test_what_the_service_account_may_not_do_is_one_clear_error(bench: Bench) -> None:
    training = bench.training("pass")
    bench.cluster.fault("POST .*/jobs", status=403, times=1)

    with pytest.raises(InvalidInput, match=r"not let this account create Job fine-tune-train-1: .* service account"):
        training.run()

    assert_nothing_is_left(bench.cluster)


def test_a_pytorch_job_is_followed_like_a_job(bench: Bench) -> None:
    """The test plays Kubeflow's operator, which makes the pods; and one that then is too busy to say how they ended."""
    bench.hardware = HardwareSection(nodes=2, multi_node="pytorch_job")
    training = bench.training("print('hello from', node)")
    operator = threading.Thread(target=play_operator, args=(bench.cluster,))
    operator.start()

    ending = training.run()
    operator.join()

    assert ending == ExitResult(0)
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


@pytest.mark.slow
def test_two_pods_train_for_dagster_and_start_again_when_one_is_killed(
    cluster: Cluster, project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    two_pods = replace(project, overrides={**project.overrides, "training.max_steps": 30, "hardware.nodes": 2})
    two_pods.deliver("v1")
    two_pods.register("v1")
    Bench(cluster, "local/checkout").launcher()
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    monkeypatch.setenv("FINE_TUNE_OWN_POD", f"{cluster.namespace}/launcher")

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_a_pod_after_a_checkpoint, cluster, two_pods)
        result, lines = materialize_in_pods(two_pods, AssetSelection.assets("lora_checkpoints").upstream())

    assert result.success, lines
    [restart] = [
        line for line in lines if line.endswith("All nodes start again, from the last checkpoint if there is one.")
    ]
    assert f"node 1 (pod {killed.result()} on machine-" in restart
    assert "(OOMKilled)" in restart
    metrics = two_pods.lineage("v1").require("lora_checkpoints").manifest.metrics
    assert metrics["steps"] == 30
    assert metrics["resumed_from_step"] != 0
    assert "[node 0] " in (output := capfd.readouterr().out)
    assert "step 30/30 loss" in output
    assert [line for line in lines if line.startswith("step 30/30 loss")], "progress is in the event log too"
    assert_nothing_is_left(cluster)


def test_two_pods_warm_up_and_the_first_publishes_what_it_compiled(
    cluster: Cluster, project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    neuron = Compiler(tmp_path / "bin")
    neuron.plan({"meets": "and goes on", "entries": {"a+1": ["complete", 10]}})
    neuron.plan({"meets": "and goes on", "entries": {"b+1": ["extracted", None]}}, node=1)
    two_pods = replace(project, recipe="llama3_8b_lora_trn1", overrides={"hardware.nodes": 2})
    two_pods.deliver("v1")
    two_pods.register("v1")
    base = two_pods.lineage("v1").provenance("base_model")
    publish_files(
        two_pods.lineage("v1").store, base.address, {"config.json": json.dumps(CONFIG).encode()}, reads=base.reads
    )
    for letter in "ab":
        cluster.add_node(f"trn1-{letter}", TRN1, {"node.kubernetes.io/instance-type": "trn1.32xlarge", ZONE: "a"})
    bench = Bench(cluster, "local/checkout", environment=neuron.environment(os.environ["PATH"]))
    bench.launcher()
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    monkeypatch.setenv("FINE_TUNE_OWN_POD", f"{cluster.namespace}/launcher")

    result, lines = materialize_in_pods(two_pods, AssetSelection.assets("compiled_graph_cache"))

    assert result.success, lines
    assert [line for line in lines if line.startswith("Job fine-tune-compile-") and line.endswith("one for each node")]
    assert "warming up neuron_parallel_compile with training in 64 processes" in lines
    artifact = two_pods.lineage("v1").require("compiled_graph_cache")
    assert {Path(file.name).parent.name for file in artifact.manifest.files} == {"", "MODULE_a+1"}
    assert [len(neuron.calls(node)) for node in (0, 1)] == [1, 1]
    assert_nothing_is_left(cluster)


def materialize_in_pods(project: Project, selection: AssetSelection) -> tuple[ExecuteInProcessResult, list[str]]:
    """Make assets as a step's pod does it, and what the event log says; steps of one node need no cluster here."""
    resources = {"fine_tuning": fine_tuning(replace(project.settings, deployment="kubernetes"))}
    with project.instance() as instance:
        result = materialize(
            [asset for asset in build_assets() if isinstance(asset, AssetsDefinition)],
            resources=resources,
            instance=instance,
            partition_key="v1",
            selection=selection,
            run_config=run_config(project.overrides),
            raise_on_error=False,
        )
        return result, [record.user_message for record in instance.all_logs(result.run_id)]


def kill_a_pod_after_a_checkpoint(cluster: Cluster, project: Project) -> str:
    """The name of the pod that was killed as the kernel does it when memory runs out."""
    checkpoints = project.root / "store" / "lora_checkpoints"
    cluster.wait_for(lambda: list(checkpoints.glob("v1/*/step-*/manifest.json")), "a checkpoint", seconds=120)
    victim = Bench(cluster).pod(1)
    cluster.oom_kill(victim)
    return victim


def test_a_process_that_is_in_no_pod_cannot_start_others(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lineage = open_lineage(tmp_path, make_recipe(make_model(tmp_path / "model"), hardware__nodes=2))
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))

    monkeypatch.setenv("FINE_TUNE_OWN_POD", f"{cluster.namespace}/nobody")
    with pytest.raises(InvalidInput, match="There is no pod 'nobody' in namespace 'default'"):
        open_training(BY_VERB["train"], lineage, "1", lambda text: None)

    monkeypatch.delenv("FINE_TUNE_OWN_POD")
    with pytest.raises(InvalidInput, match="this process is in no pod"):
        open_training(BY_VERB["train"], lineage, "1", lambda text: None)
