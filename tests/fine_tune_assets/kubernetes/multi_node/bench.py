"""A training on several nodes of the test cluster, and what it says.

The pods' image holds a stand-in for our program that does what a test tells it to.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from fine_tune_assets.kubernetes.api.client import connect
from fine_tune_assets.kubernetes.diagnosis.watch import Limits
from fine_tune_assets.kubernetes.multi_node.launcher import PodTraining
from fine_tune_assets.kubernetes.multi_node.manifests import Training
from neuron_ops.launch.outcome import ExitResult
from neuron_ops.recipe.schema import HardwareSection
from tests.cluster.cluster import Cluster
from tests.cluster.kinds import PODS, SERVICES
from tests.cluster.objects import Object, name_of

# In place of neuron_ops.steps.nodes: each node runs the test's lines of Python.
PROGRAM = """
import os, sys, time

def report(exit_code, message):
    with open(os.environ["FINE_TUNE_ERROR_FILE"], "w") as file:
        file.write('{"exit_code": %d, "message": "%s"}' % (exit_code, message))
    sys.exit(exit_code)

node, rendezvous = int(sys.argv[2]), sys.argv[4]
exec(sys.argv[-1])
"""

LIMITS = Limits(pending_timeout_seconds=1800, max_disruptions=10, check_interval_seconds=0.2, settle_seconds=5.0)
SLEEP = "print('node', node, 'is up', flush=True); time.sleep(600)"


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
        client = connect(str(self.cluster.kubeconfig), None)
        return PodTraining(training, client, LIMITS, self.said.append, self.lines.append)

    def run(self, script: str) -> ExitResult:
        return self.training(script).run()

    def run_while(self, script: str, happens: Callable[[], object]) -> ExitResult:
        """Run it, and let something happen once all nodes are up."""
        training = self.training(script)
        with ThreadPoolExecutor(1) as pool:
            result = pool.submit(training.run)
            try:
                self.cluster.wait_for(lambda: sum("is up" in line for line in self.lines) == 2, "both nodes")
                happens()
                return result.result(120)
            finally:
                training.client.delete("Job", training.training.name)  # also what a failing test leaves

    def later_once(self, seconds: float, *words: str) -> float:
        """The time: it stands still until all of this was said, and then so many seconds have passed."""
        return seconds if all(any(word in said for said in self.said) for word in words) else 0.0

    def pod(self, node: int) -> str:
        """The name of a node's pod."""
        index = {"batch.kubernetes.io/job-completion-index": str(node)}
        names = [
            name_of(pod) for pod in self.cluster.pods() if index.items() <= pod["metadata"].get("labels", {}).items()
        ]
        return names[0]


def assert_nothing_is_left(cluster: Cluster) -> None:
    cluster.wait_for(lambda: cluster.pods("fine-tune/training") == [], "the pods to go")
    assert cluster.jobs() == []
    assert cluster.objects(SERVICES) == []
