"""A training that was killed at any moment, or split over processes, ends with the numbers of an undisturbed one."""

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuron_ops.launch import process
from neuron_ops.steps import commands
from neuron_ops.steps.table import BY_VERB
from neuron_ops.training.history import Row
from tests.neuron_ops.training.workbench import (
    VERSION,
    Kill,
    Trainer,
    arguments,
    assert_nothing_is_left_over,
    checkpoints_of,
    contents,
    damage,
    history_of,
    make_lineage,
    make_model,
    make_recipe,
    open_lineage,
    start_server,
    train_here,
)

BACKWARD = "neuron_ops.backends.cpu_process:CpuProcess.backward"
SAVE_RESUME = "neuron_ops.training.checkpoints:_save_resume"
CREATE, REMOVE = "neuron_ops.store.files:LocalFiles.create", "neuron_ops.store.files:LocalFiles.remove"
PUBLISH = "neuron_ops.steps.train:draw_losses"
# Dropout draws random numbers in every step, so a generator in another state would show.
DROPOUT: dict[str, Any] = {"graph__lora__lora_dropout": 0.2}
TWO_PROCESSES: dict[str, Any] = {"graph__micro_batch_size": 1, "hardware__processes": 2}
# So fast that the held-out loss is lowest after the first step.
TOO_FAST: dict[str, Any] = {
    "training__max_steps": 5,
    "training__learning_rate": 0.3,
    "training__warmup_steps": 0,
    "training__lr_scheduler_type": "constant",
    "training__eval_steps": 1,
    "training__save_steps": 1,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("published") / "model")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    trainer = start_server(tmp_path_factory.mktemp("trainings"))
    yield trainer
    trainer.close()


# Steps have two backward passes each, and every second one ends with a checkpoint.
MOMENTS = {
    "before the first step": (Kill(BACKWARD, call=1), 0),
    "in the middle of accumulation": (Kill(BACKWARD, call=5, after=True), 2),
    "in the middle of the last accumulation": (Kill(BACKWARD, call=11, after=True), 4),
    "after an update": (Kill("torch.optim:AdamW.step", call=5, after=True), 4),
    "with only the adapter saved": (Kill(SAVE_RESUME, call=2), 2),
    "with all files saved but not durable": (Kill(SAVE_RESUME, call=3, after=True), 4),
    "before a checkpoint's manifest": (Kill(CREATE, call=2), 2),
    "after a checkpoint's manifest": (Kill(CREATE, call=2, after=True), 4),
    "while an old checkpoint is removed": (Kill(REMOVE, call=1, after=True), 6),
    "after the last checkpoint, before publishing": (Kill(PUBLISH, call=1), 6),
    "at a random moment": (Kill(BACKWARD, call=random.randint(5, 12)), None),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_training_ends_with_the_bytes_of_an_undisturbed_one(
    moment: str, trainer: Trainer, model: Path, tmp_path: Path
) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, **DROPOUT))
    kill, newest = MOMENTS[moment]

    killed = trainer.train(lineage, kill)
    ended = trainer.train(lineage)

    assert killed.codes == [-signal.SIGKILL], killed.log
    assert ended.codes == [0], ended.log
    resumed = open_lineage(tmp_path, lineage.recipe)
    assert newest in (None, resumed.require("lora_checkpoints").manifest.metrics["resumed_from_step"])
    assert contents(resumed) == trainer.uninterrupted(lineage), kill
    assert_nothing_is_left_over(lineage)


@pytest.mark.slow
def test_a_bfloat16_training_killed_twice_ends_with_the_same_bytes(
    trainer: Trainer, model: Path, tmp_path: Path
) -> None:
    lineage = make_lineage(
        tmp_path, make_recipe(model, graph__dtype="bfloat16", graph__gradient_checkpointing=True, **DROPOUT)
    )

    trainer.train(lineage, Kill(BACKWARD, call=7))
    trainer.train(lineage, Kill(SAVE_RESUME, call=1))
    ended = trainer.train(lineage)

    assert ended.codes == [0], ended.log
    assert contents(open_lineage(tmp_path, lineage.recipe)) == trainer.uninterrupted(lineage)


@pytest.mark.slow
def test_a_resumed_training_says_so(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, **DROPOUT))
    trainer.train(lineage, Kill(BACKWARD, call=11))

    ended = trainer.train(lineage)

    assert "resuming from the checkpoint at step 4" in ended.log
    metrics = open_lineage(tmp_path, lineage.recipe).require("lora_checkpoints").manifest.metrics
    assert metrics["resumed_from_step"] == 4
    assert metrics["steps"] == 6


@pytest.mark.slow
def test_the_program_survives_sigkill_from_outside(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, **DROPOUT))
    argv = [sys.executable, "-m", "neuron_ops.steps.train", *arguments(lineage, tmp_path)]
    last = f"step {random.randint(3, 5)}/6"

    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(last in line for line in process.stderr)
        process.kill()
    ended = trainer.train(lineage)

    assert process.returncode == -signal.SIGKILL
    assert ended.codes == [0], ended.log
    assert contents(open_lineage(tmp_path, lineage.recipe)) == trainer.uninterrupted(lineage)


@pytest.mark.slow
def test_two_processes_resume_exactly_under_torchrun(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, **TWO_PROCESSES, **DROPOUT))
    killed = trainer.train(lineage, Kill(BACKWARD, call=7, rank=1))
    recipe = tmp_path / "two.json"
    recipe.write_text(lineage.recipe.to_json())

    argv = commands.command(
        BY_VERB["train"], lineage.recipe, recipe, lineage.store.url, f"{lineage.store.url}/raw", VERSION
    )
    code = process.execute(argv, {})

    assert killed.codes[1] == -signal.SIGKILL, killed.log
    assert killed.codes[0] not in (0, None), "a rank whose peer died must not go on"
    assert code == 0
    resumed = open_lineage(tmp_path, lineage.recipe)
    assert resumed.require("lora_checkpoints").manifest.metrics["resumed_from_step"] == 2
    assert contents(resumed) == trainer.uninterrupted(lineage)


