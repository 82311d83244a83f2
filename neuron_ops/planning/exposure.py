"""How often a training sees its data, and which cadences of a recipe never come to pass.

The arithmetic of steps belongs here; how much data there is belongs to `data`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from neuron_ops.backends import Layout
from neuron_ops.planning.data import DataPlan
from neuron_ops.planning.quantities import Range, show_factor
from neuron_ops.recipe import Recipe, TrainingSection

MANY_EPOCHS = 5.0
"""From here on a small adapter mostly learns its rows by heart."""
HIGHEST_RATE = 0.05
"""A learning rate above this is a slip of the pen."""
ALMOST_ALL = 0.95
"""Less of the data than this is worth a warning: somebody thinks that it is all seen."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """What the steps of a training look at."""

    steps: int
    sequences_per_step: int
    sequences: int
    """Seen over all steps, repetitions counted."""
    positions: int
    """Tokens that are trained on, padding counted."""
    evaluated_positions: Range
    """Tokens that the evaluations on held-out rows compute besides, forward only."""
    epochs: Range | None
    """How often each sequence is seen; None where the number of sequences is not known."""
    steps_of_an_epoch: Range | None


def plan_exposure(recipe: Recipe, layout: Layout, data: DataPlan | None) -> Exposure:
    """The arithmetic."""
    graph, steps = recipe.graph, recipe.training.steps
    per_step = graph.micro_batch_size * graph.gradient_accumulation * layout.data_parallel
    seen = Range.exactly(steps * per_step)
    held_out = data.held_out_sequences if data else Range.exactly(0)
    # Before the first step, at every interval, and after the last.
    evaluations = 1 + -(-steps // recipe.training.evaluate_every)
    return Exposure(
        steps=steps,
        sequences_per_step=per_step,
        sequences=steps * per_step,
        positions=steps * per_step * graph.sequence_length,
        evaluated_positions=held_out.scaled(evaluations * graph.sequence_length),
        epochs=seen.over(data.sequences) if data else None,
        steps_of_an_epoch=data.sequences.scaled(1 / per_step) if data else None,
    )


def exposure_warnings(exposure: Exposure) -> Iterator[str]:
    """Why the number of steps may not be what somebody meant."""
    epochs, epoch = exposure.epochs, exposure.steps_of_an_epoch
    if epochs is None or epoch is None:
        return
    one = f"{epoch.high:,.0f}" if epoch.high >= 1 else "1"
    if epochs.high < ALMOST_ALL:
        yield (
            f"training.steps {exposure.steps:,} x {exposure.sequences_per_step} sequences see "
            f"{_share(epochs)} of the training data, less than one epoch. For all of it, set training.steps to {one}."
        )
    elif epochs.low > MANY_EPOCHS:
        yield (
            f"training.steps {exposure.steps:,} x {exposure.sequences_per_step} sequences see each row "
            f"{show_factor(epochs)} times. One epoch is {one} steps."
        )


def training_warnings(training: TrainingSection) -> Iterator[str]:
    """What no field's own limits can tell: intervals longer than the training itself, a rate that nobody means."""
    steps = training.steps
    if training.evaluate_every > steps:
        yield (
            f"training.evaluate_every ({training.evaluate_every}) is beyond training.steps ({steps}): the held-out "
            "loss is only known before and after. Lower it."
        )
    if training.checkpoint_every > steps:
        yield (
            f"training.checkpoint_every ({training.checkpoint_every}) is beyond training.steps ({steps}): whatever "
            "interrupts the training throws all of it away. Lower it."
        )
    if training.warmup_steps > steps / 2:
        yield (
            f"training.warmup_steps ({training.warmup_steps}) is more than half of training.steps ({steps}): the "
            "learning rate is hardly ever at its peak. Lower it."
        )
    if training.learning_rate > HIGHEST_RATE:
        yield (
            f"training.learning_rate is {training.learning_rate:g}; adapters are trained with 1e-5 to 1e-2, and far "
            "above that a training diverges. Lower it."
        )
    patience = training.early_stopping_patience
    if patience is not None and patience * training.evaluate_every >= steps:
        yield (
            f"training.early_stopping_patience ({patience}) x evaluate_every ({training.evaluate_every}) is not below "
            f"training.steps ({steps}), so it never stops anything. Lower one of them."
        )


def _share(epochs: Range) -> str:
    low, high = f"{epochs.low:.0%}", f"{epochs.high:.0%}"
    return low if low == high else f"{low} to {high}"
