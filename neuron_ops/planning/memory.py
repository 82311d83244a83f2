"""The memory of one training process on its device, part by part, compared with the device's capacity.

Weights, adapter, gradients and optimizer state follow from shapes. Activations follow Korthikanti et al. 2022
("Reducing Activation Recomputation in Large Transformer Models"): the count is what the backward pass needs from each
layer, per token. Their count is for a GPT that trains every weight; here the base is frozen, so a linear layer's input
is kept only if an adapter needs it. The lower end is what any implementation keeps, the upper end what transformers and
PEFT keep without fused kernels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from neuron_ops.backends import find_backend
from neuron_ops.backends.layout import Layout
from neuron_ops.errors import InvalidInput
from neuron_ops.models.shape import SAME_INPUT, ModelShape
from neuron_ops.planning.quantities import Range, show_bytes, total
from neuron_ops.recipe.schema import Recipe

FLOAT = 4
ITEM_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the memory."""

    name: str
    bytes: Range
    how: str


@dataclass(frozen=True, slots=True)
class MemoryForecast:
    """The memory of one process at its peak."""

    place: str
    parts: tuple[Part, ...]
    capacity: int | None
    """Bytes of the device; None if the recipe does not name the device."""

    @property
    def total(self) -> Range:
        """All parts at once."""
        return total([part.bytes for part in self.parts])


def forecast_memory(recipe: Recipe, shape: ModelShape, layout: Layout, capacity: int | None) -> MemoryForecast:
    """The parts, on the rank that needs the most memory."""
    graph, ranks, backend = recipe.graph, layout.tensor_parallel_size, find_backend(recipe.hardware)
    item = ITEM_BYTES[graph.dtype]
    stages = layout.pipeline_parallel_size
    weights = shape.parameters(ranks) * item / stages
    adapter = adapter_parameters(recipe, shape, ranks) / stages
    tokens = graph.micro_batch_size * graph.sequence_length
    copies = 2 if layout.data_parallel_size > 1 else 1  # a bucket for the exchange between ranks
    parts = (
        Part("base model", Range.exactly(weights), f"{shape.parameters(ranks):,} parameters in {graph.dtype}"),
        Part("adapter", Range.exactly(FLOAT * adapter), f"{adapter:,.0f} parameters in float32"),
        Part("gradients", Range(FLOAT * adapter, copies * FLOAT * adapter), "of the adapter, float32"),
        Part("AdamW", Range.exactly(2 * FLOAT * adapter), "two moments for each of the adapter's parameters, float32"),
        Part("activations", _activations(recipe, shape, ranks).scaled(tokens), _activations_how(recipe)),
        Part("logits and loss", _logits(item, shape, ranks).scaled(tokens), f"vocabulary {shape.vocabulary:,}"),
        Part("runtime", Range(*backend.runtime_bytes), "assumed"),
    )
    return MemoryForecast(backend.place, parts, capacity)


def check_memory(plan: MemoryForecast) -> None:
    """Refuse a plan whose lower end does not fit.

    Raises:
        InvalidInput: the device has too little memory.
    """
    if plan.capacity is not None and plan.total.low > plan.capacity:
        largest = max(plan.parts, key=lambda part: part.bytes.low)
        raise InvalidInput(
            f"{plan.place.capitalize()} would need at least {show_bytes(Range.exactly(plan.total.low))}, but has "
            f"{show_bytes(Range.exactly(plan.capacity))}; the largest part is: {largest.name}. Raise "
            "hardware.tensor_parallel_size, set graph.gradient_checkpointing, or lower graph.micro_batch_size or "
            "graph.sequence_length."
        )


def memory_warnings(plan: MemoryForecast) -> Iterator[str]:
    """Warn if the lower end fits but the upper end does not."""
    if plan.capacity is not None and plan.total.low <= plan.capacity < plan.total.high:
        yield (
            f"{plan.place.capitalize()} may need up to {show_bytes(Range.exactly(plan.total.high))} of its "
            f"{show_bytes(Range.exactly(plan.capacity))}. To be safe, set graph.gradient_checkpointing."
        )


