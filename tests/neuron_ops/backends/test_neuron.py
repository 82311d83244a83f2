"""Trainium's launch half: refusals before anything starts, the environment, the pinned software."""

import importlib.metadata
from typing import Any

import pytest

from neuron_ops.backends import environment, find_backend, layout, refuse_model, rendezvous_environment
from neuron_ops.backends.instances import INSTANCES
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import Recipe

LLAMA_8B = {"num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def trainium(**changes: Any) -> Recipe:
    """The shipped recipe; `hardware__nodes=2` changes hardware.nodes."""
    return load_recipe("llama3_8b_lora_trn1", {name.replace("__", "."): value for name, value in changes.items()})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset__packing": True}, ["dataset.packing is true", "Set it to false"]),
        ({"graph__attn_implementation": "sdpa"}, ["graph.attn_implementation is 'sdpa'", "'eager'"]),
        ({"graph__attn_implementation": "flash_attention_2"}, ["multiples of 2048", "sequence_length is 1024"]),
        ({"graph__torch_compile": True}, ["graph.torch_compile is true", "Set it to false"]),
        (
            {"graph__sequence_length": 1000, "hardware__tensor_parallel_size": 16},
            ["sequence_length is 1000", "multiple of"],
        ),
        ({"graph__lora__target_modules": ["up_proj"]}, ["names up_proj without gate_proj", "all of them or none"]),
    ],
)
def test_what_trainium_cannot_do_is_refused_by_the_recipe_alone(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        layout(trainium(**changes))

    assert [word for word in words if word not in str(caught.value)] == []


def test_the_flash_kernel_is_for_whole_blocks_of_tokens() -> None:
    assert (
        layout(trainium(graph__attn_implementation="flash_attention_2", graph__sequence_length=4096)).world_size == 32
    )


@pytest.mark.parametrize(
    ("changes", "config", "words"),
    [
        ({}, {"num_attention_heads": 20}, ["num_attention_heads of 20", "tensor_parallel_size is 8"]),
        ({}, {"intermediate_size": 14340}, ["intermediate_size of 14340"]),
        ({}, {"vocab_size": 128259}, ["vocab_size of 128259"]),
        ({}, {"vocab_size": None}, ["says nothing about vocab_size", "Llama models only"]),
        ({}, {"num_key_value_heads": 6}, ["6 key-value heads", "divisor or a multiple of 6"]),
        (
            {"hardware__tensor_parallel_size": 16},
            {},
            ["q_proj, v_proj without k_proj", "16 tensor-parallel ranks over 8"],
        ),
        (
            {"hardware__tensor_parallel_size": 16, "hardware__instance_type": "ml.trn2.48xlarge"},
            {},
            ["on ml.trn2.48xlarge", "gradients of different heads", "Choose one of 1, 2, 4, 8."],
        ),
        (
            {"hardware__tensor_parallel_size": 4},
            {"num_key_value_heads": 2},
            ["on trn1.32xlarge", "gradients of different heads", "Choose one of 1, 2, 8, 16, 32."],
        ),
        ({"hardware__tensor_parallel_size": 4}, {"num_key_value_heads": 1}, ["Choose one of 1, 2, 8, 16, 32."]),
        (
            {"graph__attn_implementation": "flash_attention_2", "graph__sequence_length": 2048},
            {"attention_dropout": 0.1},
            ["attention_dropout is 0.1", "'eager'"],
        ),
    ],
)
def test_a_model_that_cannot_be_divided_is_refused(
    changes: dict[str, Any], config: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        refuse_model(trainium(**changes), {**LLAMA_8B, **config})

    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hardware__tensor_parallel_size": 16, "graph__lora__target_modules": ALL},
        {"hardware__tensor_parallel_size": 32, "graph__lora__target_modules": ["gate_proj", "up_proj", "down_proj"]},
        {"hardware__tensor_parallel_size": 8, "hardware__instance_type": "trn2.48xlarge"},
    ],
)
def test_a_model_that_can_be_divided_is_not(changes: dict[str, Any]) -> None:
    refuse_model(trainium(**changes), LLAMA_8B)


def test_a_model_without_grouped_heads_has_as_many_as_queries() -> None:
    config = {name: value for name, value in LLAMA_8B.items() if name != "num_key_value_heads"}

    refuse_model(trainium(hardware__tensor_parallel_size=32), config)


def test_other_backends_take_any_model() -> None:
    refuse_model(load_recipe("tiny_llama_cpu"), {})


def test_trainiums_environment_is_all_derived_from_the_hardware() -> None:
    assert environment(trainium(hardware__threads=4)) == {
        "OMP_NUM_THREADS": "4",
        "NEURON_CC_FLAGS": "--model-type=transformer --distribution-strategy=llm-training --auto-cast=none",
        "NEURON_RT_NUM_CORES": "32",
        "NEURON_RT_STOCHASTIC_ROUNDING_EN": "0",
        "NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS": "3",
        "NEURON_FUSE_SOFTMAX": "1",
        "MALLOC_ARENA_MAX": "64",
        "HF_HUB_OFFLINE": "1",
    }


def test_several_nodes_talk_through_the_fabric_and_meet_at_a_port_of_their_own() -> None:
    recipe = trainium(hardware__nodes=2)

    fabric = {name: value for name, value in environment(recipe).items() if name.startswith("FI_")}

    assert fabric == {"FI_PROVIDER": "efa", "FI_EFA_USE_DEVICE_RDMA": "1", "FI_EFA_FORK_SAFE": "1"}
    assert rendezvous_environment(recipe, "node-0", 29501) == {"NEURON_RT_ROOT_COMM_ID": "node-0:29501"}


def test_trn2_counts_pairs_of_cores() -> None:
    found = environment(trainium(hardware__instance_type="ml.trn2.48xlarge"))

    assert (found["NEURON_RT_NUM_CORES"], found["NEURON_LOGICAL_NC_CONFIG"]) == ("64", "2")


def test_a_cpu_training_finds_its_number_of_threads_and_nothing_of_trainium() -> None:
    recipe = load_recipe("tiny_llama_cpu", {"hardware.nodes": 2})

    assert environment(recipe) == {"OMP_NUM_THREADS": "1"}
    assert rendezvous_environment(recipe, "node-0", 29501) == {}


def test_device_memory_adds_up_to_what_the_instances_have() -> None:
    gib = {name: item.cores * item.memory_per_core // 2**30 for name, item in INSTANCES.items()}

    assert gib == {"trn1.2xlarge": 32, "trn1.32xlarge": 512, "trn1n.32xlarge": 512, "trn2.48xlarge": 1536}


def test_the_toolchain_is_what_compiles() -> None:
    compiled = load_recipe("tiny_llama_cpu", {"graph.torch_compile": True})

    def toolchain(recipe: Recipe) -> dict[str, str]:
        return find_backend(recipe.hardware).toolchain(recipe)

    assert toolchain(trainium())["neuronx-cc"] == "2.21.33363.0"
    assert toolchain(compiled) == {"torch": importlib.metadata.version("torch")}
    assert toolchain(load_recipe("tiny_llama_cpu")) == {}
