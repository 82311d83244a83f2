"""The warm-up of a compiler: training's own loop, over every kind of graph, that leaves seconds and nothing else."""

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from neuron_ops.errors import InvalidInput
from neuron_ops.launch import process
from neuron_ops.steps.warmup_launcher import RESULT
from tests.neuron_ops.training.workbench import make_lineage, make_model, make_recipe

if TYPE_CHECKING:
    from neuron_ops.training.loop import Loop

LOOP, WARM_UP = "neuron_ops.training.loop", "neuron_ops.steps.warmup"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("published") / "model")


@pytest.mark.parametrize("packing", [True, False])
def test_it_evaluates_takes_two_steps_and_evaluates_again(
    model: Path, tmp_path: Path, packing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    from neuron_ops.steps.warmup import warm_up

    lineage = make_lineage(tmp_path, make_recipe(model, training__max_steps=500, dataset__packing=packing))
    before = set(lineage.store.files.stamps(""))
    caplog.clear()
    caplog.set_level(logging.INFO, logger="neuron_ops")

    warm_up(lineage, tmp_path)

    lines = [record.getMessage() for record in caplog.records if record.name in (LOOP, WARM_UP)]
    assert [line.partition(" loss ")[0].partition(" took ")[0] for line in lines] == [
        "step 0 held-out",
        "2 steps",
        "step 2 held-out",
    ]
    assert set(lineage.store.files.stamps("")) == before, "no checkpoint"
    measured = json.loads((tmp_path / RESULT).read_text())
    assert set(measured) == {"first_evaluation_seconds", "first_step_seconds", "second_step_seconds", "machine"}
    assert measured["first_step_seconds"] > 0


@pytest.mark.parametrize("length", [{"max_steps": 500}, {"max_steps": None, "num_train_epochs": 3.0}], ids=str)
def test_a_short_recipe_has_the_graphs_of_the_long_one(model: Path, length: dict[str, float | None]) -> None:
    from neuron_ops.steps.warmup import shorten

    fields = {f"training__{name}": value for name, value in length.items()}
    recipe = make_recipe(model, training__max_grad_norm=0.5, training__warmup_steps=100, **fields)

    short = shorten(recipe)

    assert (short.training.max_steps, short.training.num_train_epochs) == (2, None)
    assert short.training.max_grad_norm == 0.5
    assert short.model_copy(update={"training": recipe.training}) == recipe


def test_it_evaluates_a_second_batch_which_adds_to_a_sum_on_the_device(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuron_ops.steps import warmup

    recipe, lengths = make_recipe(model), list[int]()
    lineage = make_lineage(tmp_path, recipe)

    def note_and_visit(loop: "Loop") -> dict[str, float]:
        lengths.append(len(loop._holdout_rows))
        return visit_every_graph(loop)

    visit_every_graph = warmup.visit_every_graph
    monkeypatch.setattr(warmup, "visit_every_graph", note_and_visit)

    warmup.warm_up(lineage, tmp_path)

    assert lengths == [2 * recipe.graph.micro_batch_size]


def test_numbers_that_mean_nothing_do_not_end_it(model: Path, tmp_path: Path) -> None:
    """Where graphs are only extracted nothing is computed, so a loss may be anything."""
    from neuron_ops.steps.warmup import warm_up

    lineage = make_lineage(tmp_path, make_recipe(model, training__learning_rate=1e30, training__max_grad_norm=1e30))

    warm_up(lineage, tmp_path)

    assert (tmp_path / RESULT).exists()


@pytest.mark.usefixtures("without_gpu")
@pytest.mark.slow
def test_an_error_is_left_for_the_process_that_started_it(model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model))
    recipe = tmp_path / "cuda.json"
    recipe.write_text(make_recipe(model, hardware__backend="cuda").to_json())
    argv = [sys.executable, "-m", "neuron_ops.steps.warmup", "--recipe", str(recipe), "--store", lineage.store.url]
    lines: list[str] = []

    ending = process.run([*argv, "--out", str(tmp_path)], {}, lines.append)

    assert ending.status == InvalidInput.exit_code, lines
    assert "Traceback" not in "".join(lines)
    assert str(ending.error).startswith("hardware.backend is cuda, but torch sees no GPU here")


def test_synthetic_rows_have_the_shape_of_real_ones(model: Path, tmp_path: Path) -> None:
    from neuron_ops.rows.synthetic import write_rows
    from neuron_ops.training.batches import Rows

    recipe = make_recipe(model)
    write_rows(tmp_path, recipe, vocabulary=7, train=5, holdout=2)

    rows = Rows(tmp_path / "train")
    batch = rows.first(5)

    assert len(rows) == 5
    assert len(Rows(tmp_path / "holdout")) == 2
    assert batch["input_ids"].shape == (5, recipe.graph.sequence_length)
    assert int(batch["input_ids"].max()) < 7
    assert (rows.supervised > 0).all()
