"""Addresses: which change makes a new artifact and which is a hit; and what is not finished is not built upon."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuron_ops.artifacts import Artifact, ArtifactStore
from neuron_ops.errors import InvalidInput, MissingArtifact
from neuron_ops.raw import RawDatasets
from neuron_ops.recipe_file import load_recipe
from neuron_ops.run import Run, published_model
from neuron_ops.steps import BY_ARTIFACT, BY_VERB, RAW_DATASET, STEPS, upstream

ALL = [step.artifact for step in STEPS]

DATA = ["tokenized_dataset", "lora_checkpoints", "consolidated_weights", "merged_model", "evaluation"]
GRAPH = ["compiled_graph_cache", "lora_checkpoints", "consolidated_weights", "merged_model", "evaluation"]
TRAINING = ["lora_checkpoints", "consolidated_weights", "merged_model", "evaluation"]

# Files that another step's address depends on by name; their contents stay the same unless a test changes them.
NAMED_FILES = {
    "base_model": {"config.json": b"{}", "tokenizer.json": b"{}"},
    "tokenized_dataset": {"chat_template.jinja": b"{{ messages }}", "special_tokens.json": b"{}"},
    "lora_checkpoints": {},
}

Finish = Callable[..., Artifact]
MakeRun = Callable[..., Run]


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
def make_run(tmp_path: Path, model: Path, raw: RawDatasets) -> MakeRun:
    def make(version: str | None = "v1", **overrides: object) -> Run:
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        recipe = load_recipe("tiny_llama_cpu", {"base_model.path": str(model), **dotted})
        return Run(recipe, ArtifactStore(str(tmp_path / "store")), raw, version)

    return make


@pytest.fixture
def finish(publish: Any) -> Finish:
    """Publish what a step would make. The contents differ from address to address, as a step's usually do."""

    def finish(run: Run, artifact: str, files: dict[str, bytes] | None = None, **fields: Any) -> Artifact:
        plan = run.require_before(artifact)
        if files is None:
            own = "checkpoints.json" if artifact == "lora_checkpoints" else "content"
            files = {own: plan.address.fingerprint.encode(), **NAMED_FILES.get(artifact, {})}
        return publish(run.store, plan.address, files, reads=plan.reads, inputs=plan.inputs, **fields)

    return finish


@pytest.fixture
def finish_all(finish: Finish) -> Callable[[Run], dict[str, str]]:
    return lambda run: {artifact: str(finish(run, artifact).address) for artifact in ALL}


@pytest.mark.parametrize(
    ("overrides", "moved"),
    [
        ({"training__learning_rate": 1e-5}, TRAINING),
        ({"training__steps": 60}, TRAINING),
        ({"training__seed": 1}, TRAINING),
        ({"dataset__system_prompt": "Be brief."}, DATA),
        ({"dataset__holdout_fraction": 0.1}, DATA),
        ({"graph__lora__r": 4}, GRAPH),
        ({"graph__gradient_accumulation": 2}, GRAPH),
        ({"graph__sequence_length": 128}, ["tokenized_dataset", *GRAPH]),
        ({"hardware__threads": 2}, TRAINING),
        ({"hardware__processes": 2}, GRAPH),
        ({"evaluation__prompts": 2}, ["evaluation"]),
        ({"evaluation__min_improvement": 0.1}, ["evaluation"]),
        ({"base_model__name": "me/renamed"}, ["base_model", *TRAINING]),
        ({"version": "v2"}, DATA),
        ({"name": "another-name"}, []),
        ({}, []),
    ],
    ids=str,
)
def test_a_change_moves_what_depends_on_it_and_nothing_else(
    make_run: MakeRun, finish_all: Any, overrides: dict[str, Any], moved: list[str]
) -> None:
    before = finish_all(make_run())

    after = finish_all(make_run(**overrides))

    assert {name for name in ALL if before[name] != after[name]} == set(moved)


def test_another_version_of_the_dataset_shares_the_model_and_the_compiled_graphs(
    make_run: MakeRun, finish: Finish
) -> None:
    for artifact in ("base_model", "compiled_graph_cache"):
        finish(make_run("v1"), artifact)

    second = make_run("v2")

    assert second.find("base_model") is not None
    assert second.find("compiled_graph_cache") is not None


