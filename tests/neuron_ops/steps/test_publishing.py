"""What a step publishes: a manifest that says how it was made, and the winner's files where another was first."""

import re
from pathlib import Path
from typing import Any

import pytest

from neuron_ops.errors import MissingArtifact
from neuron_ops.recipe.file import load_recipe
from neuron_ops.steps import program as steps_program
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import BY_VERB
from neuron_ops.store.artifacts import Artifact, ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets

FETCH = BY_VERB["fetch"]


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    (tmp_path / "model").mkdir()
    recipe = load_recipe("tiny_llama_cpu", {"base_model.path": str(tmp_path / "model")})
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    return Lineage(recipe, ArtifactStore(str(tmp_path / "store")), RawDatasets(str(tmp_path / "store/raw")))


def product(lineage: Lineage, out: Path) -> steps_program.StepResult:
    (out / "content").write_text("x")
    return steps_program.StepResult(metrics={"answer": 42})


def test_a_manifest_says_what_was_made_from_what_with_what(lineage: Lineage) -> None:
    plan = lineage.provenance("base_model")

    steps_program.make(FETCH, lineage, product)

    manifest = lineage.require("base_model").manifest
    assert (manifest.artifact, manifest.step, manifest.dataset_version) == ("base_model", "fetch", None)
    assert manifest.fingerprint == plan.address.fingerprint
    assert manifest.inputs == plan.inputs
    assert manifest.reads == plan.reads
    assert {"seconds", "cpu_seconds", "peak_rss_bytes", "answer"} <= manifest.metrics.keys()
    assert {"python", "torch", "transformers", "safetensors"} <= manifest.toolchain.keys()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest.finished_at)


def test_a_step_that_was_overtaken_ends_well_with_the_winners_files(lineage: Lineage, publish: Any) -> None:
    """The winner sweeps the slower writer's folder away while that one is still writing into it."""
    plan = lineage.provenance("base_model")

    def overtaken(_lineage: Lineage, out: Path) -> steps_program.StepResult:
        winner: Artifact = publish(lineage.store, plan.address, {"content": b"winner"})
        assert not out.exists()
        (out / "content").write_bytes(b"too late")
        return steps_program.StepResult(metrics={"files": len(winner.manifest.files)})

    steps_program.make(FETCH, lineage, overtaken)

    artifact = lineage.require("base_model")
    assert artifact.read("content") == b"winner"
    assert lineage.store.files.children(str(plan.address)) == sorted(["manifest.json", artifact.manifest.data])


def test_a_disk_error_is_not_taken_for_a_winner(lineage: Lineage) -> None:
    def full(_lineage: Lineage, _out: Path) -> steps_program.StepResult:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        steps_program.make(FETCH, lineage, full)

    assert lineage.find("base_model") is None


def test_a_run_whose_files_the_first_finisher_swept_uses_that_one_s_artifact(tmp_path: Path) -> None:
    def run() -> Lineage:
        return Lineage(load_recipe("tiny_llama_cpu"), ArtifactStore(str(tmp_path)), RawDatasets(str(tmp_path / "raw")))

    def first(_: Lineage, out: Path) -> steps_program.StepResult:
        (out / "file").write_text("the first one's")
        return steps_program.StepResult(metrics={})

    def second(_: Lineage, out: Path) -> steps_program.StepResult:
        steps_program.make(BY_VERB["fetch"], run(), first)
        raise MissingArtifact(f"{out} holds nothing any more")

    steps_program.make(BY_VERB["fetch"], run(), second)

    assert run().require("base_model").read("file") == b"the first one's"
