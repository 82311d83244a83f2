"""How often a training sees its data, and which intervals of a recipe never take effect.

The arithmetic of steps belongs here; the amount of data belongs to `data`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from neuron_ops.backends.layout import Layout
from neuron_ops.planning.data import DataForecast
from neuron_ops.planning.quantities import Range, show_factor, show_number_of
from neuron_ops.recipe.schema import Recipe, TrainingSection
from neuron_ops.training.length import num_steps

MANY_EPOCHS = 5.0
"""Above this, a small adapter mostly memorizes its rows."""
HIGHEST_RATE = 0.05
"""A learning rate above this is a typing error."""
ALMOST_ALL = 0.95
"""Share of the data below which a plan warns: the user may think that training sees all of it."""

LEAST_SHARE = 0.01
"""A share below this would be shown as 0% or 1%, which it is not."""


@dataclass(frozen=True, slots=True)
class Epochs:
    """The data that the steps of a training see."""

    steps: Range
    sequences_per_step: int
    sequences: Range
    """Sequences seen over all steps, including repetitions."""
    positions: Range
    """Positions that are trained on, padding included."""
    evaluated_positions: Range
    """Positions that the evaluations on held-out rows compute in addition, forward only."""
    number: Range | None
    """How often each sequence is seen; None if the number of sequences is not known."""
    steps_in_one: Range | None
    """Steps that see all data once, rounded up."""


def forecast_epochs(recipe: Recipe, layout: Layout, data: DataForecast | None) -> Epochs | None:
    """The numbers; None if the steps follow from data that is not known yet.

    Raises:
        InvalidInput: the warm-up is as long as the training, so it would never end.
    """
    graph, training = recipe.graph, recipe.training
    if training.max_steps is None and data is None:
        return None
    per_step = graph.micro_batch_size * graph.gradient_accumulation_steps * layout.data_parallel_size
    rows = data.sequences if data else Range.exactly(0)
    low, high = (num_steps(training, int(count), per_step) for count in (rows.low, rows.high))
    steps = Range(low, high)
    seen = steps.scaled(per_step)
    held_out = data.held_out_sequences if data else Range.exactly(0)
    # Before the first step, at every interval, and after the last.
    evaluations = Range(*(1 + -(-count // training.eval_steps) for count in (low, high)))
    return Epochs(
        steps=steps,
        sequences_per_step=per_step,
        sequences=seen,
        positions=seen.scaled(graph.sequence_length),
        evaluated_positions=held_out.times(evaluations).scaled(graph.sequence_length),
        number=_number(training, seen, data),
        steps_in_one=_rounded_up(data.sequences, per_step) if data else None,
    )


def _number(training: TrainingSection, seen: Range, data: DataForecast | None) -> Range | None:
    if training.num_train_epochs is not None:
        return Range.exactly(training.num_train_epochs)
    return seen.over(data.sequences) if data else None


def _rounded_up(sequences: Range, per_step: int) -> Range:
    low, high = (max(1, -(-int(count) // per_step)) for count in (sequences.low, sequences.high))
    return Range(low, high)


def epoch_warnings(training: TrainingSection, epochs: Epochs) -> Iterator[str]:
    """Warn if the number of steps may not be what the user meant."""
    number, epoch = epochs.number, epochs.steps_in_one
    if number is None or epoch is None:
        return
    per_step = show_number_of(Range.exactly(epochs.sequences_per_step), "sequence")
    see = "sees" if epochs.steps == Range.exactly(1) else "see"
    steps = f"{show_number_of(epochs.steps, 'training step')} x {per_step} {see}"
    most = Range.exactly(epoch.high)
    if number.high < ALMOST_ALL:
        all_of_it = "training.num_train_epochs to 1"
        if training.max_steps is not None:
            all_of_it = f"training.max_steps to {most.high:.0f}, or {all_of_it} in its place"
        yield f"{steps} {_share(number)} of the training data, less than one epoch. For all of it, set {all_of_it}."
    elif number.low > MANY_EPOCHS:
        yield f"{steps} each row {show_factor(number)} times. One epoch is {show_number_of(most, 'step')}."


def training_warnings(training: TrainingSection, epochs: Epochs | None) -> Iterator[str]:
    """Warn about intervals longer than the training and about a learning rate that is too high."""
    if training.learning_rate > HIGHEST_RATE:
        yield (
            f"training.learning_rate is {training.learning_rate:g}; adapters are trained with 1e-5 to 1e-2, and far "
            "above that range training diverges. Lower it."
        )
    steps = training.max_steps or (int(epochs.steps.high) if epochs else None)
    if steps is not None:
        yield from _cadence_warnings(training, steps)


def _cadence_warnings(training: TrainingSection, steps: int) -> Iterator[str]:
    all_steps = show_number_of(Range.exactly(steps), "step")
    if training.eval_steps > steps:
        yield (
            f"training.eval_steps ({training.eval_steps}) is more than the {all_steps} of the training: the held-out "
            "loss is only known before and after. Lower it."
        )
    if training.save_steps > steps:
        yield (
            f"training.save_steps ({training.save_steps}) is more than the {all_steps} of the training: an "
            "interruption loses all of it. Lower it."
        )
    if training.warmup_steps > steps / 2:
        yield (
            f"training.warmup_steps ({training.warmup_steps}) is more than half of the {all_steps} of the training: "
            "the learning rate is hardly ever at its peak. Lower it."
        )
    patience = training.early_stopping_patience
    if patience is not None and patience * training.eval_steps >= steps:
        yield (
            f"training.early_stopping_patience ({patience}) x eval_steps ({training.eval_steps}) is not below the "
            f"{all_steps} of the training, so early stopping never happens. Lower one of them."
        )


def _share(epochs: Range) -> str:
    if epochs.low < LEAST_SHARE:
        return f"less than {LEAST_SHARE:.0%}" if epochs.high < LEAST_SHARE else f"up to {epochs.high:.0%}"
    low, high = f"{epochs.low:.0%}", f"{epochs.high:.0%}"
    return low if low == high else f"{low} to {high}"
