"""Trainium's process half where its libraries are not; what it does where they are is in tests/neuron_on_cpu."""

import importlib.util

import pytest

from neuron_ops.backends import open_backend
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.file import load_recipe


@pytest.mark.skipif(importlib.util.find_spec("torch_xla") is not None, reason="Trainium's libraries are here")
def test_training_without_the_libraries_is_refused_in_one_sentence() -> None:
    with pytest.raises(InvalidInput, match=r"neuron, but torch_xla is not installed here\. Use the image for Trainium"):
        open_backend(load_recipe("llama3_8b_lora_trn1"))
