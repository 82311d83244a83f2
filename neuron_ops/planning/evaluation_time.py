"""How long `evaluate` computes. It uses no accelerator, and for a large model a CPU takes hours.

The time covers the held-out rows through the base and through the tuned model, without loading, answers and the proof.
"""

from collections.abc import Iterator

from neuron_ops.backends import find_backend
from neuron_ops.models.shape import ModelShape
from neuron_ops.planning.assumptions import CPU_FLOPS
from neuron_ops.planning.data import DataForecast
from neuron_ops.planning.duration import forward_flops
from neuron_ops.planning.quantities import Range, show_seconds
from neuron_ops.recipe.schema import Recipe

NUM_MODELS = 2
LONG = 4 * 3600.0
"""Seconds above which a plan warns about the time."""


def evaluation_seconds(recipe: Recipe, data: DataForecast | None, shape: ModelShape | None) -> Range | None:
    """The range of seconds; None if data or model is not known, and for a device that no recipe names."""
    if data is None or shape is None or not find_backend(recipe.hardware).evaluates_on_cpu:
        return None
    positions = data.held_out_sequences.scaled(NUM_MODELS * recipe.graph.sequence_length)
    return positions.scaled(forward_flops(recipe, shape)).over(CPU_FLOPS.scaled(recipe.evaluation.threads))


def evaluation_warnings(recipe: Recipe, seconds: Range | None) -> Iterator[str]:
    """Warn if the evaluation may take longer than LONG."""
    if seconds is not None and seconds.high > LONG:
        yield (
            f"evaluation computes the held-out rows twice on the CPU: {show_seconds(seconds)} with evaluation.threads "
            f"{recipe.evaluation.threads}. Give it more threads, and its pod as many CPUs, or lower "
            f"dataset.holdout_fraction ({recipe.dataset.holdout_fraction:g})."
        )
