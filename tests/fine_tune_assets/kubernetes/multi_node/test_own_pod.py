"""What the pod of a step knows about the training that it launches: its own place, and the team's settings."""

from pathlib import Path

import pytest

from fine_tune_assets.kubernetes.multi_node.own_pod import make_pod_training
from fine_tune_assets.kubernetes.pods.settings import Pods, load_pods, pods_of_run
from neuron_ops.errors import InvalidInput
from neuron_ops.launch.torchrun import RENDEZVOUS_SECONDS
from neuron_ops.recipe.file import load_recipe
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import BY_VERB
from neuron_ops.store.artifacts import ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets
from tests.cluster.cluster import Cluster
from tests.fine_tune_assets.kubernetes.multi_node.bench import Bench, assert_nothing_is_left

OVERLAYS = Path(__file__).parents[4] / "deployments" / "kubernetes" / "overlays"


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    """A training on two nodes that the test cluster does not have."""
    recipe = load_recipe("llama3_8b_lora_trn1", {"hardware.nodes": 2})
    return Lineage(recipe, ArtifactStore(str(tmp_path / "store")), RawDatasets(str(tmp_path / "raw")), "v1")


def test_the_team_s_pending_timeout_bounds_a_training_on_several_nodes(
    cluster: Cluster, lineage: Lineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bench(cluster).launcher()
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    monkeypatch.setenv("FINE_TUNE_OWN_POD", f"{cluster.namespace}/launcher")
    pods = load_pods("pending_timeout_seconds: 2\ncheck_interval_seconds: 1\n")
    said: list[str] = []

    result = make_pod_training(BY_VERB["train"], lineage, pods, "1", said.append).run()

    assert str(result.error).startswith("it did not run within 2 seconds (pending_timeout_seconds): node ")
    assert "cannot be scheduled: 0/2 nodes are available" in str(result.error)
    assert result.final
    assert_nothing_is_left(cluster)


@pytest.mark.parametrize("overlay", ["minimal", "eks", "hyperpod"])
def test_the_nodes_wait_for_each_other_longer_than_the_step_waits_for_their_machines(overlay: str) -> None:
    """Else torchrun on the node that came first would give up, and say less."""
    pods = load_pods(str(OVERLAYS / overlay / "pods.yaml"))

    assert pods.pending_timeout_seconds < RENDEZVOUS_SECONDS


def test_a_process_that_is_in_no_pod_cannot_start_others(
    cluster: Cluster, lineage: Lineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))

    monkeypatch.setenv("FINE_TUNE_OWN_POD", f"{cluster.namespace}/nobody")
    with pytest.raises(InvalidInput, match="Pod 'nobody' is not in namespace 'default'"):
        make_pod_training(BY_VERB["train"], lineage, Pods(), "1", print)

    monkeypatch.delenv("FINE_TUNE_OWN_POD")
    with pytest.raises(InvalidInput, match="this process does not run in a pod"):
        make_pod_training(BY_VERB["train"], lineage, Pods(), "1", print)


def test_a_run_changes_the_limits_of_its_nodes_as_those_of_its_steps() -> None:
    launchpad = {"execution": {"config": {"pending_timeout_seconds": 60, "max_concurrent": 2}}}
    team = Pods(pending_timeout_seconds=3600, max_disruptions=1)

    changed = pods_of_run(team, launchpad)

    assert (changed.pending_timeout_seconds, changed.max_disruptions) == (60, 1)
    assert pods_of_run(team, {}) == team
