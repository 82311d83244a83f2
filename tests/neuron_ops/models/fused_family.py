"""A model family as anybody would add one: this file, and a line in the registry. It has a layer that Llama has not."""

from neuron_ops.models.family import ModelFamily
from neuron_ops.models.llama import FAMILY as LLAMA

FAMILY = ModelFamily(linears=("qkv_proj", "o_proj"), read_shape=LLAMA.read_shape)
