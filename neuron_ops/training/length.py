"""How many optimizer steps a training has: from `max_steps`, or from `num_train_epochs` and the data. No torch here."""

import math
from fractions import Fraction

from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.schema import TrainingSection


def num_steps(section: TrainingSection, sequences: int, sequences_per_step: int) -> int:
    """Optimizer steps over a split of so many sequences, `sequences_per_step` of which one step sees over all ranks.

    Epochs run into each other without a short batch at their end, so the steps of several epochs are rounded up once.

    Raises:
        InvalidInput: warm-up would never end.
    """
    if section.max_steps is not None:
        return section.max_steps
    assert section.num_train_epochs is not None, "the validator admits no section without either"
    # The decimal number that the recipe gives: as floats, 1.1 x 200 / 4 is a little above 55, and would be 56 steps.
    epochs = Fraction(str(section.num_train_epochs))
    steps = max(1, math.ceil(epochs * sequences / sequences_per_step))
    if section.warmup_steps >= steps:
        raise InvalidInput(
            f"training.warmup_steps is {section.warmup_steps}, but training.num_train_epochs "
            f"({section.num_train_epochs:g}) makes {steps} steps of {sequences_per_step} sequences from the "
            f"{sequences} that there are. Lower warmup_steps, or raise num_train_epochs."
        )
    return steps
