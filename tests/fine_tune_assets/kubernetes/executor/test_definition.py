"""Runs on the test cluster whose steps meet what happens every day: what Dagster is told about each."""

import json

import pytest
from dagster import (
    DagsterRunStatus,
)

from neuron_ops.recipe.file import load_recipe
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.artifacts import ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets
from tests.cluster.deployment import stop
from tests.fine_tune_assets.kubernetes.conftest import Deploy
from tests.fine_tune_assets.kubernetes.pausing import PYTHON_LOGS
from tests.fine_tune_assets.kubernetes.story import Story, behave, execute, living, pod_of, starts, wait_for_start
from tests.neuron_ops.conftest import publish_files

pytestmark = pytest.mark.cluster

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def test_every_everyday_fault_is_named_and_ends_as_it_should(deploy: Deploy) -> None:
    deployment = deploy(
        {
            "pending_timeout_seconds": 25,
            "assets": {
                "merged_model": {"image": "registry.example/typo:1"},
                "consolidated_weights": {"node_selector": {"capacity": "spot"}},
                "lora_checkpoints": {"node_selector": {"capacity": "nowhere"}},
            },
        }
    )
    behave(deployment, base_model="wait then finish", tokenized_dataset="break", lora_checkpoints="finish")
    behave(deployment, merged_model="finish", consolidated_weights="wait then finish", evaluation="vanish then finish")
    cluster = deployment.cluster
    cluster.add_node("cpu-1")
    cluster.add_node("spot-1", labels={"capacity": "spot"})

    command = deployment.execute("everything")
    wait_for_start(deployment, "base_model")
    cluster.oom_kill(pod_of(deployment, "base_model")["metadata"]["name"])
    wait_for_start(deployment, "consolidated_weights")
    cluster.add_node("spot-2", labels={"capacity": "spot"})
    cluster.reclaim_node("spot-1", grace_seconds=5)
    output, _ = command.communicate(timeout=240)

    story = Story(deployment, deployment.runs()[0].run_id)
    assert deployment.runs()[0].status == DagsterRunStatus.FAILURE, output
    # Memory beyond the limit: named, and tried again.
    assert "used more memory than its limit of 4Gi (OOMKilled)" in story.error("base_model")
    assert story.ends("base_model") == ["STEP_UP_FOR_RETRY", "STEP_SUCCESS"]
    # A process that cannot start: its exit code and its last words, as often as the retry policy says.
    assert "ended with exit code 3 in container dagster" in story.error("tokenized_dataset")
    assert "The last lines of its log:" in story.error("tokenized_dataset")
    assert story.error("tokenized_dataset").endswith("No module named dagster_postgres")
    assert story.ends("tokenized_dataset") == ["STEP_UP_FOR_RETRY", "STEP_FAILURE"]
    # No node: the scheduler's words while it waits, and in the failure, which no other try would help.
    assert any("cannot be scheduled: 0/2 nodes are available" in text for text in story.said("lora_checkpoints"))
    assert "it did not run within 25 seconds (pending_timeout_seconds): pod " in story.error("lora_checkpoints")
    assert "node(s) didn't match Pod's node affinity/selector" in story.error("lora_checkpoints")
    assert story.ends("lora_checkpoints") == ["STEP_FAILURE"]
    # No image.
    assert "registry.example/typo:1" in story.error("merged_model")
    assert story.ends("merged_model") == ["STEP_FAILURE"]
    # A node that is taken away: the step goes on elsewhere, and no retry is spent.
    assert story.ends("consolidated_weights") == ["STEP_SUCCESS"]
    assert starts(deployment, "consolidated_weights") == 2
    assert any(
        "on node spot-2, started again after disruption 1" in text for text in story.said("consolidated_weights")
    )
    # An end without a result.
    assert "ended with exit code 0 but reported no result" in story.error("evaluation")
    assert story.ends("evaluation") == ["STEP_UP_FOR_RETRY", "STEP_SUCCESS"]
    # What failed while it waited is gone; nothing of it starts later.
    assert living(deployment) == []


