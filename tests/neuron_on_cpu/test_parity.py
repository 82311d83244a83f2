"""The same tokens and the same seed give the same training on Trainium's libraries as on one CPU process."""

from pathlib import Path
from typing import Any

import pytest

from neuron_ops.run import Run
from tests.neuron_on_cpu.bench import TP2, TP2_DP2, make_recipe, make_run
from tests.neuron_ops.training.workbench import Trainer, history_of, open_run

pytestmark = pytest.mark.neuron_on_cpu

ROW_AND_COLUMN_LAYERS = {"graph__lora__target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]}
CLIPPED = {"training__max_grad_norm": 0.05}


def train(trainer: Trainer, folder: Path, model: Path, **overrides: Any) -> Run:
    run = make_run(folder, make_recipe(model, **overrides))
    ended = trainer.train(run)
    assert set(ended.codes) == {0}, ended.log
    return open_run(folder, run.recipe)


def rows_of(run: Run) -> list[dict[str, float]]:
    return history_of(run.require("lora_checkpoints")).rows


@pytest.mark.parametrize("layout", [TP2, TP2_DP2], ids=["TP 2", "TP 2 x DP 2"])
@pytest.mark.parametrize("clipping", [{}, CLIPPED], ids=["free", "clipped"])
def test_losses_and_norms_are_those_of_one_cpu_process(
    layout: dict[str, Any],
    clipping: dict[str, Any],
    trainer: Trainer,
    cpu_trainer: Trainer,
    model: Path,
    tmp_path: Path,
) -> None:
    expected = rows_of(train(cpu_trainer, tmp_path / "cpu", model, **ROW_AND_COLUMN_LAYERS, **clipping))

    rows = rows_of(train(trainer, tmp_path / "neuron", model, **ROW_AND_COLUMN_LAYERS, **clipping, **layout))

    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=5e-6), "float32 sums in another order, and nothing more"
