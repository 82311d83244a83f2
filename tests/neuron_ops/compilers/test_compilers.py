"""Compilers: which recipe has which, what their graphs depend on, and how they notice a graph that was missing."""

import importlib.metadata
import os
import threading
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from neuron_ops.backends import compiler, decides_graphs, graph_fields
from neuron_ops.compilers.inductor import compile_layers
from neuron_ops.compilers.neuron import NeuronCompiler
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import Recipe
from tests.neuron_ops.compilers.cache_entries import COMPILER, write_entry

TRAINIUM, CPU = "llama3_8b_lora_trn1", "tiny_llama_cpu"
COMPILED = {"graph.torch_compile": True}


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        (TRAINIUM, {}, "neuron_parallel_compile"),
        (CPU, COMPILED, "torch.compile"),
        (CPU, {"hardware.backend": "cuda", **COMPILED}, "torch.compile"),
    ],
)
def test_the_recipe_says_which_compiler_training_has(name: str, overrides: dict[str, Any], expected: str) -> None:
    chosen = compiler(load_recipe(name, overrides))

    assert chosen is not None
    assert chosen.name == expected


def test_without_torch_compile_training_on_a_cpu_is_eager() -> None:
    assert compiler(load_recipe(CPU)) is None


def in_graphs(recipe: Recipe) -> dict[str, Any]:
    """What is derived, and the recipe's own fields by their dotted names."""
    return {**decides_graphs(recipe), **{name: attrgetter(name)(recipe) for name in graph_fields(recipe)}}


# The graph section and the base model's config decide besides; they are not asked of a backend.
@pytest.mark.parametrize(
    ("name", "overrides", "changes"),
    [
        (CPU, {"hardware.threads": 2}, False),
        (CPU, {**COMPILED, "hardware.threads": 2}, True),
        (CPU, {**COMPILED, "hardware.backend": "cuda", "hardware.threads": 2}, False),
        (CPU, {**COMPILED, "hardware.processes": 2}, True),
        (CPU, {**COMPILED, "training.weight_decay": 0.1}, False),
        (TRAINIUM, {"hardware.threads": 2}, False),
        (TRAINIUM, {"hardware.tensor_parallel_size": 2}, True),
        (TRAINIUM, {"hardware.instance_type": "ml.trn1.32xlarge"}, False),
        (TRAINIUM, {"hardware.instance_type": "trn1n.32xlarge"}, False),
        (TRAINIUM, {"hardware.instance_type": "trn2.48xlarge"}, True),
        (TRAINIUM, {"hardware.stall_minutes": 5}, False),
        (TRAINIUM, {"hardware.max_restarts": 0}, False),
        (TRAINIUM, {"training.learning_rate": 1e-3}, False),
        (TRAINIUM, {"training.max_steps": 2000}, False),
        (TRAINIUM, {"training.seed": 7}, False),
        (TRAINIUM, {"training.weight_decay": 0.0}, True),
        (TRAINIUM, {"training.max_grad_norm": 0.5}, True),
    ],
    ids=str,
)
def test_what_is_in_a_graph_decides_and_nothing_else(name: str, overrides: dict[str, Any], changes: bool) -> None:
    same = {key: value for key, value in overrides.items() if key in (*COMPILED, "hardware.backend")}

    assert (in_graphs(load_recipe(name, overrides)) != in_graphs(load_recipe(name, same))) is changes


def test_other_software_means_other_graphs() -> None:
    assert decides_graphs(load_recipe(CPU))["toolchain"] == {}
    assert decides_graphs(load_recipe(CPU, COMPILED))["toolchain"].keys() == {"torch"}
    assert "neuronx-cc" in decides_graphs(load_recipe(TRAINIUM))["toolchain"]


def test_where_torch_compiles_and_is_not_installed_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", not_installed)

    with pytest.raises(InvalidInput, match="depends on the version of torch, which is not installed here"):
        decides_graphs(load_recipe(CPU, COMPILED))


def test_the_flags_of_trainiums_compiler_are_in_the_address_and_its_runtimes_variables_are_not() -> None:
    variables = decides_graphs(load_recipe(TRAINIUM))["environment"]

    assert "--model-type=transformer" in variables["NEURON_CC_FLAGS"]
    assert "NEURON_RT_NUM_CORES" not in variables


def test_trainiums_compiler_is_given_the_cache_and_no_flag_may_name_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_CC_FLAGS", "--model-type=transformer --cache_dir=/var/tmp/other -O1")
    monkeypatch.setenv("NEURON_COMPILE_CACHE_URL", "")

    NeuronCompiler().point_at(tmp_path)

    assert os.environ["NEURON_CC_FLAGS"] == "--model-type=transformer -O1"
    assert os.environ["NEURON_COMPILE_CACHE_URL"] == str(tmp_path)


def test_an_entry_that_appears_while_training_is_a_miss_and_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuron_ops.compilers.neuron.LOOK_SECONDS", 0.01)
    write_entry(tmp_path, "a+1", "complete")
    missed, noticed = [], threading.Event()

    def on_miss(name: str, why: str) -> None:
        missed.append((name, why))
        noticed.set()

    with NeuronCompiler().counting(tmp_path, on_miss) as count:
        assert count() == 0
        write_entry(tmp_path, "b+1", "extracted")
        assert noticed.wait(30), "found by another thread, while this one is inside the compiler"

        assert count() == 1
    name, why = missed[0]
    assert name == f"{COMPILER}/MODULE_b+1"
    assert why.startswith("its graph (MODULE_b) is not one that the warm-up made")


def test_without_a_cpp_compiler_torch_compile_is_refused() -> None:
    import torch._inductor.config as inductor
    from torch import nn

    words = r"no C\+\+ compiler here .* set torch_compile to false"

    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(InvalidInput, match=words):
        compile_layers(nn.Linear(2, 2), "cpu")


def test_a_model_without_decoder_layers_is_refused() -> None:
    from torch import nn

    with pytest.raises(InvalidInput, match="Linear has no decoder layers"):
        compile_layers(nn.Linear(2, 2), "cpu")
