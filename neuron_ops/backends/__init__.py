"""What differs between cpu, cuda and neuron; nothing else may ask which one it is.

`find_backend` gives the one that a recipe names, and the functions below ask it for whoever holds a recipe. What a
backend is says backend.py; a backend is added by one module and its line in registry.BACKENDS.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from neuron_ops import registry
from neuron_ops.backends.backend import Backend
from neuron_ops.backends.layout import Layout
from neuron_ops.compilers.compiler import Compiler
from neuron_ops.recipe.schema import HardwareSection, Recipe

if TYPE_CHECKING:
    from neuron_ops.backends.process import BackendProcess


def find_backend(hardware: HardwareSection) -> Backend:
    """The launch half that a recipe's hardware section names."""
    return _load(hardware.backend)


def accelerator_resources() -> tuple[str, ...]:
    """Every extended resource of Kubernetes that a backend's pods book."""
    return tuple(name for backend in registry.BACKENDS for name in _load(backend).accelerator_resources)


def _load(name: str) -> Backend:
    backend: Backend = registry.load(registry.BACKENDS, name, "hardware.backend").BACKEND
    return backend


def layout(recipe: Recipe) -> Layout:
    """`Backend.layout`."""
    return find_backend(recipe.hardware).layout(recipe)


def warmup_layout(recipe: Recipe) -> Layout:
    """`Backend.warmup_layout`."""
    return find_backend(recipe.hardware).warmup_layout(recipe)


def refuse_model(recipe: Recipe, config: Mapping[str, Any]) -> None:  # Any: config.json of a Hugging Face model
    """`Backend.refuse_model`: cheap, and before anything starts."""
    find_backend(recipe.hardware).refuse_model(recipe, config)


def environment(recipe: Recipe) -> dict[str, str]:
    """`Backend.environment`."""
    return find_backend(recipe.hardware).environment(recipe)


def rendezvous_environment(recipe: Recipe, address: str, port: int) -> dict[str, str]:
    """`Backend.rendezvous_environment`."""
    return find_backend(recipe.hardware).rendezvous_environment(recipe, address, port)


def compiler(recipe: Recipe) -> Compiler | None:
    """`Backend.compiler`."""
    return find_backend(recipe.hardware).compiler(recipe)


def graph_fields(recipe: Recipe) -> tuple[str, ...]:
    """`Backend.graph_fields`."""
    return find_backend(recipe.hardware).graph_fields(recipe)


def decides_graphs(recipe: Recipe) -> dict[str, Any]:  # Any: plain JSON
    """`Backend.decides_graphs`."""
    return find_backend(recipe.hardware).decides_graphs(recipe)


def open_backend(recipe: Recipe) -> "BackendProcess":
    """`Backend.open_process`."""
    return find_backend(recipe.hardware).open_process(recipe)
