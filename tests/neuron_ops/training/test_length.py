"""How many steps so many epochs are: exactly, by the decimal number that a recipe gives."""

import pytest

from neuron_ops.recipe.schema import TrainingSection
from neuron_ops.training.length import num_steps


@pytest.mark.parametrize(
    ("epochs", "sequences", "steps"),
    [(1.1, 200, 55), (2.2, 100, 55), (2.2, 180, 99), (1.1, 201, 56), (3.0, 101, 76), (0.001, 5, 1)],
)
def test_steps_are_rounded_up_from_the_exact_product(epochs: float, sequences: int, steps: int) -> None:
    """As floats, 1.1 x 200 / 4 is a little above 55, and a 56th step was trained and scheduled."""
    assert num_steps(TrainingSection(num_train_epochs=epochs), sequences, sequences_per_step=4) == steps


def test_steps_that_are_given_are_the_steps() -> None:
    assert num_steps(TrainingSection(max_steps=7), sequences=100, sequences_per_step=4) == 7