def test_a_pod_that_is_taken_away_before_its_asset_begins_costs_no_retry(deploy: Deploy) -> None:
    deployment = deploy({}, python_logs=PYTHON_LOGS)
    folder = deployment.home.parent
    (folder / "pause").touch()
    behave(deployment, base_model="finish")
    deployment.cluster.add_node("spot-1")

    command = deployment.execute("only_base_model")
    deployment.cluster.wait_for((folder / "paused").exists, "the step to begin", 180)
    deployment.cluster.add_node("spot-2")
    deployment.cluster.reclaim_node("spot-1", grace_seconds=30)
    output, _ = command.communicate(timeout=240)

    story = Story(deployment, deployment.runs()[0].run_id)
    assert deployment.runs()[0].status == DagsterRunStatus.SUCCESS, output
    # Dagster in the pod calls it a failure; the run does not.
    assert story.ends("base_model") == ["STEP_FAILURE", "STEP_SUCCESS"]
    assert "DagsterExecutionInterruptedError" in story.error("base_model")
    assert any("on node spot-2, started again after disruption 1" in text for text in story.said("base_model"))
    assert starts(deployment, "base_model") == 1


def test_a_refused_job_fails_its_step_in_one_sentence(deploy: Deploy) -> None:
    deployment = deploy({})
    behave(deployment, base_model="finish")
    deployment.cluster.add_node("cpu-1")
    deployment.cluster.fault(r"POST .*/jobs", times=1, status=403)

    deployment.execute("only_base_model").communicate(timeout=180)

    story = Story(deployment, deployment.runs()[0].run_id)
    assert "Kubernetes does not let this account create Job" in story.error("base_model")
    assert "Give its service account the verb" in story.error("base_model")
    assert story.ends("base_model") == ["STEP_FAILURE"]


def test_a_recipe_that_does_not_exist_fails_the_step_before_there_is_a_pod(deploy: Deploy) -> None:
    deployment = deploy({})

    execute(deployment, "base_model", recipe="nope").communicate(timeout=180)

    story = Story(deployment, deployment.runs()[0].run_id)
    assert "'nope'" in story.error("base_model")
    assert story.ends("base_model") == ["STEP_FAILURE"]
    assert deployment.cluster.jobs() == []


def test_the_runs_own_recipe_decides_and_a_finished_artifact_books_nothing(deploy: Deploy, bucket: str) -> None:
    deployment = deploy({})
    behave(deployment, compiled_graph_cache="finish")
    deployment.cluster.add_node("cpu-1")

    command = execute(deployment, "compiled_graph_cache", recipe="llama3_8b_lora_trn1")
    deployment.cluster.wait_for(lambda: deployment.cluster.pods("dagster/op=compiled_graph_cache"), "the pod", 180)
    first = pod_of(deployment, "compiled_graph_cache")
    stop(command)
    _publish_graphs(f"s3://{bucket}/store")
    output, _ = execute(deployment, "compiled_graph_cache", recipe="llama3_8b_lora_trn1").communicate(timeout=180)
    assert deployment.runs()[0].status == DagsterRunStatus.SUCCESS, output
    second = pod_of(deployment, "compiled_graph_cache")

    assert first["spec"]["containers"][0]["resources"]["limits"]["aws.amazon.com/neuron"] == "16"
    assert first["spec"]["nodeSelector"] == {"node.kubernetes.io/instance-type": "trn1.32xlarge"}
    assert "aws.amazon.com/neuron" not in second["spec"]["containers"][0]["resources"]["limits"]
    assert not second["spec"].get("nodeSelector")
    assert second["spec"]["automountServiceAccountToken"] is False


def _publish_graphs(store: str) -> None:
    """Compiled graphs of the recipe as if a run had made them, and the base model that they belong to."""
    lineage = Lineage(load_recipe("llama3_8b_lora_trn1"), ArtifactStore(store), RawDatasets(store))
    publish_files(
        lineage.store, lineage.provenance("base_model").address, {"config.json": json.dumps(LLAMA_8B).encode()}
    )
    publish_files(lineage.store, lineage.provenance("compiled_graph_cache").address, {"graphs.json": b"{}"})
