"""The one reader of a model's config.json, and what a model folder must hold before anything is built on it.

A damaged file is a `CorruptArtifact`; a folder that was never a supported model is an `InvalidInput`, in every program.
The list of architectures belongs to the registry, the meaning of the numbers to the family.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from neuron_ops.errors import CorruptArtifact, InvalidInput
from neuron_ops.models.family import ModelFamily
from neuron_ops.models.shape import ModelShape
from neuron_ops.registry import MODEL_FAMILIES, load

CONFIG = "config.json"
WEIGHTS = ".safetensors"

Config = dict[str, Any]  # Any: whatever a published config holds


def read_config(folder: Path) -> Config:
    """What a model folder's config.json says.

    Raises:
        InvalidInput: no config.json, or an architecture that is not registered.
        CorruptArtifact: not JSON, or not an object.
    """
    path = folder / CONFIG
    return parse_config(path.read_bytes() if path.is_file() else None, str(folder))


def parse_config(data: bytes | None, folder: str) -> Config:
    """The parsed bytes of `folder`'s config.json; `data` is None if there is no such file.

    Raises:
        InvalidInput: no config.json, or an architecture that is not registered.
        CorruptArtifact: not JSON, or not an object.
    """
    if data is None:
        raise InvalidInput(
            f"{folder} has no {CONFIG}, so it is not a Hugging Face model folder. Give the folder of a model."
        )
    path = f"{folder}/{CONFIG}"
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptArtifact(f"{path} is not JSON ({error}). Fetch the model again.") from None
    if not isinstance(config, dict):
        raise CorruptArtifact(f"{path} must be a JSON object, but is a {type(config).__name__}. Fetch the model again.")
    architectures = config.get("architectures")
    if architectures not in [[name] for name in MODEL_FAMILIES]:
        raise InvalidInput(
            f"{path}: architectures is {architectures!r}, but only these are supported: {', '.join(MODEL_FAMILIES)}. "
            "Choose a model with one of these architectures."
        )
    return config


def family_of(config: Mapping[str, Any]) -> ModelFamily:
    """The family of a model whose config.json was read here."""
    family: ModelFamily = load(MODEL_FAMILIES, config["architectures"][0], "architectures").FAMILY
    return family


def read_shape(config: Mapping[str, Any], where: str) -> ModelShape:
    """The size of a model whose config.json was read here; `where` names that file.

    Raises:
        InvalidInput: a number is missing or is not a whole number of at least 1.
    """
    return family_of(config).read_shape(config, where)


def refuse_other_targets(config: Mapping[str, Any], target_modules: Iterable[str]) -> None:
    """Refuse an adapter for layers that this model does not have.

    Raises:
        InvalidInput: one of the names belongs to another family.
    """
    linears = family_of(config).linears
    if strange := [name for name in target_modules if name not in linears]:
        raise InvalidInput(
            f"graph.lora.target_modules names {', '.join(strange)}, but {config['architectures'][0]} has only "
            f"{', '.join(linears)}. Choose from these."
        )


def refuse_without_weights(names: Iterable[str], where: str) -> None:
    """Refuse a model whose weights are missing, or in a format that this project does not read.

    Raises:
        InvalidInput: no file of these names holds weights.
    """
    if not any(name.endswith(WEIGHTS) for name in names):
        raise InvalidInput(
            f"{where} holds no {WEIGHTS} file. Pickled weights (.bin, .pth) are not read; convert them first."
        )
