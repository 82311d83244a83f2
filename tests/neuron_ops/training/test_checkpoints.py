"""Checkpoints: whole or not there, found again, thinned out, and nothing in them that runs."""

from __future__ import annotations

import json
import logging
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from neuron_ops.steps.addresses import Lineage
from neuron_ops.training.history import History
from tests.neuron_ops.training.workbench import damage, make_lineage, make_model, make_recipe

if TYPE_CHECKING:
    from neuron_ops.backends.cpu_process import CpuProcess
    from neuron_ops.training.checkpoints import Checkpoints
    from neuron_ops.training.state import TrainingState

STEPS = (2, 4, 6)
HISTORY = History([{"step": step, "eval_loss": 5.0 - step / 10} for step in (0, *STEPS)])
WORSE_AND_WORSE = History([{"step": step, "eval_loss": 5.0 + step / 10} for step in (0, *STEPS)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("published") / "model")


@pytest.fixture
def lineage(model: Path, tmp_path: Path) -> Lineage:
    return make_lineage(tmp_path, make_recipe(model))


@pytest.fixture
def backend(lineage: Lineage) -> CpuProcess:
    from neuron_ops.backends.cpu_process import CpuProcess

    return CpuProcess(lineage.recipe)


@pytest.fixture
def checkpoints(lineage: Lineage, backend: CpuProcess) -> Checkpoints:
    from neuron_ops.training.checkpoints import Checkpoints
    from neuron_ops.training.ranks import Ranks

    return Checkpoints(lineage.store, lineage.provenance("lora_checkpoints"), backend, Ranks())


def make_state(lineage: Lineage, backend: CpuProcess) -> TrainingState:
    import torch

    from neuron_ops.training.state import TrainingState

    with lineage.require("base_model").local() as folder:
        model = backend.load_model(folder, lineage.recipe)
    parameters = backend.trainable(model)
    return TrainingState(model, parameters, torch.optim.AdamW(parameters.values(), lr=0.1))


def take_a_step(state: TrainingState) -> None:
    import torch

    for parameter in state.parameters.values():
        parameter.grad = torch.randn_like(parameter)
    state.optimizer.step()


def save_all(checkpoints: Checkpoints, state: TrainingState, history: History = HISTORY) -> None:
    for step in STEPS:
        take_a_step(state)
        checkpoints.save(step, state, history)


def test_restoring_brings_back_every_bit(lineage: Lineage, backend: CpuProcess, checkpoints: Checkpoints) -> None:
    import torch

    state = make_state(lineage, backend)
    save_all(checkpoints, state)
    other = make_state(lineage, backend)

    step, history = checkpoints.restore_newest(other)

    assert (step, history.rows) == (6, HISTORY.rows)
    for name, parameter in state.parameters.items():
        assert torch.equal(parameter, other.parameters[name])
        saved, restored = state.optimizer.state[parameter], other.optimizer.state[other.parameters[name]]
        assert saved.keys() == restored.keys()
        assert all(torch.equal(saved[key], restored[key]) for key in saved)


def test_without_a_checkpoint_training_begins_at_step_zero(
    lineage: Lineage, backend: CpuProcess, checkpoints: Checkpoints
) -> None:
    step, history = checkpoints.restore_newest(make_state(lineage, backend))

    assert (step, history.rows) == (0, [])


def test_a_damaged_checkpoint_that_would_be_kept_as_the_best_goes_as_well(
    lineage: Lineage, backend: CpuProcess, checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    from neuron_ops.training.checkpoints import step_of

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
    lineage: Lineage, backend: CpuProcess, checkpoints: Checkpoints
) -> None:
    state = make_state(lineage, backend)
    save_all(checkpoints, state)
    file = Path(checkpoints.finished()[-1].location) / "resume-00.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    step, _ = checkpoints.restore_newest(state)

    assert step == 4


@pytest.mark.parametrize(
    ("history", "total_limit", "kept"),
    [
        (WORSE_AND_WORSE, 1, [2, 6]),  # resuming needs the newest, and the best one is never lost
        (WORSE_AND_WORSE, 2, [2, 6]),
        (WORSE_AND_WORSE, 3, [2, 4, 6]),
        (HISTORY, 1, [6]),
        (HISTORY, 2, [4, 6]),
    ],
    ids=["1, best is old", "2, best is old", "3, best is old", "1, best is newest", "2, best is newest"],
)
def test_so_many_checkpoints_are_kept_the_best_one_counted(
    lineage: Lineage,
    backend: CpuProcess,
    checkpoints: Checkpoints,
    history: History,
    total_limit: int,
    kept: list[int],
) -> None:
    from neuron_ops.training.checkpoints import step_of

    save_all(checkpoints, make_state(lineage, backend), history)

    checkpoints.prune(total_limit)

    assert [step_of(checkpoint) for checkpoint in checkpoints.finished()] == kept
    summary = checkpoints.summary()
    assert [record["step"] for record in summary["kept"]] == kept  # type: ignore[attr-defined]


def test_how_many_are_kept_does_not_change_what_is_said_of_the_best_one(
    lineage: Lineage, backend: CpuProcess, checkpoints: Checkpoints
) -> None:
    save_all(checkpoints, make_state(lineage, backend), WORSE_AND_WORSE)
    before = checkpoints.summary()["best"]

    checkpoints.prune(1)

    assert checkpoints.summary()["best"] == before
    manifest = checkpoints.finished()[0].manifest
    digest = manifest.digest_of(tuple(file.name for file in manifest.files if file.name != "history.jsonl"))
    assert before == {"step": 2, "part": "step-000002", "digest": digest, "eval_loss": 5.2}


def test_what_was_killed_in_the_middle_is_removed(
    lineage: Lineage, backend: CpuProcess, checkpoints: Checkpoints
) -> None:
    save_all(checkpoints, make_state(lineage, backend))
    half_saved = Path(checkpoints.finished()[0].location).parents[1] / "step-000008" / "w-0"
    half_saved.mkdir(parents=True)
    (half_saved / "resume-00.safetensors").touch()

    checkpoints.tidy()

    assert not half_saved.parent.exists()
    assert len(checkpoints.finished()) == 3


def test_a_checkpoint_holds_tensors_and_text_only(
    lineage: Lineage, backend: CpuProcess, checkpoints: Checkpoints
) -> None:
    save_all(checkpoints, make_state(lineage, backend))
    newest = checkpoints.finished()[-1]

    names = [file.name for file in newest.manifest.files]

    assert {Path(name).suffix for name in names} == {".safetensors", ".json", ".jsonl"}
    content = newest.read("resume-00.safetensors")
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert json.loads(header.pop("__metadata__")["state"]) == {"step": 6}
    assert {name.split("/")[0] for name in header} == {"adapter", "optimizer"}, "no generator's state"
