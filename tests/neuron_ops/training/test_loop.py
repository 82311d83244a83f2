"""The loop's parts, called one by one as a compiler's warm-up calls them, against the whole of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from neuron_ops.backends import open_backend
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps.addresses import Lineage
from tests.neuron_ops.training.workbench import make_lineage, make_model, make_recipe

if TYPE_CHECKING:
    from neuron_ops.training.loop import Loop


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("published") / "model")


def open_loop(folder: Path, recipe: Recipe, **options: object) -> Loop:
    from neuron_ops.training.loop import Loop

    lineage: Lineage = make_lineage(folder, recipe)
    rows, base = (Path(lineage.require(name).location) for name in ("tokenized_dataset", "base_model"))
    return Loop(recipe, open_backend(recipe), rows, base, **options)  # type: ignore[arg-type]


def test_its_parts_one_by_one_are_the_whole(model: Path, tmp_path: Path) -> None:
    recipe = make_recipe(model, graph__lora__lora_dropout=0.2)
    whole = open_loop(tmp_path / "whole", recipe)
    whole.run()
    parts = open_loop(tmp_path / "parts", recipe)

    parts.evaluate(0)
    for step in range(6):
        parts.train_step(step)
        if step % 2:
            parts.read_losses()
            parts.evaluate(step + 1)

    assert parts.history.losses() == whole.history.losses()
    assert parts.history.evaluations() == whole.history.evaluations()


def test_without_checkpoints_nothing_is_best_and_without_a_file_nothing_is_written(model: Path, tmp_path: Path) -> None:
    loop = open_loop(tmp_path, make_recipe(model))
    before = sorted(tmp_path.rglob("*"))

    loop.run()

    assert loop.metrics()["steps"] == 6
    assert loop.metrics()["best_step"] is None
    assert sorted(tmp_path.rglob("*")) == before


def test_every_micro_batch_is_progress(model: Path, tmp_path: Path) -> None:
    calls: list[None] = []
    loop = open_loop(tmp_path, make_recipe(model), on_progress=lambda: calls.append(None))

    loop.train_step(0)

    assert len(calls) == 2


@pytest.mark.parametrize("checked", [True, False])
def test_numbers_end_a_training_only_where_they_are_checked(model: Path, tmp_path: Path, checked: bool) -> None:
    huge = {"training__learning_rate": 1e30, "training__max_grad_norm": 1e30}
    loop = open_loop(tmp_path, make_recipe(model, **huge), check_numbers=checked)

    if checked:
        with pytest.raises(InvalidInput, match="Training diverged"):
            loop.run()
    else:
        loop.run()
