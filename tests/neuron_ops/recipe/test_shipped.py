"""The recipes that come along, and where in the package they lie."""

from pathlib import Path

import pytest
import yaml

from neuron_ops.backends import layout
from neuron_ops.recipe.file import load_recipe, shipped_recipes
from neuron_ops.recipe.schema import package_path


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_loads_under_its_own_name_and_works_out(name: str) -> None:
    recipe = load_recipe(name)

    assert recipe.name == name
    assert layout(recipe).world_size >= 1


def test_the_demo_and_the_trainium_recipe_are_shipped() -> None:
    assert {"tiny_llama_cpu", "llama3_8b_lora_trn1"} <= set(shipped_recipes())


def test_the_trainium_recipe_has_the_numbers_it_promises() -> None:
    recipe = load_recipe("llama3_8b_lora_trn1")

    assert recipe.base_model.repository == "meta-llama/Llama-3.1-8B"
    assert recipe.dataset.format == "dolly"
    assert recipe.graph.sequence_length == 1024
    assert recipe.graph.dtype == "bfloat16"
    assert recipe.graph.gradient_accumulation_steps == 3
    lora = recipe.graph.lora
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, lora.target_modules) == (16, 16.0, 0.05, ("q_proj", "v_proj"))
    training = recipe.training
    assert (training.learning_rate, training.warmup_steps, training.weight_decay) == (2e-5, 100, 0.01)
    assert (training.max_steps, training.save_steps) == (1200, 400)


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_plain_yaml_to_any_other_reader(name: str) -> None:
    path = package_path(f"package:recipe/shipped/{name}.yaml")
    assert path is not None

    data = yaml.safe_load(path.read_text())

    assert data["name"] == name


def test_only_a_package_path_is_looked_up_in_the_package() -> None:
    assert package_path("/some/folder") is None
    assert package_path("s3://bucket/model") is None
    assert package_path("package:recipe") == Path(package_path.__code__.co_filename).parent
