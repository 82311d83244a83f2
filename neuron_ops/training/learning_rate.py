"""The learning rate of each step. A schedule object would have to be saved and restored; a function has no state."""

import math

from neuron_ops.recipe.schema import TrainingSection


def learning_rate(section: TrainingSection, step: int, num_steps: int) -> float:
    """Learning rate of optimizer step `step` (from 0) of `num_steps`; a pure function, so resuming needs no state.

    The warm-up begins above zero: zero is a constant of its own to a compiler, and would cost one more graph.
    """
    if step < section.warmup_steps:
        return section.learning_rate * (step + 1) / section.warmup_steps
    progress = (step - section.warmup_steps) / max(1, num_steps - section.warmup_steps)
    if section.lr_scheduler_type == "linear":
        return section.learning_rate * (1.0 - progress)
    if section.lr_scheduler_type == "cosine":
        return section.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
    return section.learning_rate
