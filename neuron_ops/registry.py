"""What can be added by one file and one line: the line stands here.

Each entry is the module that holds the thing, so that a process imports only what its recipe names, and so that a
recipe's schema can list the names without importing any of them. What an entry must hold, its room says.
"""

import importlib
from collections.abc import Mapping
from types import ModuleType

from neuron_ops.errors import InvalidInput

BACKENDS: dict[str, str] = {
    "cpu": "neuron_ops.backends.cpu",
    "cuda": "neuron_ops.backends.cuda",
    "neuron": "neuron_ops.backends.neuron",
}
"""`hardware.backend`: each module holds BACKEND, a `neuron_ops.backends.backend.Backend`."""

ROW_FORMATS: dict[str, str] = {
    "dolly": "neuron_ops.rows.formats.dolly",
}
"""`dataset.format`: each module holds FORMAT, a `neuron_ops.rows.formats.RowFormat`."""

MODEL_FAMILIES: dict[str, str] = {
    "LlamaForCausalLM": "neuron_ops.models.llama",
}
"""`architectures` of a config.json: each module holds FAMILY, a `neuron_ops.models.family.ModelFamily`."""


def load(registry: Mapping[str, str], name: str, what: str) -> ModuleType:
    """The module of an entry; `what` is how a person calls it, such as `dataset.format`.

    Raises:
        InvalidInput: there is no such entry.
    """
    if name not in registry:
        raise InvalidInput(
            f"{what} is {name!r}, but there is only {', '.join(map(repr, registry))}. Choose one of them."
        )
    return importlib.import_module(registry[name])
