"""What this project needs to know about the models of one architecture.

A family is a module that holds FAMILY, a `ModelFamily`, and its line in `neuron_ops.registry.MODEL_FAMILIES`, whose key
is the only entry of `architectures` in a config.json. What a device can do with a model belongs to its backend.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from neuron_ops.models.shape import ModelShape


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """Models with one architecture, of any size."""

    linears: tuple[str, ...]
    """Linear layers of a decoder layer that LoRA may target, by the last part of their name."""
    read_shape: Callable[[Mapping[str, Any], str], ModelShape]  # Any: whatever a published config holds
    """Called with the parsed config.json and, for messages, its path. Raises InvalidInput for an unusable number."""
