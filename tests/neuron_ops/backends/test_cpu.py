"""What the loop may ask of a backend, asked of the CPU's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from neuron_ops.recipe.schema import Recipe
from tests.neuron_ops.training.workbench import make_model, make_recipe, make_rows

if TYPE_CHECKING:
    import torch


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("published") / "model")


@pytest.fixture
def recipe(model: Path) -> Recipe:
    return make_recipe(model)


def randomize(parameters: dict[str, torch.nn.Parameter]) -> None:
    import torch

    for parameter in parameters.values():
        torch.nn.init.normal_(parameter)


def test_the_base_is_bfloat16_and_frozen_while_adapter_and_moments_are_float32(model: Path) -> None:
    import torch

    from neuron_ops.backends.cpu_process import CpuProcess

    recipe = make_recipe(model, graph__dtype="bfloat16")
    process = CpuProcess(recipe)

    adapted = process.load_model(model, recipe)

    trainable = process.trainable(adapted)
    frozen = {name: value for name, value in adapted.named_parameters() if name not in trainable}
    assert {value.dtype for value in frozen.values()} == {torch.bfloat16}
    assert not any(value.requires_grad for value in frozen.values())
    assert {value.dtype for value in trainable.values()} == {torch.float32}
    assert all("lora_" in name for name in trainable)
    optimizer = torch.optim.AdamW(trainable.values())
    ids = torch.arange(4, 12)[None]
    process.backward(adapted(input_ids=ids, labels=ids, **process.summed_loss).loss)
    process.clip_and_step(optimizer, trainable.values(), 1.0)
    moments = [value for state in optimizer.state.values() for value in state.values()]
    assert {value.dtype for value in moments} == {torch.float32}


def test_the_loss_is_summed_so_that_rows_given_twice_count_twice(model: Path, recipe: Recipe, tmp_path: Path) -> None:
    import torch

    from neuron_ops.backends.cpu_process import CpuProcess
    from neuron_ops.training.batches import Rows

    make_rows(tmp_path, number=8, seed=0)
    process = CpuProcess(recipe)
    adapted = process.load_model(model, recipe)
    batch = Rows(tmp_path).first(1)

    once = adapted(**batch, **process.summed_loss).loss.detach()
    twice = adapted(**{name: value.repeat(2, 1) for name, value in batch.items()}, **process.summed_loss).loss.detach()

    torch.testing.assert_close(twice, 2 * once)


def test_a_packed_row_sees_nothing_of_its_neighbours(model: Path, recipe: Recipe) -> None:
    import torch

    from neuron_ops.backends.cpu_process import CpuProcess

    process = CpuProcess(recipe)
    adapted = process.load_model(model, recipe).eval()
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    ids = torch.tensor([[1, 4, 5, 6, 1, 7, 8, 9]])
    other = torch.tensor([[1, 20, 21, 22, 1, 7, 8, 9]])

    logits = [adapted(input_ids=rows, position_ids=positions).logits[0, 4:] for rows in (ids, other)]

    torch.testing.assert_close(logits[0], logits[1])


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(model: Path) -> None:
    import torch

    from neuron_ops.backends.cpu_process import CpuProcess

    def first_factors(seed: int) -> list[torch.Tensor]:
        recipe = make_recipe(model, training__seed=seed)
        process = CpuProcess(recipe)
        named = process.trainable(process.load_model(model, recipe))
        return [value for name, value in named.items() if "lora_A" in name]

    assert all(torch.equal(one, same) for one, same in zip(first_factors(1), first_factors(1), strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(first_factors(1), first_factors(2), strict=True))


def test_an_adapter_is_saved_as_a_folder_that_peft_loads(model: Path, recipe: Recipe, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from neuron_ops.backends.cpu_process import ADAPTER_CONFIG, CpuProcess

    process = CpuProcess(recipe)
    adapted = process.load_model(model, recipe).eval()
    randomize(process.trainable(adapted))
    ids = torch.arange(4, 12)[None]

    process.save_adapter(adapted, tmp_path)

    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), str(tmp_path)).eval()
    torch.testing.assert_close(loaded(input_ids=ids).logits, adapted(input_ids=ids).logits)
    config = json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    assert config["base_model_name_or_path"] == "tests/tiny"
    assert str(model) not in (tmp_path / ADAPTER_CONFIG).read_text()


def test_equal_adapters_are_equal_bytes(model: Path, recipe: Recipe, tmp_path: Path) -> None:
    from neuron_ops.backends.cpu_process import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CpuProcess

    process = CpuProcess(recipe)
    adapted, other = (process.load_model(model, recipe) for _ in range(2))
    randomize(process.trainable(adapted))
    other.load_state_dict(adapted.state_dict())

    process.save_adapter(adapted, tmp_path / "one")
    process.save_adapter(other, tmp_path / "other")

    for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_one_seed_is_one_stream_of_random_numbers(recipe: Recipe) -> None:
    import torch

    from neuron_ops.backends.cpu_process import CpuProcess

    process = CpuProcess(recipe)
    process.seed_generators(7)
    expected = torch.rand(5)

    process.seed_generators(7)

    assert torch.equal(torch.rand(5), expected)


def test_threads_are_what_the_recipe_says(model: Path) -> None:
    import torch

    from neuron_ops.backends.cpu_process import CpuProcess

    CpuProcess(make_recipe(model, hardware__threads=1))

    assert torch.get_num_threads() == 1
