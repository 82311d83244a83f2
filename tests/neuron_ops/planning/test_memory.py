"""Memory of one training process, against numbers worked out by hand and against what PyTorch really keeps."""

from pathlib import Path

import pytest

from neuron_ops.backends import layout
from neuron_ops.errors import InvalidInput
from neuron_ops.models.config import read_config, read_shape
from neuron_ops.planning.memory import MemoryForecast, adapter_parameters, check_memory, forecast_memory
from neuron_ops.planning.quantities import GIB, Range
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import Recipe, package_path
from tests.neuron_ops.planning.llama import LLAMA_8B

TRN1 = "llama3_8b_lora_trn1"
EVERY_LAYER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def planned(recipe: Recipe) -> MemoryForecast:
    return forecast_memory(recipe, LLAMA_8B, layout(recipe), 16 * GIB)


def part(recipe: Recipe, name: str) -> Range:
    return next(part.bytes for part in planned(recipe).parts if part.name == name)


def test_lora_on_queries_and_values_has_its_well_known_size() -> None:
    # 16 x (4,096 + 4,096) + 16 x (4,096 + 1,024) for a layer, 32 of them.
    assert adapter_parameters(load_recipe(TRN1), LLAMA_8B, ranks=1) == 6_815_744


def test_the_unsplit_factor_of_an_adapter_is_whole_on_every_rank() -> None:
    # 16 x (4,096 + 512) + 16 x (4,096 + 128) for a layer, 32 of them.
    assert adapter_parameters(load_recipe(TRN1), LLAMA_8B, ranks=8) == 4_521_984


def test_weights_adapter_and_optimizer_of_one_core_are_exact() -> None:
    recipe = load_recipe(TRN1)

    assert part(recipe, "base model") == Range.exactly(2 * 1_004_015_616)
    assert part(recipe, "adapter") == Range.exactly(4 * 4_521_984)
    assert part(recipe, "AdamW") == Range.exactly(8 * 4_521_984)
    assert part(recipe, "gradients") == Range(4 * 4_521_984, 8 * 4_521_984)


def test_eager_attention_keeps_every_score() -> None:
    recipe = load_recipe(TRN1)
    # 4 heads on a core: for each of 1,024 tokens 4 x 1,024 scores of 2 bytes, or of 4 and again of 2; the rest of a
    # layer is 2 x 2 x 4,096 / 8 for norms, 2 x (512 + 2 x 128) for queries, keys and values, 2 x 2 x 1,792 for the
    # MLP and 2 x 4,096 / 8 for the adapter's input.
    low = 32 * 1_024 * (2 * 4 * 1_024 + 2_048 + 1_536 + 7_168 + 1_024)
    # 2 x 4 x 4,096; 2 x 3 x 512; 3 x 2 x 1,792; 8 x 2 x 4,096 and 4 x 16 x 2 for two adapters with dropout.
    high = 32 * 1_024 * (6 * 4 * 1_024 + 32_768 + 3_072 + 10_752 + 65_536 + 128)

    assert part(recipe, "activations") == Range(low, high)


def test_the_vocabulary_of_128_256_is_held_in_float32() -> None:
    # 16,032 entries on one of 8 cores, 1,024 tokens.
    assert part(load_recipe(TRN1), "logits and loss") == Range(4 * 16_032 * 1_024, 16 * 16_032 * 1_024)


def test_recomputing_keeps_the_inputs_of_the_layers_and_the_inside_of_one() -> None:
    recipe = load_recipe(TRN1, {"graph.gradient_checkpointing": True})
    inside = part(load_recipe(TRN1), "activations").scaled(1 / 32)

    assert part(recipe, "activations") == inside + Range(32 * 2 * 4_096 * 1_024 / 8, 32 * 2 * 4_096 * 1_024)


def test_the_shipped_trn1_recipe_fits_a_core() -> None:
    plan = planned(load_recipe(TRN1))

    check_memory(plan)
    assert 2.5 * GIB < plan.total.low < plan.total.high < 16 * GIB


def test_an_8b_model_on_unsplit_cores_is_refused_with_what_to_change() -> None:
    recipe = load_recipe(TRN1, {"hardware.tensor_parallel_size": 1, "graph.dtype": "float32"})

    with pytest.raises(InvalidInput, match=r"Each core would need at least .* but has 16.00 GiB; .* base model"):
        check_memory(planned(recipe))


def test_no_capacity_is_no_refusal() -> None:
    recipe = load_recipe("tiny_llama_cpu")

    check_memory(forecast_memory(recipe, LLAMA_8B, layout(recipe), None))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], EVERY_LAYER])
def test_what_pytorch_keeps_for_the_backward_pass_lies_in_the_range(
    dtype: str, attention: str, targets: list[str]
) -> None:
    overrides = {"graph.dtype": dtype, "graph.attn_implementation": attention, "graph.lora.target_modules": targets}
    recipe = load_recipe("tiny_llama_cpu", overrides)
    folder = package_path(str(recipe.base_model.path))
    assert folder is not None
    shape = read_shape(read_config(folder), "config.json")
    plan = forecast_memory(recipe, shape, layout(recipe), None)
    parts = {part.name: part.bytes for part in plan.parts}

    kept = bytes_kept_for_backward(recipe, folder) - parts["logits and loss"].low

    assert parts["activations"].low < kept < parts["activations"].high * 1.01
    assert kept > parts["activations"].high * 0.6, "transformers and PEFT fuse little: they are near the upper end"


def bytes_kept_for_backward(recipe: Recipe, folder: Path) -> int:
    """Every distinct storage that autograd saves in one forward pass, the model's own weights not counted."""
    import torch

    from neuron_ops.backends.cpu_process import CpuProcess

    model = CpuProcess(recipe).load_model(folder, recipe)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # else its address would be used again
        return tensor

    shape = (recipe.graph.micro_batch_size, recipe.graph.sequence_length)
    ids = torch.randint(10, 2000, shape, generator=torch.Generator().manual_seed(0))
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=ids, labels=ids)
    return sum(kept.values())
