"""Llama: the names in its config.json of the numbers that decide the model's size."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from neuron_ops.models.family import ModelFamily
from neuron_ops.models.shape import SAME_INPUT, ModelShape, read_number


def _read_shape(config: Mapping[str, Any], where: str) -> ModelShape:  # Any: whatever a published config holds
    heads = read_number(config, "num_attention_heads", where)
    hidden = read_number(config, "hidden_size", where)
    return ModelShape(
        layers=read_number(config, "num_hidden_layers", where),
        hidden=hidden,
        intermediate=read_number(config, "intermediate_size", where),
        heads=heads,
        kv_heads=read_number(config, "num_key_value_heads", where, default=heads),
        head_dim=read_number(config, "head_dim", where, default=max(hidden // heads, 1)),
        vocabulary=read_number(config, "vocab_size", where),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
    )


FAMILY = ModelFamily(linears=tuple(chain.from_iterable(SAME_INPUT)), read_shape=_read_shape)