def adapter_parameters(recipe: Recipe, shape: ModelShape, ranks: int) -> int:
    """Parameters of the adapter on one rank: every rank holds the whole factor on a layer's unsplit side."""
    lora, linears = recipe.graph.lora, shape.linears(ranks)
    return shape.layers * sum(lora.r * (linears[name].inputs + linears[name].outputs) for name in lora.target_modules)


def _activations(recipe: Recipe, shape: ModelShape, ranks: int) -> Range:
    """Bytes per token between forward and backward, over all layers of one rank."""
    graph = recipe.graph
    layer = total([_norms(recipe, shape, ranks), _attention(recipe, shape, ranks), _mlp(recipe, shape, ranks)])
    layer += _adapter_inputs(recipe, shape, ranks)
    if not graph.gradient_checkpointing:
        return layer.scaled(shape.layers)
    # Each layer keeps only its input, and one layer at a time is computed again.
    kept = ITEM_BYTES[graph.dtype] * shape.hidden * shape.layers
    return layer + Range(kept / ranks, kept)


def _norms(recipe: Recipe, shape: ModelShape, ranks: int) -> Range:
    """Bytes of the two norms' inputs: at best split by sequence over the ranks, at worst a float32 copy."""
    item = ITEM_BYTES[recipe.graph.dtype]
    return Range(2 * item * shape.hidden / ranks, 2 * FLOAT * shape.hidden)


def _attention(recipe: Recipe, shape: ModelShape, ranks: int) -> Range:
    """Bytes of queries, keys and values, plus output and mask or, with eager attention, every score."""
    item, linears, length = ITEM_BYTES[recipe.graph.dtype], shape.linears(ranks), recipe.graph.sequence_length
    queries, keys = linears["q_proj"].outputs, linears["k_proj"].outputs
    heads = queries // shape.head_dim
    low, high = item * (queries + 2 * keys), item * 3 * queries
    if recipe.graph.attn_implementation != "eager":
        return Range(low + item * queries, high + item * (queries + length) + FLOAT * heads)
    scores = heads * length
    # The softmax is computed and kept in float32, and again in the model's own format for the product with the values.
    return Range(low + item * scores, high + (FLOAT + (item if item < FLOAT else 0)) * scores)


def _mlp(recipe: Recipe, shape: ModelShape, ranks: int) -> Range:
    """Bytes of gate and up; without fused kernels, the activated gate too."""
    width = shape.linears(ranks)["gate_proj"].outputs
    item = ITEM_BYTES[recipe.graph.dtype]
    return Range(2 * item * width, 3 * item * width)


def _adapter_inputs(recipe: Recipe, shape: ModelShape, ranks: int) -> Range:
    """Bytes of the first factors' inputs: shared by layers at best, one float32 copy with its dropout each at worst."""
    graph, linears = recipe.graph, shape.linears(ranks)
    item, targets = ITEM_BYTES[graph.dtype], graph.lora.target_modules
    shared = sum(linears[group[0]].inputs for group in SAME_INPUT if set(group) & set(targets))
    each = sum(linears[name].inputs for name in targets)
    copies = 2 if graph.lora.lora_dropout else 1  # on a CPU, the result of dropout is kept in float32 too
    return Range(item * shared / ranks, copies * FLOAT * each + FLOAT * graph.lora.r * len(targets))


def _activations_how(recipe: Recipe) -> str:
    graph = recipe.graph
    again = "each layer's input and one layer's inside" if graph.gradient_checkpointing else "kept for every layer"
    return (
        f"{graph.micro_batch_size} x {graph.sequence_length:,} tokens, {graph.attn_implementation} attention, {again}"
    )


def _logits(item: int, shape: ModelShape, ranks: int) -> Range:
    """Bytes per token: float32 log-probabilities; without fused kernels also the logits twice and both gradients."""
    share = -(-shape.vocabulary // ranks)
    return Range(FLOAT * share, (3 * FLOAT + 2 * item) * share)
