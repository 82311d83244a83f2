"""Addresses: which change makes a new artifact and which is a hit; and what is not finished is not built upon."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuron_ops.errors import InvalidInput, MissingArtifact
from neuron_ops.recipe.file import load_recipe
from neuron_ops.steps.addresses import Lineage, published_model
from neuron_ops.steps.table import RAW_DATASET, STEPS
from neuron_ops.store.artifacts import Artifact, ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets

ALL = [step.artifact for step in STEPS]

TRAINING = ["lora_checkpoints", "consolidated_weights", "merged_model", "evaluation"]

# Files that another step's address depends on by name; their contents stay the same unless a test changes them.
NAMED_FILES = {
    "base_model": {"config.json": b'{"architectures": ["LlamaForCausalLM"]}', "tokenizer.json": b"{}"},
    "tokenized_dataset": {"chat_template.jinja": b"{{ messages }}", "special_tokens.json": b"{}"},
    "lora_checkpoints": {},
}

Finish = Callable[..., Artifact]
MakeLineage = Callable[..., Lineage]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def raw(tmp_path: Path) -> RawDatasets:
    datasets = RawDatasets(str(tmp_path / "raw"))
    for version in ("v1", "v2"):
        folder = tmp_path / version
        folder.mkdir()
        (folder / "rows.jsonl").write_text(f'{{"from": "{version}"}}\n')
        datasets.land(version, folder)
    return datasets


@pytest.fixture
def make_lineage(tmp_path: Path, model: Path, raw: RawDatasets) -> MakeLineage:
    def make(version: str | None = "v1", **overrides: object) -> Lineage:
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        recipe = load_recipe("tiny_llama_cpu", {"base_model.path": str(model), **dotted})
        return Lineage(recipe, ArtifactStore(str(tmp_path / "store")), raw, version)

    return make


@pytest.fixture
def finish(publish: Any) -> Finish:
    """Publish what a step would make. The contents differ from address to address, as a step's usually do."""

    def finish(lineage: Lineage, artifact: str, files: dict[str, bytes] | None = None, **fields: Any) -> Artifact:
        provenance = lineage.require_inputs(artifact)
        if files is None:
            own = "best.json" if artifact == "lora_checkpoints" else "content"
            files = {own: provenance.address.fingerprint.encode(), **NAMED_FILES.get(artifact, {})}
        made: Artifact = publish(
            lineage.store, provenance.address, files, reads=provenance.reads, inputs=provenance.inputs, **fields
        )
        return made

    return finish


@pytest.fixture
def finish_all(finish: Finish) -> Callable[[Lineage], dict[str, str]]:
    return lambda lineage: {artifact: str(finish(lineage, artifact).address) for artifact in ALL}


def test_another_version_of_the_dataset_shares_the_model_and_the_compiled_graphs(
    make_lineage: MakeLineage, finish: Finish
) -> None:
    for artifact in ("base_model", "compiled_graph_cache"):
        finish(make_lineage("v1"), artifact)

    second = make_lineage("v2")

    assert second.find("base_model") is not None
    assert second.find("compiled_graph_cache") is not None


def test_new_weights_move_the_model_but_neither_rows_nor_graphs(
    make_lineage: MakeLineage, finish_all: Any, model: Path
) -> None:
    """Rows depend on the tokenizer and graphs on the config, so other weights under both are a hit for both."""
    before = finish_all(make_lineage())
    (model / "model.safetensors").write_bytes(b"other weights")

    after = finish_all(make_lineage())

    assert {name for name in ALL if before[name] != after[name]} == {"base_model", *TRAINING}


def test_other_rows_under_another_name_make_other_addresses(make_lineage: MakeLineage, finish: Finish) -> None:
    finish(make_lineage(), "base_model")

    first, second = (make_lineage(version).provenance("tokenized_dataset") for version in ("v1", "v2"))

    assert first.inputs[RAW_DATASET].digest != second.inputs[RAW_DATASET].digest
    assert first.address.fingerprint != second.address.fingerprint
    assert str(first.address).startswith("tokenized_dataset/v1/")


