"""Training and compiling in two pods, for Dagster and with the programs of this checkout."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from dagster import AssetsDefinition, AssetSelection, ExecuteInProcessResult, materialize

from fine_tune_assets.assets import build_assets
from fine_tune_assets.kubernetes.multi_node.manifests import ZONE
from fine_tune_assets.resources import fine_tuning
from tests.cluster.cluster import Cluster
from tests.fine_tune_assets.conftest import Project, run_config
from tests.fine_tune_assets.kubernetes.multi_node.bench import Bench, assert_nothing_is_left
from tests.neuron_ops.compilers.played_compiler import CONFIG, Compiler
from tests.neuron_ops.conftest import publish_files

TRN1 = {"cpu": "128", "memory": "512Gi", "aws.amazon.com/neuron": "16", "vpc.amazonaws.com/efa": "8"}


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
    assert f"node 1 of 2 (pod {killed.result()}) used more memory than its node has" in restart
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
    assert "warming up training in 64 processes with neuron_parallel_compile" in lines
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