def test_new_weights_move_the_model_but_neither_rows_nor_graphs(
    make_run: MakeRun, finish_all: Any, model: Path
) -> None:
    """Rows depend on the tokenizer and graphs on the config, so other weights under both are a hit for both."""
    before = finish_all(make_run())
    (model / "model.safetensors").write_bytes(b"other weights")

    after = finish_all(make_run())

    assert {name for name in ALL if before[name] != after[name]} == {"base_model", *TRAINING}


def test_other_rows_under_another_name_make_other_addresses(make_run: MakeRun, finish: Finish) -> None:
    finish(make_run(), "base_model")

    first, second = (make_run(version).plan("tokenized_dataset") for version in ("v1", "v2"))

    assert first.inputs[RAW_DATASET].digest != second.inputs[RAW_DATASET].digest
    assert first.address.fingerprint != second.address.fingerprint
    assert str(first.address).startswith("tokenized_dataset/v1/")


def test_equal_contents_stop_a_change_from_going_on(make_run: MakeRun, finish: Finish) -> None:
    """A step that runs again and makes the same bytes leaves everything after it a hit."""
    for run in (make_run(), make_run(training__log_every=5)):
        for artifact in ("base_model", "tokenized_dataset", "compiled_graph_cache"):
            finish(run, artifact)
        finish(run, "lora_checkpoints", {"checkpoints.json": b"the same"})

    first, second = make_run(), make_run(training__log_every=5)

    assert first.plan("lora_checkpoints").address != second.plan("lora_checkpoints").address
    assert first.plan("consolidated_weights").address == second.plan("consolidated_weights").address


def test_an_address_depends_on_neither_the_store_nor_the_machine(
    make_run: MakeRun, finish: Finish, tmp_path: Path
) -> None:
    here = make_run()
    elsewhere = Run(here.recipe, ArtifactStore(str(tmp_path / "elsewhere")), here.raw, "v1")
    for run in (here, elsewhere):
        finish(run, "base_model")

    assert here.plan("tokenized_dataset").address == elsewhere.plan("tokenized_dataset").address


def test_the_name_of_the_folder_that_a_model_lies_in_does_not_matter(
    make_run: MakeRun, model: Path, tmp_path: Path
) -> None:
    before = make_run().plan("base_model").address
    moved = model.rename(tmp_path / "moved")

    after = make_run(base_model__path=str(moved)).plan("base_model").address

    assert before == after


def test_a_model_of_a_repository_is_told_by_its_commit() -> None:
    recipe = load_recipe("llama3_8b_lora_trn1")

    record = published_model(recipe.base_model)

    assert record.address == f"meta-llama/Llama-3.1-8B@{recipe.base_model.revision}"
    assert record.digest == recipe.base_model.revision


@pytest.mark.parametrize("artifact", [name for name in ALL if name != "base_model"])
def test_the_first_missing_input_is_named_with_the_command_that_makes_it(make_run: MakeRun, artifact: str) -> None:
    with pytest.raises(MissingArtifact) as caught:
        make_run().plan(artifact)

    assert str(caught.value).startswith("base_model was never finished with this recipe and these inputs.")
    assert "dagster asset materialize -m fine_tune_assets.definitions --select 'base_model'" in str(caught.value)
    assert "--partition" not in str(caught.value), "the base model has none"


def test_a_missing_partitioned_input_is_named_with_its_partition(make_run: MakeRun, finish: Finish) -> None:
    run = make_run()
    finish(run, "base_model")

    with pytest.raises(MissingArtifact, match="--select 'tokenized_dataset' --partition v1"):
        run.plan("lora_checkpoints")


def test_an_artifact_of_another_recipe_is_missing(make_run: MakeRun, finish_all: Any) -> None:
    finish_all(make_run())

    with pytest.raises(MissingArtifact, match="lora_checkpoints was never finished with this recipe"):
        make_run(training__learning_rate=1e-5).require("lora_checkpoints")


def test_a_version_that_never_landed_is_named(make_run: MakeRun, finish: Finish) -> None:
    finish(make_run(), "base_model")

    with pytest.raises(MissingArtifact, match="'v3' has not landed"):
        make_run("v3").plan("tokenized_dataset")


def test_without_a_dataset_version_what_needs_one_says_so(make_run: MakeRun, finish: Finish) -> None:
    run = make_run(None)
    finish(run, "base_model")

    with pytest.raises(InvalidInput, match="Pass --dataset-version"):
        run.plan("tokenized_dataset")


