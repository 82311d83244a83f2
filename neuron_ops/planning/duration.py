"""How long a training takes and what it costs, as ranges with their assumptions.

A finished training with the same graph and layout gives the rate; otherwise Trainium's rate is assumed from its peak.
For other devices no rate is assumed: a recipe does not name the CPU or the GPU.
"""

from dataclasses import dataclass
from itertools import islice
from typing import Any

from neuron_ops.backends.instances import Instance, find_instance
from neuron_ops.backends.layout import Layout
from neuron_ops.models.shape import ModelShape
from neuron_ops.planning.assumptions import COMPILATION, COMPILATION_SOURCE, UTILIZATION, UTILIZATION_SOURCE
from neuron_ops.planning.epochs import Epochs
from neuron_ops.planning.graphs import GraphCacheForecast
from neuron_ops.planning.quantities import Range
from neuron_ops.recipe.first_defaults import field_values, flatten, without_first_defaults
from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import GRAPH
from neuron_ops.store.artifacts import Artifact

TRAININGS = "lora_checkpoints"
MAX_TRAININGS = 50
"""Most manifests that are read to find a rate: in S3, one request each, and one for each dataset version."""
MEASURED = "measured by finished trainings of this base model with this graph and layout"
FORWARD_SHARE = 0.5
"""An evaluation's share of a training step's work: through a frozen base, backward costs as much as forward."""


@dataclass(frozen=True, slots=True)
class DurationForecast:
    """Time for which an accelerator is booked, without waiting for a node, loading and checkpoints."""

    tokens_per_second: Range | None
    """Over all ranks, padding included."""
    rate_source: str
    training_seconds: Range | None
    compile_seconds: Range | None
    """Zero if the graphs are compiled already; None if nothing is known."""
    compile_source: str
    usd_per_hour: float | None
    """Price of all nodes together."""
    price_source: str
    usd: Range | None


def forecast_duration(
    lineage: Lineage, layout: Layout, epochs: Epochs, graphs: GraphCacheForecast | None, shape: ModelShape | None
) -> DurationForecast:
    """Combine rate, work and price, as far as each is known."""
    recipe, known = lineage.recipe, find_instance(lineage.recipe.hardware.instance_type)
    measured = _measured_rate(lineage, layout)
    rate, rate_source = (measured, MEASURED) if measured else _assumed_rate(recipe, layout, known, shape)
    work = epochs.positions + epochs.evaluated_positions.scaled(FORWARD_SHARE)
    training = work.over(rate) if rate else None
    compilation, compile_source = _compilation(recipe, graphs, known)
    price, price_source = _price(recipe, known)
    booked = training + compilation if training and compilation else None
    return DurationForecast(
        tokens_per_second=rate,
        rate_source=rate_source,
        training_seconds=training,
        compile_seconds=compilation,
        compile_source=compile_source,
        usd_per_hour=price,
        price_source=price_source,
        usd=booked.scaled(price / 3600) if booked and price is not None else None,
    )


def flops_per_token(recipe: Recipe, shape: ModelShape) -> float:
    """Floating-point operations for one token: forward, and backward through a frozen base without weight gradients.

    Each multiplied parameter costs 2 forward and 2 backward. In attention, each number of a query costs 4 forward and 8
    backward for each position of the sequence. Gradient checkpointing repeats the forward.
    """
    backward = 2 * shape.multiplied_parameters() + 8 * _attention(recipe, shape)
    return backward + forward_flops(recipe, shape) * (2 if recipe.graph.gradient_checkpointing else 1)


def forward_flops(recipe: Recipe, shape: ModelShape) -> float:
    """The forward part of `flops_per_token`."""
    return 2 * shape.multiplied_parameters() + 4 * _attention(recipe, shape)


def _attention(recipe: Recipe, shape: ModelShape) -> int:
    """Size of all queries of one token, times the positions of the sequence."""
    return shape.layers * shape.heads * shape.head_dim * recipe.graph.sequence_length


def _measured_rate(lineage: Lineage, layout: Layout) -> Range | None:
    base = lineage.find("base_model")
    if base is None:
        return None
    wanted = _speed(field_values(lineage.recipe, GRAPH), without_first_defaults(flatten({"layout": layout.as_json()})))
    alike = [
        training.manifest
        for training in islice(lineage.store.finished(TRAININGS), MAX_TRAININGS)
        if _speed(training.manifest.reads.get("recipe", {}), training.manifest.reads.get("derived", {})) == wanted
        and _base_digest(training) == base.manifest.digest
    ]
    rates = [float(manifest.metrics.get("tokens_per_second") or 0) for manifest in alike]
    if not any(rates):
        return None
    return Range(min(filter(None, rates)), max(rates))


def _base_digest(training: Artifact) -> str | None:
    record = training.manifest.inputs.get("base_model")
    return record.digest if record else None


def _speed(fields: dict[str, Any], derived: dict[str, Any]) -> dict[str, Any]:  # Any: JSON of a manifest
    """The fields that decide a training's speed: graph and layout."""
    return {name: value for name, value in (fields | derived).items() if name.startswith(("graph.", "layout."))}


def _assumed_rate(
    recipe: Recipe, layout: Layout, known: Instance | None, shape: ModelShape | None
) -> tuple[Range | None, str]:
    if known is None:
        return None, (
            "not estimated: no training with this graph and layout is finished in this store, and the recipe names "
            "neither the CPU nor the GPU"
        )
    if shape is None:
        return None, "not estimated until base_model is materialized, because its size is not known"
    peak = known.core_flops * layout.world_size
    return UTILIZATION.scaled(peak / flops_per_token(recipe, shape)), UTILIZATION_SOURCE


def _compilation(recipe: Recipe, graphs: GraphCacheForecast | None, known: Instance | None) -> tuple[Range | None, str]:
    if graphs is not None and graphs.is_hit:
        return Range.exactly(0), "nothing to compile: the graphs are finished"
    if known is not None:
        return COMPILATION, COMPILATION_SOURCE
    if recipe.graph.torch_compile:
        return None, "not estimated for torch.compile; the step says how long it took"
    return Range.exactly(0), "nothing to compile: training runs eagerly"


def _price(recipe: Recipe, known: Instance | None) -> tuple[float | None, str]:
    hardware = recipe.hardware
    if hardware.usd_per_hour is not None:
        return hardware.nodes * hardware.usd_per_hour, "hardware.usd_per_hour"
    if known is None:
        return None, "not known; set hardware.usd_per_hour"
    source = f"{known.price_source}, {known.price_date}"
    return hardware.nodes * known.usd_per_hour, f"{source}; check it, or set hardware.usd_per_hour"