@pytest.mark.slow
def test_how_a_global_batch_is_split_does_not_matter(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    histories: list[list[Row]] = []
    for split in (
        {"graph__micro_batch_size": 4, "graph__gradient_accumulation_steps": 1},
        {"graph__micro_batch_size": 2, "graph__gradient_accumulation_steps": 2},
        {"graph__micro_batch_size": 1, "graph__gradient_accumulation_steps": 4},
        {"graph__micro_batch_size": 1, "graph__gradient_accumulation_steps": 2, "hardware__processes": 2},
        {"graph__micro_batch_size": 2, "graph__gradient_accumulation_steps": 1, "hardware__processes": 2},
    ):
        folder = tmp_path / str(len(histories))
        lineage = make_lineage(folder, make_recipe(model, **split))
        ended = trainer.train(lineage)
        assert set(ended.codes) == {0}, ended.log
        histories.append(history_of(open_lineage(folder, lineage.recipe).require("lora_checkpoints")).rows)

    for other in histories[1:]:
        assert len(other) == len(histories[0])
        for row, expected in zip(other, histories[0], strict=True):
            assert row == pytest.approx(expected, rel=2e-6), "float32 sums in another order, and nothing more"


def test_of_two_checkpoints_that_are_kept_one_is_the_newest_and_one_the_best(model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, **TOO_FAST))

    artifact = train_here(lineage)

    losses = history_of(artifact).evaluations()
    best = min((step for step in losses if step), key=lambda step: losses[step])
    assert best < 4, "the test needs a training that gets worse"
    kept = checkpoints_of(lineage)
    assert set(kept) == {f"step-{step:06d}" for step in (best, 5)}
    manifest = kept[f"step-{best:06d}"].manifest
    assert json.loads(artifact.read("best.json")) == {
        "step": best,
        "part": f"step-{best:06d}",
        "digest": manifest.digest_of(tuple(file.name for file in manifest.files if file.name != "history.jsonl")),
        "eval_loss": losses[best],
    }
    assert artifact.manifest.metrics["best_step"] == best
    assert artifact.manifest.metrics["best_eval_loss"] == losses[best]


def test_how_often_it_is_evaluated_does_not_change_what_is_made_from_it(model: Path, tmp_path: Path) -> None:
    """The losses that a checkpoint keeps, evaluations among them, were once part of the digest of the best one."""
    made = []
    for eval_steps in (1, 5):
        recipe = make_recipe(model, **{**TOO_FAST, "training__eval_steps": eval_steps, "training__save_steps": 5})
        made.append(train_here(make_lineage(tmp_path / str(eval_steps), recipe)))

    often, seldom = made
    assert len(history_of(often).evaluations()) > len(history_of(seldom).evaluations())
    assert often.address == seldom.address
    assert often.read("best.json") == seldom.read("best.json")


@pytest.mark.slow
def test_early_stopping_saves_its_last_step_and_a_resume_does_not_undo_it(
    trainer: Trainer, model: Path, tmp_path: Path
) -> None:
    patience = {"training__early_stopping_patience": 2, "training__save_steps": 4, "training__max_steps": 8}
    lineage = make_lineage(tmp_path, make_recipe(model, **{**TOO_FAST, **patience}))

    killed = trainer.train(lineage, Kill(PUBLISH, call=1))
    ended = trainer.train(lineage)

    assert killed.codes == [-signal.SIGKILL]
    assert ended.codes == [0], ended.log
    artifact = open_lineage(tmp_path, lineage.recipe).require("lora_checkpoints")
    losses = history_of(artifact).evaluations()
    stopped = max(losses)
    assert stopped % 4, "the test needs a stop between two checkpoints"
    assert min(losses.values()) == losses[stopped - 2], "two evaluations without improvement, and then none"
    assert f"step-{stopped:06d}" in checkpoints_of(lineage)
    assert artifact.manifest.metrics["stopped_early"]
    assert artifact.manifest.metrics["resumed_from_step"] == stopped
    assert contents(lineage) == trainer.uninterrupted(lineage)


@pytest.mark.parametrize("file", ["w/resume-00.safetensors", "w/adapter/adapter_model.safetensors", "manifest.json"])
@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_an_older_one_is_used(
    file: str, trainer: Trainer, model: Path, tmp_path: Path
) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, **DROPOUT))
    trainer.train(lineage, Kill(PUBLISH, call=1))
    damage(checkpoints_of(lineage)["step-000006"], file.replace("w/", "") if file[0] == "w" else f"../{file}")

    ended = trainer.train(lineage)

    assert ended.codes == [0], ended.log
    assert "checkpoint step-000006 is damaged" in ended.log
    assert "resuming from the checkpoint at step 4" in ended.log
    assert contents(open_lineage(tmp_path, lineage.recipe)) == trainer.uninterrupted(lineage)


@pytest.mark.slow
def test_with_every_checkpoint_damaged_training_begins_again(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, **DROPOUT))
    trainer.train(lineage, Kill(PUBLISH, call=1))
    for checkpoint in checkpoints_of(lineage).values():
        damage(checkpoint, "resume-00.safetensors")

    ended = trainer.train(lineage)

    assert ended.codes == [0], ended.log
    assert ended.log.count("is damaged") == 2
    assert contents(open_lineage(tmp_path, lineage.recipe)) == trainer.uninterrupted(lineage)
