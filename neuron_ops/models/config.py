"""What a model folder must hold before anything is built on it: a Llama's config.json, and weights that are read.

Finding the file belongs to whoever has the folder; what the numbers in it mean belongs to whoever computes with them.
"""

import json
from collections.abc import Iterable
from typing import Any

from neuron_ops.errors import CorruptArtifact, InvalidInput

SUPPORTED = ["LlamaForCausalLM"]
WEIGHTS = ".safetensors"


def parse_config(data: bytes | None, folder: str) -> dict[str, Any]:  # Any: whatever a published config holds
    """The bytes of `folder`'s config.json (None: it has none) as what they say.

    Raises:
        InvalidInput: no config.json, or not a Llama-architecture model.
        CorruptArtifact: not JSON.
    """
    if data is None:
        raise InvalidInput(
            f"{folder} has no config.json, so it is no Hugging Face model folder. Check base_model.path."
        )
    path = f"{folder}/config.json"
    try:
        config = json.loads(data)
    except ValueError as error:
        raise CorruptArtifact(f"{path} is not JSON ({error}). Fetch the model again.") from None
    architectures = config.get("architectures") if isinstance(config, dict) else None
    if architectures != SUPPORTED:
        raise InvalidInput(
            f"{path}: architectures is {architectures!r}, but only {SUPPORTED} is supported. "
            "Choose a Llama-architecture model."
        )
    return dict(config)


def refuse_without_weights(names: Iterable[str], where: str) -> None:
    """Refuse a model whose weights are not there, or in a form that is not read.

    Raises:
        InvalidInput: no file of these names holds weights.
    """
    if not any(name.endswith(WEIGHTS) for name in names):
        raise InvalidInput(
            f"{where} holds no {WEIGHTS} file. Pickled weights (.bin, .pth) are not read; convert them first."
        )
