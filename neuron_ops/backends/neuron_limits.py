"""What the training libraries for Trainium cannot do, or do wrong without saying so: refused, each in one sentence.

Found in optimum-neuron 0.4.5 on neuronx-distributed 0.15. No torch here, so a plan can ask before anything starts.
"""

from collections.abc import Callable
from typing import Any

from neuron_ops.errors import InvalidInput
from neuron_ops.recipe import Recipe

FLASH_MULTIPLE = 2048
"""The flash kernel takes sequences of a multiple of so many tokens."""
QKV = {"q_proj", "k_proj", "v_proj"}
GATE_AND_UP = {"gate_proj", "up_proj"}


def check_limits(recipe: Recipe, model_config: dict[str, Any]) -> None:  # Any: a model's config.json
    """Refuse what would fail on the device, or train something else than the recipe says.

    Raises:
        InvalidInput: the recipe asks for it.
    """
    heads = int(model_config["num_attention_heads"])
    key_value_heads = int(model_config.get("num_key_value_heads") or heads)
    for check in CHECKS:
        problem = check(recipe, key_value_heads)
        if problem is not None:
            raise InvalidInput(f"Backend neuron: {problem}")


def _pipeline(recipe: Recipe, key_value_heads: int) -> str | None:
    if recipe.hardware.pipeline_parallel == 1:
        return None
    return f"hardware.pipeline_parallel is {recipe.hardware.pipeline_parallel}, which this version cannot train. Set 1."


def _attention(recipe: Recipe, key_value_heads: int) -> str | None:
    if recipe.graph.attention == "sdpa":
        return "graph.attention is 'sdpa', which optimum-neuron does not have. Use 'flash' or 'eager'."
    if recipe.graph.attention == "flash" and recipe.graph.sequence_length % FLASH_MULTIPLE:
        return (
            f"graph.attention is 'flash', whose kernel takes multiples of {FLASH_MULTIPLE} tokens, but "
            f"graph.sequence_length is {recipe.graph.sequence_length}. Use 'eager', or another length."
        )
    return None


def _packing(recipe: Recipe, key_value_heads: int) -> str | None:
    if not recipe.dataset.packing:
        return None
    return (
        "dataset.packing is true, but optimum-neuron's attention has no mask between documents: packed rows would read "
        "one another. Set it to false."
    )


def _sequence(recipe: Recipe, key_value_heads: int) -> str | None:
    length, parts = recipe.graph.sequence_length, recipe.hardware.tensor_parallel
    if length % parts == 0:
        return None
    return (
        f"graph.sequence_length is {length}, which hardware.tensor_parallel ({parts}) does not divide; each rank holds "
        "a part of the sequence. Choose a multiple."
    )


def _trn2_heads(recipe: Recipe, key_value_heads: int) -> str | None:
    parts = recipe.hardware.tensor_parallel
    if "trn2" not in (recipe.hardware.instance_type or "") or parts <= key_value_heads:
        return None
    # Weights are replicated in trn1's order and gradients summed in trn2's: copies of one head drift apart.
    return (
        f"hardware.tensor_parallel is {parts}, more than the model's {key_value_heads} key-value heads; on trn2 the "
        f"libraries then sum gradients of different heads. Use at most {key_value_heads}."
    )


def _fused_targets(recipe: Recipe, key_value_heads: int) -> str | None:
    targets, parts = set(recipe.graph.lora.target_modules), recipe.hardware.tensor_parallel
    if key_value_heads % parts and targets & QKV not in (set(), QKV):
        return (
            f"with hardware.tensor_parallel {parts} over {key_value_heads} key-value heads q, k and v are one layer, "
            "so graph.lora.target_modules needs q_proj, k_proj and v_proj together, or none of them."
        )
    if targets & GATE_AND_UP not in (set(), GATE_AND_UP):
        return "gate_proj and up_proj are one layer, so graph.lora.target_modules needs both of them, or neither."
    return None


CHECKS: tuple[Callable[[Recipe, int], str | None], ...] = (
    _pipeline,
    _attention,
    _packing,
    _sequence,
    _trn2_heads,
    _fused_targets,
)
