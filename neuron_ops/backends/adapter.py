"""The LoRA adapter that every backend trains: its configuration and its first values.

First values are a function of (seed, parameter's name), not of the order in which a library creates layers or of how
they are sharded. So one seed means one adapter on every backend, and runs of different layouts can be compared.
"""

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from peft import LoraConfig
from torch import nn

from neuron_ops.recipe.schema import Recipe


def lora_config(recipe: Recipe) -> LoraConfig:
    """The recipe's adapter in PEFT's terms."""
    lora = recipe.graph.lora
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha if lora.lora_alpha % 1 else int(lora.lora_alpha),
        lora_dropout=lora.lora_dropout,
        target_modules=sorted(lora.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=recipe.base_model.id,
        revision=recipe.base_model.revision,
    )


def set_first_values(parameters: Mapping[str, nn.Parameter], seed: int, shards: int = 1, shard: int = 0) -> None:
    """Set every first factor (lora_A) to its drawn values; the second ones (lora_B) stay zero, as PEFT leaves them.

    Of a factor that is cut along its inputs into `shards` parts, part `shard` is set.
    """
    for name, parameter in parameters.items():
        if ".lora_A." not in name:
            continue
        rank, inputs = parameter.shape
        cut = bool(getattr(parameter, "tensor_model_parallel", False))
        whole = _draw(seed, name, rank, inputs * (shards if cut else 1))
        with torch.no_grad():
            parameter.copy_(whole[:, shard * inputs :][:, :inputs] if cut else whole)


def _draw(seed: int, name: str, rank: int, inputs: int) -> torch.Tensor:
    """Uniform within 1 / sqrt(inputs), as PEFT initializes; numpy's streams stay the same between versions."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = generator.random((rank, inputs), dtype=np.float32)
    return torch.from_numpy((2.0 * values - 1.0) / np.float32(inputs) ** np.float32(0.5))
