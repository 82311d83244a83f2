"""How processes share the work, what of it decides results, and what a recipe may not ask."""

import pytest

from neuron_ops.backends import layout
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.file import load_recipe


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_neurons_flash_kernel_is_refused_elsewhere(backend: str) -> None:
    recipe = load_recipe(
        "tiny_llama_cpu", {"hardware.backend": backend, "graph.attn_implementation": "flash_attention_2"}
    )

    with pytest.raises(InvalidInput, match=f"flash.* is '{backend}'. Use 'sdpa' or 'eager'"):
        layout(recipe)


@pytest.mark.parametrize(
    ("recipe", "backend", "decide"),
    [("tiny_llama_cpu", "cpu", True), ("tiny_llama_cpu", "cuda", False), ("llama3_8b_lora_trn1", "neuron", False)],
)
def test_threads_of_the_host_decide_where_the_host_adds_up(recipe: str, backend: str, decide: bool) -> None:
    one, two = (
        layout(load_recipe(recipe, {"hardware.backend": backend, "hardware.threads": threads})).as_json()
        for threads in (1, 2)
    )

    assert (one != two) is decide


def test_a_backend_that_is_not_registered_is_refused_by_the_registered_names() -> None:
    with pytest.raises(InvalidInput, match=r"hardware.backend: should be 'cpu', 'cuda' or 'neuron' \(got 'tpu'\)"):
        load_recipe("tiny_llama_cpu", {"hardware.backend": "tpu"})
