"""The whole demo with a pod for each asset, artifacts and logs in S3 and storage in PostgreSQL."""

import json
from itertools import islice
from pathlib import Path

import pytest

from fine_tune_assets.partitions import PARTITIONS_NAME
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import package_path
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import STEPS
from neuron_ops.store.artifacts import ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets
from tests.cluster.conftest import Deploy
from tests.cluster.objects import dig
from tests.fine_tune_assets.conftest import FEW_STEPS, RECIPE, run_config

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_every_asset_of_the_demo_is_made_in_a_pod_of_its_own(deploy: Deploy, bucket: str, tmp_path: Path) -> None:
    places = {"FINE_TUNE_STORE": f"s3://{bucket}/store", "FINE_TUNE_RAW": f"s3://{bucket}/raw"}
    deployment = deploy(module="tests.cluster.demo_definitions", environment=places | {"FINE_TUNE_RECIPE": RECIPE})
    cluster = deployment.cluster
    cluster.add_node("cpu-1")
    raw = RawDatasets(places["FINE_TUNE_RAW"])
    _deliver(raw, "v1", tmp_path)
    with deployment.instance() as instance:
        instance.add_dynamic_partitions(PARTITIONS_NAME, ["v1"])

    words = ("--select", "*", "--partition", "v1", "--config-json", json.dumps(run_config(FEW_STEPS)))
    command = deployment.start("asset", "materialize", "-m", deployment.module, *words)
    output, _ = command.communicate(timeout=600)

    assert command.returncode == 0, output
    cluster.wait_for(lambda: all(dig(pod, "status.phase") == "Succeeded" for pod in cluster.pods()), "the pods to end")
    artifacts = [step.artifact for step in STEPS]
    assert sorted(pod["metadata"]["labels"]["dagster/op"] for pod in cluster.pods()) == sorted(artifacts)
    lineage = Lineage(load_recipe(RECIPE, FEW_STEPS), ArtifactStore(places["FINE_TUNE_STORE"]), raw, "v1")
    assert all(lineage.find(artifact) is not None for artifact in artifacts)


def _deliver(raw: RawDatasets, version: str, folder: Path) -> None:
    """Let a dataset version land: the first rows of the demo's."""
    delivery = folder / "delivery"
    delivery.mkdir()
    with Path(str(package_path("package:demo/raw/demo-v1")), "rows.jsonl").open(encoding="utf-8") as lines:
        (delivery / "rows.jsonl").write_text("".join(islice(lines, 120)), encoding="utf-8")
    raw.land(version, delivery)