def test_training_waits_for_the_compiled_graphs_without_depending_on_them(make_run: MakeRun, finish: Finish) -> None:
    run = make_run()
    for artifact in ("base_model", "tokenized_dataset"):
        finish(run, artifact)
    planned = run.plan("lora_checkpoints").address

    with pytest.raises(MissingArtifact, match="compiled_graph_cache was never finished"):
        run.require_before("lora_checkpoints")
    finish(run, "compiled_graph_cache")

    assert run.require_before("lora_checkpoints").address == planned


def _check(passed: bool, blocking: bool = True) -> dict[str, Any]:
    return {"name": "loss_falls", "passed": passed, "blocking": blocking, "description": "2.0 is not below 1.0"}


def test_nothing_is_built_on_an_artifact_that_failed_a_blocking_check(make_run: MakeRun, finish: Finish) -> None:
    run = make_run()
    finish(run, "base_model")
    finish(run, "tokenized_dataset", checks=[_check(passed=True), _check(passed=False)])

    with pytest.raises(InvalidInput) as caught:
        run.plan("lora_checkpoints")

    assert "tokenized_dataset/v1/" in str(caught.value)
    assert "failed its check 'loss_falls' (2.0 is not below 1.0), so nothing is built on it" in str(caught.value)


def test_an_artifact_that_failed_a_blocking_check_is_still_found_and_shown(make_run: MakeRun, finish: Finish) -> None:
    run = make_run()
    finish(run, "base_model")
    finish(run, "tokenized_dataset", checks=[_check(passed=False)])

    found = run.find("tokenized_dataset")

    assert found is not None
    assert not found.manifest.checks[0].passed


def test_a_failed_check_that_does_not_block_stops_nothing(make_run: MakeRun, finish: Finish) -> None:
    run = make_run()
    finish(run, "base_model")
    finish(run, "tokenized_dataset", checks=[_check(passed=False, blocking=False)])

    assert run.plan("lora_checkpoints").inputs["tokenized_dataset"].digest


def test_a_failed_check_of_what_is_waited_for_stops_too(make_run: MakeRun, finish: Finish) -> None:
    run = make_run()
    for artifact in ("base_model", "tokenized_dataset"):
        finish(run, artifact)
    finish(run, "compiled_graph_cache", checks=[_check(passed=False)])

    with pytest.raises(InvalidInput, match=r"compiled_graph_cache/.* failed its check"):
        run.require_before("lora_checkpoints")


def test_a_run_sees_what_was_finished_after_it_looked(make_run: MakeRun, finish: Finish) -> None:
    run = make_run()
    assert run.find("base_model") is None

    finish(make_run(), "base_model")

    assert run.find("base_model") is not None


def differences(run: Run, artifact: str) -> list[str]:
    """Between what the artifact would read now and the only finished one."""
    nearest = run.nearest(artifact)
    assert nearest is not None
    return nearest[1]


def test_what_differs_from_finished_artifacts_is_explained_by_field(make_run: MakeRun, finish_all: Any) -> None:
    finish_all(make_run())
    changed = make_run(training__learning_rate=1e-5)

    assert differences(changed, "lora_checkpoints") == ["recipe.TrainingSection.learning_rate: 0.002 -> 1e-05"]
    assert differences(make_run(), "lora_checkpoints") == []


def test_a_changed_input_is_explained_by_its_digests(make_run: MakeRun, finish_all: Any) -> None:
    finish_all(make_run())

    assert differences(make_run("v2"), "compiled_graph_cache") == []

    changed = make_run(dataset__system_prompt="Be brief.")
    assert differences(changed, "tokenized_dataset") == ["recipe.DatasetSection.system_prompt: '' -> 'Be brief.'"]


def test_every_artifact_is_made_by_one_step_from_artifacts_made_before() -> None:
    assert len(BY_ARTIFACT) == len(BY_VERB) == len(STEPS)
    made = {RAW_DATASET}
    for step in STEPS:
        assert set(upstream(step)) <= made
        made.add(step.artifact)


def test_a_model_that_the_hardware_cannot_train_is_refused_before_a_step_starts(
    make_run: MakeRun, finish: Finish
) -> None:
    config = {"num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 11000, "vocab_size": 128000}
    run = make_run(
        dataset__packing=False,
        graph__attention="eager",
        hardware__backend="neuron",
        hardware__instance_type="trn1.32xlarge",
        hardware__tensor_parallel=16,
    )
    finish(run, "base_model", {"config.json": json.dumps(config).encode(), "tokenizer.json": b"{}"})
    finish(run, "tokenized_dataset")

    with pytest.raises(InvalidInput, match="intermediate_size of 11000 cannot be divided"):
        run.require_before("compiled_graph_cache")
