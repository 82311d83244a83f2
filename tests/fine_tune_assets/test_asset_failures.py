"""How a mistake or a failed check ends a run: one sentence, nothing built on it, and no further try."""

import json
import shutil
from pathlib import Path

import pytest

from neuron_ops.store.artifacts import MANIFEST
from tests.fine_tune_assets.conftest import Project
from tests.fine_tune_assets.run_events import (
    errors,
    materializations,
    only_error,
    retries,
)

BEFORE_TRAINING = ("base_model", "tokenized_dataset", "compiled_graph_cache")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, dagster_home: Path) -> Project:
    """A project whose version v1 has everything that a training reads."""
    project = Project(tmp_path_factory.mktemp("prepared"))
    shutil.copytree(dagster_home, project.home)
    project.deliver("v1")
    project.register("v1")
    assert project.materialize("v1", *BEFORE_TRAINING).success
    return project


@pytest.fixture
def copy(prepared: Project, tmp_path: Path) -> Project:
    """A copy that a test may damage."""
    shutil.copytree(prepared.root, tmp_path / "copy")
    return Project(tmp_path / "copy")


def test_rows_without_a_column_end_in_one_sentence_before_any_training(copy: Project) -> None:
    deliver_rows_without_responses(copy, "v3")

    failed = copy.materialize("v3")

    error = only_error(failed, "tokenized_dataset")
    assert "response" in error.message
    assert "rows.jsonl" in error.message
    assert "lora_checkpoints" not in materializations(failed)


def test_an_unknown_override_ends_in_one_sentence_at_the_first_step(copy: Project) -> None:
    failed = copy.materialize("v1", "base_model", training__step=3)

    assert "did you mean 'max_steps'?" in only_error(failed, "base_model").message


def test_a_cut_base_model_is_found_before_it_is_used(copy: Project) -> None:
    weights = Path(copy.lineage("v1").require("base_model").location, "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])

    failed = copy.materialize("v1", "base_model")

    error = only_error(failed, "base_model")
    assert "model.safetensors is missing or has another size" in error.message
    assert "materialize base_model again" in error.message


def test_a_changed_byte_of_the_base_model_is_found_by_the_step_that_reads_it(copy: Project) -> None:
    tokenizer = Path(copy.lineage("v1").require("base_model").location, "model.safetensors")
    data = bytearray(tokenizer.read_bytes())
    data[-1] ^= 1
    tokenizer.write_bytes(data)

    failed = copy.materialize("v1", *BEFORE_TRAINING, dataset__holdout_fraction=0.2)

    [error] = [error for _, error in errors(failed)]
    assert "model.safetensors holds other bytes" in error.message


def test_the_command_line_shows_a_mistake_without_a_stack_of_frames(copy: Project) -> None:
    deliver_rows_without_responses(copy, "v3")

    done = copy.command(*copy.materialize_words("v3", "tokenized_dataset"))

    assert done.returncode == 1
    assert "response" in done.stderr
    assert 'File "' not in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "STEP_UP_FOR_RETRY" not in done.stderr


def test_a_blocking_check_that_failed_stops_the_rest_of_the_run(copy: Project) -> None:
    fail_check(copy, "tokenized_dataset")

    failed = copy.materialize("v1")

    assert not failed.success
    assert "tokenized_dataset" in materializations(failed), "what was made stays on record"
    assert not {"lora_checkpoints", "consolidated_weights", "merged_model"} & set(materializations(failed))
    assert retries(failed) == []


def test_a_blocking_check_that_failed_stops_a_later_run_too(copy: Project) -> None:
    fail_check(copy, "tokenized_dataset")

    failed = copy.materialize("v1", "lora_checkpoints")

    assert "failed its check 'answers_are_in_the_loss'" in only_error(failed, "lora_checkpoints").message


def deliver_rows_without_responses(project: Project, version: str) -> None:
    folder = project.root / "without-responses"
    folder.mkdir()
    rows = [{"instruction": f"Count to {number}.", "context": ""} for number in range(50)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    project.raw.land(version, folder)
    project.register(version)


def fail_check(project: Project, artifact: str) -> None:
    """Rewrite a finished artifact's manifest as its step would have, had its first check failed."""
    found = project.lineage("v1").require(artifact)
    path = Path(project.settings.store, str(found.address), MANIFEST)
    manifest = json.loads(path.read_text())
    manifest["checks"][0]["passed"] = False
    path.write_text(json.dumps(manifest))
