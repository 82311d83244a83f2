"""What differs between cpu, cuda and neuron; nothing else may ask which one it is.

A backend is two halves. The launch half (here and in each module's functions) imports no torch: it derives the layout
of a recipe's processes and their environment. The process half is a class that the training loop holds.
"""

import importlib.metadata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from neuron_ops.backends.layout import Layout
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.schema import Recipe

if TYPE_CHECKING:
    from neuron_ops.backends.process import Backend


def layout(recipe: Recipe) -> Layout:
    """Processes and their division, from the hardware section alone.

    Raises:
        InvalidInput: the world does not divide, leaves cores idle, or asks a backend for what it cannot do.
    """
    from neuron_ops.backends import neuron, neuron_refusals

    hardware = recipe.hardware
    if hardware.backend == "neuron":
        neuron_refusals.refuse_recipe(recipe)
        per_node = neuron.processes_per_node(hardware)
    else:
        _refuse_what_only_neuron_can(recipe)
        per_node = hardware.processes or 1
    # Divides: each backend's rules above see to it.
    model_parallel = hardware.tensor_parallel_size * hardware.pipeline_parallel_size
    return Layout(
        backend=hardware.backend,
        nodes=hardware.nodes,
        processes_per_node=per_node,
        data_parallel_size=hardware.nodes * per_node // model_parallel,
        tensor_parallel_size=hardware.tensor_parallel_size,
        pipeline_parallel_size=hardware.pipeline_parallel_size,
        threads=hardware.threads,
    )


def refuse_model(recipe: Recipe, config: Mapping[str, Any]) -> None:  # Any: config.json of a Hugging Face model
    """Refuse a base model that the recipe's hardware cannot train; cheap, and before anything starts.

    Raises:
        InvalidInput: its sizes do not fit the recipe.
    """
    if recipe.hardware.backend == "neuron":
        from neuron_ops.backends import neuron_refusals

        neuron_refusals.refuse_model(recipe, config)


def environment(recipe: Recipe) -> dict[str, str]:
    """What every training process finds in its environment beside what is there; from the hardware section alone."""
    from neuron_ops.backends import neuron

    # Also what keeps torchrun from choosing a number of threads by itself, with a banner on stderr.
    threads = {"OMP_NUM_THREADS": str(recipe.hardware.threads)}
    return threads | (neuron.environment(recipe) if recipe.hardware.backend == "neuron" else {})


def rendezvous_environment(recipe: Recipe, address: str, port: int) -> dict[str, str]:
    """What the processes of several nodes need besides, to find each other: a port of node 0 that is free for them."""
    from neuron_ops.backends import neuron

    return neuron.rendezvous_environment(address, port) if recipe.hardware.backend == "neuron" else {}


def toolchain(recipe: Recipe) -> dict[str, str]:
    """Versions of the software that changes compiled graphs; empty where nothing is compiled.

    Raises:
        InvalidInput: torch compiles, and is not installed here.
    """
    from neuron_ops.backends import neuron

    if recipe.hardware.backend == "neuron":
        return dict(neuron.TOOLCHAIN)
    if not recipe.graph.torch_compile:
        return {}
    try:
        return {"torch": importlib.metadata.version("torch")}
    except importlib.metadata.PackageNotFoundError:
        raise InvalidInput(
            "graph.torch_compile is true, and where its graphs are kept depends on the version of torch, which is not "
            "installed here. Install fine-tune-assets[train] as where training runs, or set it to false."
        ) from None


def decides_graphs(recipe: Recipe) -> dict[str, Any]:  # Any: plain JSON
    """Everything that changes a compiled graph beside the graph section and the base model's config."""
    if recipe.hardware.backend == "neuron":
        from neuron_ops.compilers import neuron as neuron_compiler

        return {**_graph_layout(recipe), **neuron_compiler.decides_graphs(recipe), "toolchain": toolchain(recipe)}
    return {**_graph_layout(recipe), "toolchain": toolchain(recipe)}


def _graph_layout(recipe: Recipe) -> dict[str, Any]:  # Any: as above
    return {"layout": {name: value for name, value in layout(recipe).as_json().items() if name != "threads"}}


def device_memory(recipe: Recipe) -> int | None:
    """Bytes that each process has on its device; None where the recipe does not say which device that is."""
    from neuron_ops.backends import neuron

    return neuron.instance(recipe.hardware).memory_per_core if recipe.hardware.backend == "neuron" else None


def inference_device(recipe: Recipe) -> str:
    """Where a model answers, in torch's words: a step that books no accelerator uses a GPU only if there is one."""
    if recipe.hardware.backend != "cuda":
        return "cpu"
    import torch  # only a process that holds a model asks

    return "cuda" if torch.cuda.is_available() else "cpu"


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
    return _open_neuron(recipe)


def _open_neuron(recipe: Recipe) -> "Backend":
    try:
        from neuron_ops.backends.neuron_process import NeuronBackend
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"hardware.backend is neuron, but {error.name} is not installed here. Use the image for Trainium, or "
            "backend cpu or cuda."
        ) from None
    return NeuronBackend(recipe)


def _refuse_what_only_neuron_can(recipe: Recipe) -> None:
    hardware = recipe.hardware
    if hardware.tensor_parallel_size > 1 or hardware.pipeline_parallel_size > 1:
        raise InvalidInput(
            f"hardware: backend {hardware.backend} is data-parallel only, but tensor_parallel_size is "
            f"{hardware.tensor_parallel_size} and pipeline_parallel_size {hardware.pipeline_parallel_size}. "
            "Set both to 1, or use backend neuron."
        )
    if hardware.instance_type is not None:
        raise InvalidInput(
            f"hardware.instance_type is {hardware.instance_type!r}, but only backend neuron derives its processes from "
            "it. Remove it, or set backend: neuron."
        )
    if recipe.graph.attn_implementation == "flash_attention_2":
        raise InvalidInput(
            f"graph.attn_implementation is 'flash_attention_2', which is Neuron's kernel, but hardware.backend is "
            f"{hardware.backend!r}. Use 'sdpa' or 'eager'."
        )


def graph_fields(recipe: Recipe) -> tuple[str, ...]:
    """Recipe fields outside `graph` that are written into compiled graphs."""
    if recipe.hardware.backend == "neuron":
        return ("training.weight_decay", "training.adam_beta1", "training.adam_beta2", "training.max_grad_norm")
    return ("hardware.threads",) if recipe.graph.torch_compile else ()


def warmup_layout(recipe: Recipe) -> Layout:
    """The processes that warm up."""
    from neuron_ops.compilers.compiler import warmup_layout as found

    return found(recipe)
