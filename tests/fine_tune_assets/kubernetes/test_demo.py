"""The project's own graph on the cluster: run pod, a pod for each asset, artifacts and logs in S3, a lost spot node."""

import json
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterEventType, DagsterRunStatus

from fine_tune_assets.partitions import PARTITIONS_NAME
from neuron_ops.recipe.file import load_recipe
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import STEPS
from neuron_ops.store.artifacts import MANIFEST, ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets
from tests.cluster.deployment import Deployment
from tests.fine_tune_assets.conftest import FEW_STEPS, RECIPE, Project, run_config
from tests.fine_tune_assets.kubernetes.conftest import Deploy

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

OVERRIDES: dict[str, Any] = {**FEW_STEPS, "training.max_steps": 60}


def test_the_whole_graph_is_made_in_pods_and_outlives_a_spot_interruption(
    deploy: Deploy, bucket: str, tmp_path: Path
) -> None:
    spot = {"node_selector": {"capacity": "spot"}}
    deployment = deploy({"assets": {"lora_checkpoints": spot}}, module="fine_tune_assets.definitions")
    cluster, lineage = deployment.cluster, _land("v1", f"s3://{bucket}/store", tmp_path)
    cluster.add_node("cpu-1")
    cluster.add_node("spot-1", labels={"capacity": "spot"})

    run_id = _launch(deployment, "v1")
    cluster.wait_for(lambda: _checkpoints(lineage), "a checkpoint", 300)
    cluster.add_node("spot-2", labels={"capacity": "spot"})
    cluster.reclaim_node("spot-1", grace_seconds=10)
    ended = deployment.wait_for_end(run_id, 600)

    assert ended.status == DagsterRunStatus.SUCCESS, _story(deployment, run_id)
    assert [step.artifact for step in STEPS if lineage.find(step.artifact) is None] == []
    pods = cluster.pods("app.kubernetes.io/component=step_worker")
    assert {pod["metadata"]["labels"]["dagster/op"] for pod in pods} == {step.artifact for step in STEPS}
    # The training went on where it was, on another node, and no retry was spent.
    assert deployment.events(run_id, DagsterEventType.STEP_UP_FOR_RETRY) == []
    assert "on node spot-2, started again after disruption 1" in _story(deployment, run_id)
    assert int(str(lineage.require("lora_checkpoints").manifest.metrics["resumed_from_step"])) >= 2
    assert run_id in _children(f"s3://{bucket}/logs/storage")


def _land(version: str, store: str, folder: Path) -> Lineage:
    """A dataset version in S3; its addresses with the test's overrides."""
    raw = RawDatasets(f"{store}/raw")
    Project(folder).deliver(version)
    raw.land(version, folder / f"delivery-{version}")
    return Lineage(load_recipe(RECIPE, OVERRIDES), ArtifactStore(store), raw, version)


def _launch(deployment: Deployment, version: str) -> str:
    with deployment.instance() as instance:
        instance.add_dynamic_partitions(PARTITIONS_NAME, [version])
    done = deployment.start(
        *("job", "launch", "-w", str(deployment.home / "workspace.yaml"), "-j", "fine_tune"),
        *("--config-json", json.dumps(run_config(OVERRIDES))),
        *("--tags", json.dumps({"dagster/partition": version})),
    )
    output, _ = done.communicate(timeout=120)
    assert done.returncode == 0, output
    return deployment.runs()[0].run_id


def _checkpoints(lineage: Lineage) -> list[str]:
    """The finished ones: a training is resumed from no other."""
    children, top = lineage.store.files.children, "lora_checkpoints/v1"
    parts = [f"{top}/{one}/{part}" for one in children(top) for part in children(f"{top}/{one}") if "step-" in part]
    return [part for part in parts if MANIFEST in children(part)]


def _children(url: str) -> list[str]:
    return list(ArtifactStore(url).files.children(""))


def _story(deployment: Deployment, run_id: str) -> str:
    with deployment.instance() as instance:
        return "\n".join(entry.user_message or "" for entry in instance.all_logs(run_id))
