"""How often data is really seen, and cadences that never come to pass."""

import dataclasses
from typing import Any

import pytest

from neuron_ops.backends import layout
from neuron_ops.errors import InvalidInput
from neuron_ops.planning.data import DataForecast
from neuron_ops.planning.epochs import Epochs, epoch_warnings, forecast_epochs, training_warnings
from neuron_ops.planning.quantities import Range
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import Recipe


def data_of(sequences: int) -> DataForecast:
    """One dataset version with so many training sequences of one row each."""
    nothing = Range.exactly(0)
    return DataForecast(
        source="a test",
        rows=sequences + 10,
        training_rows=Range.exactly(sequences),
        held_out_rows=Range.exactly(10),
        tokens=nothing,
        supervised_share=nothing,
        sequences=Range.exactly(sequences),
        held_out_sequences=Range.exactly(10),
        padding_share=nothing,
        longest_row=None,
    )


def exposed(recipe: Recipe, sequences: int) -> Epochs:
    epochs = forecast_epochs(recipe, layout(recipe), data_of(sequences))
    assert epochs is not None
    return epochs


def test_the_seeds_one_epoch_saw_24_percent_of_the_rows() -> None:
    # 8 processes with TP 8 are one data-parallel rank: 1,200 steps of 3 sequences, of dolly's 15,011 rows.
    recipe = load_recipe(
        "tiny_llama_cpu",
        {"graph.micro_batch_size": 1, "graph.gradient_accumulation_steps": 3, "training.max_steps": 1200},
    )

    epochs = exposed(recipe, 15_011)

    assert epochs.number is not None
    assert epochs.number.low == pytest.approx(0.2398, abs=1e-4)
    assert list(epoch_warnings(recipe.training, epochs)) == [
        "1,200 training steps x 3 sequences see 24% of the training data, less than one epoch. "
        "For all of it, set training.max_steps to 5004, or training.num_train_epochs to 1 in its place."
    ]


def test_data_parallel_ranks_see_data_side_by_side() -> None:
    recipe = load_recipe("llama3_8b_lora_trn1")

    epochs = exposed(recipe, 14_400)

    assert epochs.sequences_per_step == 3 * 4
    assert epochs.positions == Range.exactly(1_200 * 12 * 1_024)
    assert epochs.number == Range.exactly(1.0)
    assert list(epoch_warnings(recipe.training, epochs)) == []


def test_evaluations_happen_before_between_and_after() -> None:
    epochs = exposed(load_recipe("llama3_8b_lora_trn1", {"training.max_steps": 1150}), 14_400)

    # Before step 1, at 100, 200, … 1,100, and after 1,150.
    assert epochs.evaluated_positions == Range.exactly(13 * 10 * 1_024)


def test_the_steps_of_an_epoch_round_up_to_one() -> None:
    recipe = load_recipe("llama3_8b_lora_trn1", {"training.max_steps": 101})

    epochs = exposed(recipe, 5)

    (warning,) = epoch_warnings(recipe.training, epochs)
    assert warning.endswith("see each row 242 times. One epoch is 1 step.")


def warnings_of(sequences: int, **training: Any) -> list[str]:
    """The warnings for steps of 4 sequences."""
    changes = {f"training.{name}": value for name, value in {"warmup_steps": 0, **training}.items()}
    recipe = load_recipe("tiny_llama_cpu", {**changes, "graph.micro_batch_size": 4})
    return list(epoch_warnings(recipe.training, exposed(recipe, sequences)))


def test_the_steps_that_are_advised_see_all_the_data() -> None:
    """An epoch of 156.5 steps was shown as 156, which leaves two sequences unseen."""
    (warning,) = warnings_of(626, max_steps=100)

    assert "set training.max_steps to 157, or training.num_train_epochs to 1 in its place." in warning


def test_one_step_is_singular_and_a_small_share_is_not_nothing() -> None:
    """It read "1 training steps x 4 sequences see 0% of the training data"."""
    (warning,) = warnings_of(1_000, max_steps=1)

    assert warning.startswith("1 training step x 4 sequences sees less than 1% of the training data,")


def test_a_share_between_nothing_and_some_is_given_by_its_larger_end() -> None:
    recipe = load_recipe("tiny_llama_cpu", {"training.max_steps": 20, "training.warmup_steps": 0})
    data = dataclasses.replace(data_of(1), sequences=Range(1_000, 100_000))
    epochs = forecast_epochs(recipe, layout(recipe), data)

    assert epochs is not None
    assert epochs.number is not None
    (warning,) = epoch_warnings(recipe.training, epochs)
    assert f" up to {epochs.number.high:.0%} of the training data" in warning


def test_a_recipe_with_epochs_is_not_told_to_set_steps_too() -> None:
    (warning,) = warnings_of(1_000, max_steps=None, num_train_epochs=0.5)

    assert warning.endswith(
        "see 50% of the training data, less than one epoch. For all of it, set training.num_train_epochs to 1."
    )


def test_without_data_epochs_are_not_known_and_nobody_is_warned() -> None:
    recipe = load_recipe("llama3_8b_lora_trn1")

    epochs = forecast_epochs(recipe, layout(recipe), None)

    assert epochs is not None
    assert epochs.number is None
    assert list(epoch_warnings(recipe.training, epochs)) == []


def test_epochs_in_the_recipe_become_steps_once_the_data_is_known() -> None:
    two_epochs = {"training.max_steps": None, "training.num_train_epochs": 2.0, "training.warmup_steps": 1}
    recipe = load_recipe("tiny_llama_cpu", {**two_epochs, "graph.micro_batch_size": 4})

    assert forecast_epochs(recipe, layout(recipe), None) is None
    epochs = exposed(recipe, 101)

    assert epochs.steps == Range.exactly(51), "the last of the 202 sequences get a step of their own"
    assert epochs.number == Range.exactly(2.0)


def test_a_warm_up_that_epochs_never_end_is_refused() -> None:
    few = {"training.max_steps": None, "training.num_train_epochs": 0.5, "training.warmup_steps": 10}

    with pytest.raises(
        InvalidInput, match=r"warmup_steps is 10, but training\.num_train_epochs \(0\.5\) makes 3 steps"
    ):
        exposed(load_recipe("tiny_llama_cpu", {**few, "graph.micro_batch_size": 4}), 20)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"eval_steps": 30, "save_steps": 30}, ["eval_steps (30) is more than the 20", "save_steps (30) is"]),
        ({"save_steps": 40}, ["save_steps (40) is more than the 20 steps"]),
        ({"warmup_steps": 11}, ["warmup_steps (11) is more than half of the 20 steps"]),
        ({"early_stopping_patience": 2}, ["early_stopping_patience (2) x eval_steps (10) is not below"]),
        ({"early_stopping_patience": 1, "warmup_steps": 10}, []),
        (
            {"max_steps": 1, "eval_steps": 2},
            ["eval_steps (2) is more than the 1 step of", "save_steps (10) is more than"],
        ),
        ({"learning_rate": 1e30}, ["training.learning_rate is 1e+30"]),
    ],
)
def test_cadences_that_never_come_to_pass_and_a_slip_of_the_pen_are_named(
    changes: dict[str, Any], says: list[str]
) -> None:
    short = {"max_steps": 20, "warmup_steps": 0, "eval_steps": 10, "save_steps": 10, **changes}
    recipe = load_recipe("tiny_llama_cpu", {f"training.{name}": value for name, value in short.items()})

    warnings = list(training_warnings(recipe.training, exposed(recipe, 100)))

    assert len(warnings) == len(says)
    assert all(text in warning for text, warning in zip(says, warnings, strict=True))
