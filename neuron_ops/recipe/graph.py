"""The graph section of a recipe, including the adapter: what decides the compiled graph, and nothing else.

Which of its fields end up in a graph depends on the backend (`graph_fields`); every other section belongs to schema.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from neuron_ops.recipe.section import Count, Fraction, Section
from neuron_ops.registry import MODEL_FAMILIES, load


class LoraSection(Section):
    """The low-rank adapter, in PEFT's terms."""

    r: Count = 16
    """Rank of the two factors."""
    lora_alpha: Annotated[float, Field(gt=0.0)] = 16.0
    """Scaling numerator: the update is multiplied by lora_alpha / r."""
    lora_dropout: Fraction = 0.05
    """Dropout on the adapter's input during training, as a probability."""
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    """Linear layers that get an adapter, by the last part of their name."""

    @field_validator("target_modules")
    @classmethod
    def _in_the_families_order(cls, modules: tuple[str, ...]) -> tuple[str, ...]:
        """Sort the modules: their order in a recipe has no meaning, so it must not change an address."""
        known = _linears()
        wrong = sorted(set(modules) - set(known))
        if wrong or not modules or len(set(modules)) < len(modules):
            raise ValueError(f"must name one or more, each once, of {', '.join(known)}")
        return tuple(name for name in known if name in modules)


class GraphSection(Section):
    """All fields that change the compiled graph, and no others: a change here costs a compilation on Trainium."""

    sequence_length: Annotated[int, Field(ge=16, multiple_of=8)] = 1024
    """Tokens per sequence. Not TRL's max_length: every sequence has exactly this length, because another
    shape would be another graph."""
    micro_batch_size: Count = 1
    """Sequences per forward pass on one data-parallel rank, in training and in evaluation. Unlike
    per_device_train_batch_size, it does not count per device: tensor-parallel devices share one micro-batch."""
    gradient_accumulation_steps: Count = 1
    """Forward passes per optimizer step on one data-parallel rank."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format of the frozen base model while training. Adapter and optimizer state stay in float32."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    """eager, PyTorch's scaled_dot_product_attention, or flash_attention_2, which on Trainium is Neuron's own kernel."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more compute."""
    torch_compile: bool = False
    """cpu and cuda: compile the model with torch.compile. neuron always compiles, with its own compiler."""
    lora: LoraSection = LoraSection()
    """The adapter."""


def _linears() -> list[str]:
    """Layers that an adapter may target in any family; config.json later shows whether the base model has them."""
    families = [load(MODEL_FAMILIES, name, "architecture").FAMILY for name in MODEL_FAMILIES]
    return list(dict.fromkeys(name for family in families for name in family.linears))
