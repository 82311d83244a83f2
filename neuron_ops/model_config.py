"""The config.json of a model folder: what it must be before anything is built on it.

Finding the file belongs to whoever has the folder; what the numbers in it mean belongs to whoever computes with them.
"""

import json
from typing import Any

from neuron_ops.errors import CorruptArtifact, InvalidInput

SUPPORTED = ["LlamaForCausalLM"]


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
