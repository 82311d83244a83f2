"""What a recipe may not ask of Trainium, each refused in one sentence before anything starts.

First what the recipe alone shows, then what the base model's config.json shows. Each rule is one of optimum-neuron
0.4.5 and neuronx-distributed 0.15: they would fail minutes after the start on every core, or train something wrong.
"""

from collections.abc import Mapping
from typing import Any

from neuron_ops.backends.instances import Instance
from neuron_ops.backends.neuron_groups import sums_other_heads
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.schema import HardwareSection, Recipe

FLASH_BLOCK = 2048
"""Tokens; the flash kernel takes sequences of a multiple of them only."""

QUERY_KEY_VALUE = frozenset({"q_proj", "k_proj", "v_proj"})
DIVIDED_SIZES = ("num_attention_heads", "intermediate_size", "vocab_size")
GATE_UP = frozenset({"gate_proj", "up_proj"})

Config = Mapping[str, Any]  # Any: config.json of a Hugging Face model


def refuse_recipe(recipe: Recipe, instance: Instance) -> None:
    """Everything that the recipe alone shows.

    Raises:
        InvalidInput: Trainium cannot do what it asks.
    """
    _refuse_world(recipe.hardware, instance)
    _refuse_graph(recipe)
    if recipe.dataset.packing:
        raise InvalidInput(
            "dataset.packing is true, but attention on Trainium has no mask between packed rows: they would attend to "
            "each other. Set it to false."
        )


def refuse_model(recipe: Recipe, config: Config, instance: Instance) -> None:
    """Everything that shows once the base model's config.json is there.

    Raises:
        InvalidInput: the model cannot be divided as the recipe says, or its adapter cannot.
    """
    ranks = recipe.hardware.tensor_parallel_size
    _refuse_sizes(ranks, config)
    key_values = int(config.get("num_key_value_heads") or config["num_attention_heads"])
    if key_values % ranks:
        _refuse_shared_heads(recipe, config, key_values, instance)
    if recipe.graph.attn_implementation == "flash_attention_2" and config.get("attention_dropout"):
        raise InvalidInput(
            f"graph.attn_implementation is 'flash_attention_2', but the base model's attention_dropout is "
            f"{config['attention_dropout']} and the kernel has no dropout. Set graph.attn_implementation to 'eager'."
        )


def _refuse_world(hardware: HardwareSection, instance: Instance) -> None:
    cores = instance.cores
    if hardware.processes not in (None, cores):
        raise InvalidInput(
            f"hardware.processes is {hardware.processes}, but {hardware.instance_type} has {cores} cores and idle "
            "cores are paid for. Remove the field: it is derived from instance_type."
        )
    if hardware.pipeline_parallel_size > 1:
        raise InvalidInput(
            f"hardware.pipeline_parallel_size is {hardware.pipeline_parallel_size}, but this version trains every "
            "layer on each tensor-parallel group. Set it to 1."
        )
    if cores % hardware.tensor_parallel_size:
        raise InvalidInput(
            f"hardware.tensor_parallel_size is {hardware.tensor_parallel_size}, but {hardware.instance_type} has "
            f"{cores} cores: its groups must fit in one instance. Choose a divisor of {cores}."
        )
    if hardware.nodes > 1 and not instance.efa:
        raise InvalidInput(
            f"hardware.nodes is {hardware.nodes}, but {hardware.instance_type} has no Elastic Fabric Adapter and can "
            "only train alone. Set nodes to 1, or choose trn1.32xlarge."
        )


def _refuse_graph(recipe: Recipe) -> None:
    graph, ranks = recipe.graph, recipe.hardware.tensor_parallel_size
    if graph.torch_compile:
        raise InvalidInput(
            "graph.torch_compile is true, but Trainium always compiles, with its own compiler. Set it to false."
        )
    if graph.attn_implementation == "sdpa":
        raise InvalidInput(
            "graph.attn_implementation is 'sdpa', which optimum-neuron does not train with. Use 'eager', or "
            f"'flash_attention_2' where sequence_length is a multiple of {FLASH_BLOCK}."
        )
    if graph.attn_implementation == "flash_attention_2" and graph.sequence_length % FLASH_BLOCK:
        raise InvalidInput(
            f"graph.attn_implementation is 'flash_attention_2', whose kernel takes multiples of {FLASH_BLOCK} tokens, "
            f"but graph.sequence_length is {graph.sequence_length}. Change the length, or use 'eager'."
        )
    if graph.sequence_length % ranks:
        raise InvalidInput(
            f"graph.sequence_length is {graph.sequence_length}, but sequence parallelism divides it by "
            f"hardware.tensor_parallel_size = {ranks}. Choose a multiple of {ranks}."
        )
    _refuse_half(GATE_UP, recipe, "they are one fused layer on Trainium")


def _refuse_sizes(ranks: int, config: Config) -> None:
    for field in DIVIDED_SIZES:
        if not isinstance(config.get(field), int):
            raise InvalidInput(
                f"The base model's config.json says nothing about {field}, but backend neuron trains Llama "
                "models only. Choose another base_model, or another backend."
            )
        if config[field] % ranks:
            raise InvalidInput(
                f"hardware.tensor_parallel_size is {ranks}, but the base model's {field} of {config[field]} cannot be "
                f"divided by it. Choose a divisor of {config[field]}."
            )


def _refuse_shared_heads(recipe: Recipe, config: Config, key_values: int, instance: Instance) -> None:
    """Key and value heads that don't divide by the ranks are copied to several of them."""
    ranks = recipe.hardware.tensor_parallel_size
    if ranks % key_values:
        raise InvalidInput(
            f"hardware.tensor_parallel_size is {ranks}, but the base model's {key_values} key-value heads can neither "
            f"be divided by it nor copied evenly to it. Choose a divisor or a multiple of {key_values}."
        )
    if sums_other_heads(ranks, key_values, instance):
        raise InvalidInput(
            f"hardware.tensor_parallel_size is {ranks}, but the base model has {key_values} key-value heads: on "
            f"{recipe.hardware.instance_type} the libraries would sum gradients of different heads. Choose one of "
            f"{', '.join(map(str, _sizes_that_train_right(config, key_values, instance)))}."
        )
    reason = f"with {ranks} tensor-parallel ranks over {key_values} key-value heads they are one layer"
    _refuse_half(QUERY_KEY_VALUE, recipe, reason)


def _sizes_that_train_right(config: Config, key_values: int, instance: Instance) -> list[int]:
    """Tensor-parallel sizes that no rule about sizes or heads refuses."""
    dividends = (instance.cores, *(config[field] for field in DIVIDED_SIZES))
    sizes = [size for size in range(1, instance.cores + 1) if not any(number % size for number in dividends)]
    return [
        size
        for size in sizes
        if key_values % size == 0 or (size % key_values == 0 and not sums_other_heads(size, key_values, instance))
    ]


def _refuse_half(together: frozenset[str], recipe: Recipe, reason: str) -> None:
    given = together & set(recipe.graph.lora.target_modules)
    if given and given != together:
        raise InvalidInput(
            f"graph.lora.target_modules names {', '.join(sorted(given))} without "
            f"{', '.join(sorted(together - given))}, but {reason}. Name all of them or none."
        )