def test_equal_contents_stop_a_change_from_going_on(make_lineage: MakeLineage, finish: Finish) -> None:
    """A step that runs again and makes the same bytes leaves everything after it a hit."""
    for lineage in (make_lineage(), make_lineage(training__seed=5)):
        for artifact in ("base_model", "tokenized_dataset", "compiled_graph_cache"):
            finish(lineage, artifact)
        finish(lineage, "lora_checkpoints", {"best.json": b"the same"})

    first, second = make_lineage(), make_lineage(training__seed=5)

    assert first.provenance("lora_checkpoints").address != second.provenance("lora_checkpoints").address
    assert first.provenance("consolidated_weights").address == second.provenance("consolidated_weights").address


def test_an_address_depends_on_neither_the_store_nor_the_machine(
    make_lineage: MakeLineage, finish: Finish, tmp_path: Path
) -> None:
    here = make_lineage()
    elsewhere = Lineage(here.recipe, ArtifactStore(str(tmp_path / "elsewhere")), here.raw, "v1")
    for lineage in (here, elsewhere):
        finish(lineage, "base_model")

    assert here.provenance("tokenized_dataset").address == elsewhere.provenance("tokenized_dataset").address


def test_the_name_of_the_folder_that_a_model_lies_in_does_not_matter(
    make_lineage: MakeLineage, model: Path, tmp_path: Path
) -> None:
    before = make_lineage().provenance("base_model").address
    moved = model.rename(tmp_path / "moved")

    after = make_lineage(base_model__path=str(moved)).provenance("base_model").address

    assert before == after


def test_a_model_of_a_repository_is_told_by_its_commit() -> None:
    recipe = load_recipe("llama3_8b_lora_trn1")

    record = published_model(recipe.base_model)

    assert record.address == f"meta-llama/Llama-3.1-8B@{recipe.base_model.revision}"
    assert record.digest == recipe.base_model.revision


@pytest.mark.parametrize("artifact", [name for name in ALL if name != "base_model"])
def test_the_first_missing_input_is_named_with_the_command_that_makes_it(
    make_lineage: MakeLineage, artifact: str
) -> None:
    with pytest.raises(MissingArtifact) as caught:
        make_lineage().provenance(artifact)

    assert str(caught.value).startswith("base_model was never finished with this recipe and these inputs.")
    assert "dagster asset materialize -m fine_tune_assets.definitions --select 'base_model'" in str(caught.value)
    assert "--partition" not in str(caught.value), "the base model has none"


def test_a_missing_partitioned_input_is_named_with_its_partition(make_lineage: MakeLineage, finish: Finish) -> None:
    lineage = make_lineage()
    finish(lineage, "base_model")

    with pytest.raises(MissingArtifact, match="--select 'tokenized_dataset' --partition v1"):
        lineage.provenance("lora_checkpoints")


def test_an_artifact_of_another_recipe_is_missing(make_lineage: MakeLineage, finish_all: Any) -> None:
    finish_all(make_lineage())

    with pytest.raises(MissingArtifact, match="lora_checkpoints was never finished with this recipe"):
        make_lineage(training__learning_rate=1e-5).require("lora_checkpoints")


def test_a_version_that_never_landed_is_named(make_lineage: MakeLineage, finish: Finish) -> None:
    finish(make_lineage(), "base_model")

    with pytest.raises(MissingArtifact, match="'v3' has not landed"):
        make_lineage("v3").provenance("tokenized_dataset")


def test_without_a_dataset_version_what_needs_one_says_so(make_lineage: MakeLineage, finish: Finish) -> None:
    lineage = make_lineage(None)
    finish(lineage, "base_model")

    with pytest.raises(InvalidInput, match="Pass --dataset-version"):
        lineage.provenance("tokenized_dataset")


