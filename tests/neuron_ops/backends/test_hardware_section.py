"""The layout that a recipe's hardware section derives, and what of it does not work out."""

import pytest

from neuron_ops.backends import layout
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import Recipe


def trainium(**hardware: object) -> Recipe:
    return load_recipe("llama3_8b_lora_trn1", {f"hardware.{name}": value for name, value in hardware.items()})


def test_the_trainium_recipe_leaves_no_core_idle() -> None:
    found = layout(load_recipe("llama3_8b_lora_trn1"))

    assert (found.processes_per_node, found.world_size) == (32, 32)
    assert (found.tensor_parallel_size, found.data_parallel_size, found.pipeline_parallel_size) == (8, 4, 1)


@pytest.mark.parametrize(
    ("instance_type", "processes"),
    [
        ("trn1.2xlarge", 2),
        ("trn1.32xlarge", 32),
        ("ml.trn1.32xlarge", 32),
        ("trn1n.32xlarge", 32),
        ("trn2.48xlarge", 64),
    ],
)
def test_the_instance_type_alone_decides_the_processes(instance_type: str, processes: int) -> None:
    found = layout(trainium(instance_type=instance_type, tensor_parallel_size=2))

    assert found.processes_per_node == processes
    assert found.data_parallel_size == processes // 2


@pytest.mark.parametrize(
    ("hardware", "words"),
    [
        ({"tensor_parallel_size": 3}, ["tensor_parallel_size is 3", "32 cores", "divisor of 32"]),
        ({"tensor_parallel_size": 64, "nodes": 2}, ["tensor_parallel_size is 64", "must fit in one instance"]),
        ({"tensor_parallel_size": 8, "pipeline_parallel_size": 2}, ["pipeline_parallel_size is 2", "Set it to 1"]),
        ({"processes": 8}, ["hardware.processes is 8", "32 cores", "Remove the field"]),
        ({"instance_type": "trn1.2xlarge", "tensor_parallel_size": 2, "nodes": 2}, ["nodes is 2", "no Elastic Fabric"]),
        ({"instance_type": None}, ["instance_type is None", "trn1.32xlarge"]),
        ({"instance_type": "p5.48xlarge"}, ["'p5.48xlarge'", "trn1.32xlarge"]),
        (
            {"backend": "cpu", "instance_type": None},
            ["data-parallel only", "tensor_parallel_size is 8", "Set both to 1"],
        ),
        ({"backend": "cpu", "tensor_parallel_size": 1}, ["only backend neuron", "Remove it"]),
    ],
)
def test_hardware_that_does_not_work_out_is_refused_with_the_numbers(
    hardware: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        layout(trainium(**hardware))

    assert [word for word in words if word not in str(caught.value)] == []


def test_cpu_processes_are_all_data_parallel() -> None:
    found = layout(load_recipe("tiny_llama_cpu", {"hardware.processes": 2}))

    assert (found.processes_per_node, found.data_parallel_size) == (2, 2)


def test_nodes_multiply_the_processes_and_change_nothing_else() -> None:
    alone = layout(load_recipe("tiny_llama_cpu", {"hardware.processes": 4}))

    shared = layout(load_recipe("tiny_llama_cpu", {"hardware.processes": 2, "hardware.nodes": 2}))

    assert (shared.world_size, shared.processes_per_node) == (4, 2)
    assert shared.as_json() == alone.as_json(), "the same training at the same address"
