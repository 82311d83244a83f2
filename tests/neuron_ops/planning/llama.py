"""Llama 3.1 8B as its config.json describes it, for numbers that can be checked by hand."""

from typing import Any

from neuron_ops.models.config import read_shape

LLAMA_8B_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}
LLAMA_8B = read_shape(LLAMA_8B_CONFIG, "config.json")
