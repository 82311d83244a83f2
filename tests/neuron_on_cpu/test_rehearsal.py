"""The rehearsal on optimum-neuron's own code: the loop reaches every kind of graph in each rank, and saves nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from neuron_ops import rehearse
from neuron_ops.graphs.rehearsal import RESULT
from tests.neuron_on_cpu.bench import TP2, TP2_DP2, make_recipe, make_run
from tests.neuron_ops.training.workbench import Trainer, arguments

pytestmark = pytest.mark.neuron_on_cpu


def program(*_: str) -> None:
    """`python -m neuron_ops.rehearse`, in a process that has the stand-in device; it reads its flags itself."""
    rehearse.main()


@pytest.mark.parametrize(("machine", "ranks"), [(TP2, 2), (TP2_DP2, 4)], ids=["TP 2", "TP 2 x DP 2"])
def test_it_evaluates_takes_two_steps_and_evaluates_again(
    trainer: Trainer, model: Path, tmp_path: Path, machine: dict[str, Any], ranks: int
) -> None:
    run = make_run(tmp_path, make_recipe(model, training__steps=500, **machine))
    before = set(run.store.files.stamps(""))
    places = arguments(run, tmp_path)[: -len(["--dataset-version", "v"])]

    ended = trainer.request([*places, "--out", str(tmp_path)], ranks, call=f"{__name__}:program")

    assert set(ended.codes) == {0}, ended.log
    lines = [line.partition("step ")[2].partition(" loss")[0] for line in ended.log.splitlines() if " loss " in line]
    # One of the libraries gives the root logger a second handler, so each line is there twice.
    assert list(dict.fromkeys(lines)) == ["0 held-out", "2/2", "2 held-out"]
    assert json.loads((tmp_path / RESULT).read_text())["first_step_seconds"] > 0
    assert set(run.store.files.stamps("")) == before, "no checkpoint"
