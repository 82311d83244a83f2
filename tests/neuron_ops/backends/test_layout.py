"""What a recipe may not ask of a backend, told before anything starts."""

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
