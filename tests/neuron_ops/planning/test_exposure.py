"""How often data is really seen, and cadences that never come to pass."""

import pytest

from neuron_ops.backends import layout
from neuron_ops.planning.data import DataPlan
from neuron_ops.planning.exposure import Exposure, exposure_warnings, plan_exposure, training_warnings
from neuron_ops.planning.quantities import Range
from neuron_ops.recipe import Recipe, TrainingSection
from neuron_ops.recipe_file import load_recipe


def data_of(sequences: int) -> DataPlan:
    """One dataset version with so many training sequences of one row each."""
    nothing = Range.exactly(0)
    return DataPlan(
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


def exposed(recipe: Recipe, sequences: int) -> Exposure:
    return plan_exposure(recipe, layout(recipe), data_of(sequences))


def test_the_seeds_one_epoch_saw_24_percent_of_the_rows() -> None:
    # 8 processes with TP 8 are one data-parallel rank: 1,200 steps of 3 sequences, of dolly's 15,011 rows.
    recipe = load_recipe(
        "tiny_llama_cpu", {"graph.micro_batch_size": 1, "graph.gradient_accumulation": 3, "training.steps": 1200}
    )

    exposure = exposed(recipe, 15_011)

    assert exposure.epochs is not None
    assert exposure.epochs.low == pytest.approx(0.2398, abs=1e-4)
    assert list(exposure_warnings(exposure)) == [
        "training.steps 1,200 x 3 sequences see 24% of the training data, less than one epoch. "
        "For all of it, set training.steps to 5,004."
    ]


def test_data_parallel_ranks_see_data_side_by_side() -> None:
    exposure = exposed(load_recipe("llama3_8b_lora_trn1"), 14_400)

    assert exposure.sequences_per_step == 3 * 4
    assert exposure.positions == 1_200 * 12 * 1_024
    assert exposure.epochs == Range.exactly(1.0)
    assert list(exposure_warnings(exposure)) == []


def test_evaluations_happen_before_between_and_after() -> None:
    exposure = exposed(load_recipe("llama3_8b_lora_trn1", {"training.steps": 1150}), 14_400)

    # Before step 1, at 100, 200, … 1,100, and after 1,150.
    assert exposure.evaluated_positions == Range.exactly(13 * 10 * 1_024)


def test_the_steps_of_an_epoch_round_up_to_one() -> None:
    exposure = exposed(load_recipe("llama3_8b_lora_trn1", {"training.steps": 101}), 5)

    (warning,) = exposure_warnings(exposure)
    assert warning.endswith("see each row 242 times. One epoch is 1 steps.")


def test_without_data_epochs_are_not_known_and_nobody_is_warned() -> None:
    recipe = load_recipe("llama3_8b_lora_trn1")

    exposure = plan_exposure(recipe, layout(recipe), None)

    assert exposure.epochs is None
    assert list(exposure_warnings(exposure)) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"evaluate_every": 30, "checkpoint_every": 30}, ["evaluate_every (30) is beyond", "checkpoint_every (30) is"]),
        ({"checkpoint_every": 40}, ["checkpoint_every (40) is beyond training.steps (20)"]),
        ({"warmup_steps": 11}, ["warmup_steps (11) is more than half of training.steps (20)"]),
        ({"early_stopping_patience": 2}, ["early_stopping_patience (2) x evaluate_every (10) is not below"]),
        ({"early_stopping_patience": 1, "warmup_steps": 10}, []),
        ({"learning_rate": 1e30}, ["training.learning_rate is 1e+30"]),
    ],
)
def test_cadences_that_never_come_to_pass_and_a_slip_of_the_pen_are_named(
    changes: dict[str, float], says: list[str]
) -> None:
    training = TrainingSection(**{"steps": 20, "evaluate_every": 10, "checkpoint_every": 10, **changes})

    warnings = list(training_warnings(training))

    assert len(warnings) == len(says)
    assert all(text in warning for text, warning in zip(says, warnings, strict=True))
