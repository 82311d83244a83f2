"""Checkpoints: whole or not there, found again, thinned out, and nothing in them that runs."""

import json
import logging
import struct
from pathlib import Path

import pytest
import torch

from neuron_ops.backends.cpu import CpuBackend
from neuron_ops.steps.addresses import Lineage
from neuron_ops.training.checkpoints import Checkpoints, TrainingState, step_of
from neuron_ops.training.history import History
from neuron_ops.training.ranks import Ranks
from tests.neuron_ops.training.workbench import damage, make_lineage, make_model, make_recipe

STEPS = (2, 4, 6)
HISTORY = History([{"step": step, "eval_loss": 5.0 - step / 10} for step in (0, *STEPS)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("published") / "model")


@pytest.fixture
def lineage(model: Path, tmp_path: Path) -> Lineage:
    return make_lineage(tmp_path, make_recipe(model))


@pytest.fixture
def backend(lineage: Lineage) -> CpuBackend:
    return CpuBackend(lineage.recipe)


@pytest.fixture
def checkpoints(lineage: Lineage, backend: CpuBackend) -> Checkpoints:
    return Checkpoints(lineage.store, lineage.provenance("lora_checkpoints"), backend, Ranks())


def make_state(lineage: Lineage, backend: CpuBackend) -> TrainingState:
    with lineage.require("base_model").local() as folder:
        model = backend.load_model(folder, lineage.recipe)
    parameters = backend.trainable(model)
    return TrainingState(model, parameters, torch.optim.AdamW(parameters.values(), lr=0.1))


def take_a_step(state: TrainingState) -> None:
    for parameter in state.parameters.values():
        parameter.grad = torch.randn_like(parameter)
    state.optimizer.step()


def save_all(checkpoints: Checkpoints, state: TrainingState) -> None:
    for step in STEPS:
        take_a_step(state)
        checkpoints.save(step, state, HISTORY)


def test_restoring_brings_back_every_bit(lineage: Lineage, backend: CpuBackend, checkpoints: Checkpoints) -> None:
    state = make_state(lineage, backend)
    save_all(checkpoints, state)
    expected = torch.rand(3)
    other = make_state(lineage, backend)

    step, history = checkpoints.restore_newest(other)

    assert (step, history.rows) == (6, HISTORY.rows)
    assert torch.equal(torch.rand(3), expected), "the random generator continues where it was saved"
    for name, parameter in state.parameters.items():
        assert torch.equal(parameter, other.parameters[name])
        saved, restored = state.optimizer.state[parameter], other.optimizer.state[other.parameters[name]]
        assert saved.keys() == restored.keys()
        assert all(torch.equal(saved[key], restored[key]) for key in saved)


def test_without_a_checkpoint_training_begins_at_step_zero(
    lineage: Lineage, backend: CpuBackend, checkpoints: Checkpoints
) -> None:
    step, history = checkpoints.restore_newest(make_state(lineage, backend))

    assert (step, history.rows) == (0, [])


def test_a_damaged_checkpoint_that_would_be_kept_as_the_best_goes_as_well(
    lineage: Lineage, backend: CpuBackend, checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    state = make_state(lineage, backend)
    save_all(checkpoints, state)
    damage(checkpoints.finished()[0], "adapter/adapter_model.safetensors")

    with caplog.at_level(logging.WARNING):
        step, _ = checkpoints.restore_newest(state)

    assert step == 6
    assert [step_of(checkpoint) for checkpoint in checkpoints.finished()] == [4, 6]
    (record,) = caplog.records
    assert "step-000002 is damaged" in record.getMessage()


def test_bytes_changed_without_a_change_in_size_are_noticed(
    lineage: Lineage, backend: CpuBackend, checkpoints: Checkpoints
) -> None:
    state = make_state(lineage, backend)
    save_all(checkpoints, state)
    file = Path(checkpoints.finished()[-1].location) / "resume-00.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    step, _ = checkpoints.restore_newest(state)

    assert step == 4


def test_the_newest_and_the_best_are_kept(lineage: Lineage, backend: CpuBackend, checkpoints: Checkpoints) -> None:
    save_all(checkpoints, make_state(lineage, backend))

    checkpoints.prune(keep_last=1, best_step=2)

    assert [step_of(checkpoint) for checkpoint in checkpoints.finished()] == [2, 6]
    summary = checkpoints.summary(best_step=2)
    assert [record["step"] for record in summary["kept"]] == [2, 6]  # type: ignore[attr-defined]
    assert summary["best"] == {**summary["best"], "step": 2, "part": "step-000002"}  # type: ignore[dict-item]


def test_what_was_killed_in_the_middle_is_removed(
    lineage: Lineage, backend: CpuBackend, checkpoints: Checkpoints
) -> None:
    save_all(checkpoints, make_state(lineage, backend))
    half_saved = Path(checkpoints.finished()[0].location).parents[1] / "step-000008" / "w-0"
    half_saved.mkdir(parents=True)
    (half_saved / "resume-00.safetensors").touch()

    checkpoints.tidy()

    assert not half_saved.parent.exists()
    assert len(checkpoints.finished()) == 3


def test_a_checkpoint_holds_tensors_and_text_only(
    lineage: Lineage, backend: CpuBackend, checkpoints: Checkpoints
) -> None:
    save_all(checkpoints, make_state(lineage, backend))
    newest = checkpoints.finished()[-1]

    names = [file.name for file in newest.manifest.files]

    assert {Path(name).suffix for name in names} == {".safetensors", ".json", ".jsonl"}
    content = newest.read("resume-00.safetensors")
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert json.loads(header.pop("__metadata__")["state"]) == {"step": 6}
    assert {name.split("/")[0] for name in header} == {"adapter", "optimizer", "rng"}
