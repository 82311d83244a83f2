"""A killed training ends with the bytes of an undisturbed one, whichever rank was killed, and whenever."""

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.neuron_on_cpu.bench import TP2, TP2_DP2, make_lineage, make_recipe
from tests.neuron_ops.training.workbench import (
    Kill,
    Trainer,
    arguments,
    checkpoints_of,
    contents,
    history_of,
    open_lineage,
)

pytestmark = pytest.mark.neuron_on_cpu

BACKWARD = "neuron_ops.backends.neuron_process:NeuronProcess.backward"
SAVE_ADAPTER = "neuron_ops.backends.neuron_process:NeuronProcess.save_adapter"
SAVE_RESUME = "neuron_ops.training.checkpoints:_save_resume"
CREATE = "neuron_ops.store.files:LocalFiles.create"
EVERY_RANK = -1
DROPOUT: dict[str, Any] = {"graph__lora__lora_dropout": 0.2}

# Steps have two backward passes each, and every second one ends with a checkpoint.
MOMENTS = {
    "one rank, between two backward passes": (TP2, Kill(BACKWARD, call=7, after=True, rank=1)),
    "all ranks at a random moment": (TP2, Kill(BACKWARD, call=random.randint(5, 12), rank=EVERY_RANK)),
    "one rank with its adapter saved and nothing else": (TP2, Kill(SAVE_ADAPTER, call=2, after=True, rank=1)),
    "one rank with half of its files": (TP2, Kill(SAVE_RESUME, call=2, rank=1)),
    "before a checkpoint's manifest": (TP2, Kill(CREATE, call=2)),
    "a rank that saves nothing": (TP2_DP2, Kill(BACKWARD, call=random.randint(5, 12), rank=3)),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_training_ends_with_the_bytes_of_an_undisturbed_one(
    moment: str, trainer: Trainer, model: Path, tmp_path: Path
) -> None:
    layout, kill = MOMENTS[moment]
    lineage = make_lineage(tmp_path, make_recipe(model, **layout, **DROPOUT))

    killed = trainer.train(lineage, kill)
    ended = trainer.train(lineage)

    assert -signal.SIGKILL in killed.codes, killed.log
    assert 0 not in killed.codes, "a rank whose peer died must not go on"
    assert set(ended.codes) == {0}, ended.log
    resumed = open_lineage(tmp_path, lineage.recipe)
    assert resumed.require("lora_checkpoints").manifest.metrics["resumed_from_step"] in (2, 4)
    assert contents(resumed) == trainer.uninterrupted(lineage), kill


def test_dropout_is_drawn_and_differs_from_step_to_step(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    losses = []
    for name, change in (("with", DROPOUT), ("without", {})):
        lineage = make_lineage(tmp_path / name, make_recipe(model, **TP2, **change))
        ended = trainer.train(lineage)
        assert set(ended.codes) == {0}, ended.log
        losses.append(history_of(open_lineage(tmp_path / name, lineage.recipe).require("lora_checkpoints")).losses())

    assert losses[0][6] != losses[1][6]


def test_early_stopping_and_the_best_checkpoint_work_as_on_a_cpu(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    too_fast = {
        "training__max_steps": 8,
        "training__learning_rate": 0.3,
        "training__warmup_steps": 0,
        "training__lr_scheduler_type": "constant",
        "training__eval_steps": 1,
        "training__save_steps": 1,
        "training__early_stopping_patience": 2,
    }
    lineage = make_lineage(tmp_path, make_recipe(model, **TP2, **too_fast))

    ended = trainer.train(lineage)

    assert set(ended.codes) == {0}, ended.log
    artifact = open_lineage(tmp_path, lineage.recipe).require("lora_checkpoints")
    losses = {step: loss for step, loss in history_of(artifact).evaluations().items() if step}
    best, last = min(losses, key=lambda step: losses[step]), max(losses)
    assert artifact.manifest.metrics["stopped_early"]
    assert artifact.manifest.metrics["best_step"] == best == last - 2
    assert set(checkpoints_of(lineage)) == {f"step-{step:06d}" for step in (best, last)}, (
        "two are kept, the best one counted"
    )


def test_under_torchrun_it_is_the_same_training(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, **TP2, **DROPOUT))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    program = ["-m", "tests.neuron_on_cpu.program", "neuron_ops.steps.train", *arguments(lineage, tmp_path)]

    ended = subprocess.run(
        [*torchrun, *program], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True, check=False
    )

    assert ended.returncode == 0, ended.stderr
    assert contents(open_lineage(tmp_path, lineage.recipe)) == trainer.uninterrupted(lineage)