def test_training_waits_for_the_compiled_graphs_without_depending_on_them(
    make_lineage: MakeLineage, finish: Finish
) -> None:
    lineage = make_lineage()
    for artifact in ("base_model", "tokenized_dataset"):
        finish(lineage, artifact)
    planned = lineage.provenance("lora_checkpoints").address

    with pytest.raises(MissingArtifact, match="compiled_graph_cache was never finished"):
        lineage.require_inputs("lora_checkpoints")
    finish(lineage, "compiled_graph_cache")

    assert lineage.require_inputs("lora_checkpoints").address == planned


def _check(passed: bool) -> dict[str, Any]:
    return {"name": "answers_are_in_the_loss", "passed": passed, "description": "no token is learned"}


def test_nothing_is_built_on_an_artifact_that_failed_a_blocking_check(
    make_lineage: MakeLineage, finish: Finish
) -> None:
    lineage = make_lineage()
    finish(lineage, "base_model")
    finish(lineage, "tokenized_dataset", checks=[_check(passed=False)])

    with pytest.raises(InvalidInput) as caught:
        lineage.provenance("lora_checkpoints")

    assert "tokenized_dataset/v1/" in str(caught.value)
    assert "failed its check 'answers_are_in_the_loss' (no token is learned), so nothing is built on it" in str(
        caught.value
    )


def test_an_artifact_that_failed_a_blocking_check_is_still_found_and_shown(
    make_lineage: MakeLineage, finish: Finish
) -> None:
    lineage = make_lineage()
    finish(lineage, "base_model")
    finish(lineage, "tokenized_dataset", checks=[_check(passed=False)])

    found = lineage.find("tokenized_dataset")

    assert found is not None
    assert not found.manifest.checks[0].passed


def test_a_run_sees_what_was_finished_after_it_looked(make_lineage: MakeLineage, finish: Finish) -> None:
    lineage = make_lineage()
    assert lineage.find("base_model") is None
    finish(make_lineage(), "base_model")

    assert lineage.find("base_model") is not None


def differences(lineage: Lineage, artifact: str) -> list[str]:
    """Between what the artifact would read now and the only finished one."""
    nearest = lineage.nearest(artifact)
    assert nearest is not None
    return nearest[1]


def test_what_differs_from_finished_artifacts_is_explained_by_field(make_lineage: MakeLineage, finish_all: Any) -> None:
    finish_all(make_lineage())
    slower, wider = make_lineage(training__learning_rate=1e-5), make_lineage(hardware__processes=2)

    assert differences(slower, "lora_checkpoints") == ["training.learning_rate: 0.002 -> 1e-05"]
    assert differences(wider, "lora_checkpoints") == ["layout.data_parallel_size: 1 -> 2"], "never None for a default"
    assert differences(make_lineage(), "lora_checkpoints") == []


def test_a_changed_input_is_explained_by_its_digests(make_lineage: MakeLineage, finish_all: Any) -> None:
    finish_all(make_lineage())

    assert differences(make_lineage("v2"), "compiled_graph_cache") == []

    changed = make_lineage(dataset__system_prompt="Be brief.")
    assert differences(changed, "tokenized_dataset") == ["dataset.system_prompt: '' -> 'Be brief.'"]


def test_a_model_that_the_hardware_cannot_train_is_refused_before_a_step_starts(
    make_lineage: MakeLineage, finish: Finish
) -> None:
    sizes = {"num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 11000, "vocab_size": 128000}
    config = {"architectures": ["LlamaForCausalLM"], **sizes}
    lineage = make_lineage(
        dataset__packing=False,
        graph__attn_implementation="eager",
        hardware__backend="neuron",
        hardware__instance_type="trn1.32xlarge",
        hardware__tensor_parallel_size=16,
    )
    finish(lineage, "base_model", {"config.json": json.dumps(config).encode(), "tokenizer.json": b"{}"})
    finish(lineage, "tokenized_dataset")

    with pytest.raises(InvalidInput, match="intermediate_size of 11000 cannot be divided"):
        lineage.require_inputs("compiled_graph_cache")
