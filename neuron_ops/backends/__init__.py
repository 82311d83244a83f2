"""What differs between cpu, cuda and neuron; nothing else may ask which one it is.

A backend is two halves. The launch half (here and in each module's functions) imports no torch: it derives the layout
of a recipe's processes and their environment. The process half is a class that the training loop holds.
"""

import importlib.metadata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neuron_ops.errors import InvalidInput
from neuron_ops.recipe import Recipe

if TYPE_CHECKING:
    from neuron_ops.backends.process import Backend


@dataclass(frozen=True, slots=True)
class Layout:
    """How the processes of a training share the work."""

    backend: str
    nodes: int
    processes_per_node: int
    data_parallel: int
    tensor_parallel: int
    pipeline_parallel: int
    threads: int

    @property
    def world_size(self) -> int:
        """Processes over all nodes."""
        return self.nodes * self.processes_per_node

    def as_json(self) -> dict[str, Any]:  # Any: ints and one string
        """What of the layout decides graphs, checkpoints and, by the order of sums, results."""
        return {
            "backend": self.backend,
            "data_parallel": self.data_parallel,
            "tensor_parallel": self.tensor_parallel,
            "pipeline_parallel": self.pipeline_parallel,
            "threads": self.threads,
        }


def layout(recipe: Recipe) -> Layout:
    """Processes and their division, from the hardware section alone.

    Raises:
        InvalidInput: the world does not divide, leaves cores idle, or asks a backend for what it cannot do.
    """
    from neuron_ops.backends import neuron

    hardware = recipe.hardware
    per_node = neuron.processes_per_node(hardware) if hardware.backend == "neuron" else hardware.processes or 1
    if hardware.backend != "neuron":
        _refuse_what_only_neuron_can(recipe)
    if hardware.nodes > 1:
        raise InvalidInput(f"hardware.nodes is {hardware.nodes}: this version trains on one node. Set it to 1.")
    world = hardware.nodes * per_node
    model_parallel = hardware.tensor_parallel * hardware.pipeline_parallel
    if world % model_parallel:
        raise InvalidInput(
            f"hardware: {world} processes ({hardware.nodes} x {per_node}) cannot be divided into groups of "
            f"tensor_parallel x pipeline_parallel = {hardware.tensor_parallel} x {hardware.pipeline_parallel} = "
            f"{model_parallel}. Choose sizes whose product divides {world}."
        )
    return Layout(
        backend=hardware.backend,
        nodes=hardware.nodes,
        processes_per_node=per_node,
        data_parallel=world // model_parallel,
        tensor_parallel=hardware.tensor_parallel,
        pipeline_parallel=hardware.pipeline_parallel,
        threads=hardware.threads,
    )


def environment(recipe: Recipe) -> dict[str, str]:
    """What every training process finds in its environment beside what is there; from the hardware section alone."""
    return {"OMP_NUM_THREADS": str(recipe.hardware.threads)}


def toolchain(recipe: Recipe) -> dict[str, str]:
    """Versions of the software that changes compiled graphs; empty where nothing is compiled."""
    from neuron_ops.backends import neuron

    if recipe.hardware.backend == "neuron":
        return dict(neuron.TOOLCHAIN)
    return {"torch": importlib.metadata.version("torch")} if recipe.graph.torch_compile else {}


def decides_graphs(recipe: Recipe) -> dict[str, Any]:  # Any: plain JSON
    """Everything that changes a compiled graph beside the graph section and the base model's config."""
    if recipe.hardware.backend == "neuron":
        from neuron_ops.backends import neuron_compiler

        return {**_graph_layout(recipe), **neuron_compiler.decides_graphs(recipe), "toolchain": toolchain(recipe)}
    # torch's programs for a CPU have the number of threads written into them.
    threads = {"threads": recipe.hardware.threads} if recipe.graph.torch_compile else {}
    return {**_graph_layout(recipe), **threads, "toolchain": toolchain(recipe)}


def _graph_layout(recipe: Recipe) -> dict[str, Any]:  # Any: as above
    return {"layout": {name: value for name, value in layout(recipe).as_json().items() if name != "threads"}}


def open_backend(recipe: Recipe) -> "Backend":
    """The process half, in a process that the launcher started.

    Raises:
        InvalidInput: the backend cannot run here.
    """
    if recipe.hardware.backend == "cpu":
        from neuron_ops.backends.cpu import CpuBackend

        return CpuBackend(recipe)
    if recipe.hardware.backend == "cuda":
        from neuron_ops.backends.cuda import CudaBackend

        return CudaBackend(recipe)
    raise InvalidInput(
        "hardware.backend is neuron: this version plans and addresses Trainium runs but has no training process for "
        "it yet. Use backend cpu or cuda."
    )


def _refuse_what_only_neuron_can(recipe: Recipe) -> None:
    hardware = recipe.hardware
    if hardware.tensor_parallel > 1 or hardware.pipeline_parallel > 1:
        raise InvalidInput(
            f"hardware: backend {hardware.backend} is data-parallel only, but tensor_parallel is "
            f"{hardware.tensor_parallel} and pipeline_parallel {hardware.pipeline_parallel}. Set both to 1, or use "
            "backend neuron."
        )
    if hardware.instance_type is not None:
        raise InvalidInput(
            f"hardware.instance_type is {hardware.instance_type!r}, but only backend neuron derives its processes from "
            "it. Remove it, or set backend: neuron."
        )
    if recipe.graph.attention == "flash":
        raise InvalidInput(
            f"graph.attention is 'flash', which is Neuron's kernel, but hardware.backend is {hardware.backend!r}. "
            "Use 'sdpa' or 'eager'."
        )
