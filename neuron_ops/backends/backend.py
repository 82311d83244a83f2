"""What a backend is to everything around the training loop: its launch half. No torch here.

A backend is two halves. This one follows from a recipe alone: processes, refusals, environment, compiler, what decides
graphs, what a pod books and what a plan assumes. `open_process` gives the other half, which the loop holds in each
process (process.py). Nothing outside backends/ asks which backend it is. Defaults are plain PyTorch's: data-parallel
processes on machines without a name.
"""

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from neuron_ops.backends.booking import NOTHING, Booking
from neuron_ops.backends.instances import GIB, Instance
from neuron_ops.backends.layout import Layout
from neuron_ops.compilers.compiler import Compiler
from neuron_ops.compilers.inductor import TorchCompiler
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.schema import HardwareSection, Recipe

if TYPE_CHECKING:
    from neuron_ops.backends.process import BackendProcess


class Backend(ABC):
    """The launch half of one kind of device."""

    place: str = "each process"
    """Where the memory is that a plan counts, as a person would say it."""
    runtime_bytes: tuple[float, float] = (0.3 * GIB, 0.6 * GIB)
    """The runtime's own memory beside the model's, least and most: imports (0.36 GiB measured), contexts, buffers."""
    host_threads_decide: bool = False
    """Whether hardware.threads decides the last bit of sums, and with it weights."""
    evaluates_on_cpu: bool = True
    """Whether `evaluate` is known to compute on CPUs, so that a plan can say how long it takes."""
    accelerator_resources: tuple[str, ...] = ()
    """Everything that `booking` may book: Kubernetes' names of extended resources."""

    @abstractmethod
    def open_process(self, recipe: Recipe) -> "BackendProcess":
        """The process half, in a process that the launcher started.

        Raises:
            InvalidInput: the backend cannot run here.
        """

    def refuse_recipe(self, recipe: Recipe) -> None:
        """Refuse what the recipe alone shows to be impossible.

        Raises:
            InvalidInput: it asks for what this backend cannot do.
        """
        hardware = recipe.hardware
        if hardware.tensor_parallel_size > 1 or hardware.pipeline_parallel_size > 1:
            raise InvalidInput(
                f"hardware: backend {hardware.backend} is data-parallel only, but tensor_parallel_size is "
                f"{hardware.tensor_parallel_size} and pipeline_parallel_size {hardware.pipeline_parallel_size}. "
                "Set both to 1, or use backend neuron."
            )
        if hardware.instance_type is not None:
            raise InvalidInput(
                f"hardware.instance_type is {hardware.instance_type!r}, but only backend neuron derives its processes "
                "from it. Remove it, or set backend: neuron."
            )
        if recipe.graph.attn_implementation == "flash_attention_2":
            raise InvalidInput(
                f"graph.attn_implementation is 'flash_attention_2', which is Neuron's kernel, but hardware.backend is "
                f"{hardware.backend!r}. Use 'sdpa' or 'eager'."
            )

    def refuse_model(  # noqa: B027 - plain PyTorch takes any model
        self,
        recipe: Recipe,
        config: Mapping[str, Any],  # Any: a Hugging Face config.json
    ) -> None:
        """Refuse a base model that cannot be trained as the recipe says.

        Raises:
            InvalidInput: its sizes do not fit the recipe.
        """

    def processes_per_node(self, hardware: HardwareSection) -> int:
        """Processes of each node, for a recipe that is not refused."""
        return hardware.processes or 1

    def layout(self, recipe: Recipe) -> Layout:
        """Processes and their division, from the hardware section alone.

        Raises:
            InvalidInput: the recipe is refused.
        """
        self.refuse_recipe(recipe)
        hardware, per_node = recipe.hardware, self.processes_per_node(recipe.hardware)
        # Divides: each backend's refusals see to it.
        model_parallel = hardware.tensor_parallel_size * hardware.pipeline_parallel_size
        return Layout(
            backend=hardware.backend,
            nodes=hardware.nodes,
            processes_per_node=per_node,
            data_parallel_size=hardware.nodes * per_node // model_parallel,
            tensor_parallel_size=hardware.tensor_parallel_size,
            pipeline_parallel_size=hardware.pipeline_parallel_size,
            threads=hardware.threads if self.host_threads_decide else None,
        )

    def warmup_layout(self, recipe: Recipe) -> Layout:
        """The processes that warm up a compiler: those of all nodes, or of one that stands for all.

        Raises:
            InvalidInput: the recipe is refused.
        """
        chosen, world = self.compiler(recipe), self.layout(recipe)
        return world if chosen is not None and chosen.needs_every_node else replace(world, nodes=1)

    def environment(self, recipe: Recipe) -> dict[str, str]:
        """What every training process finds beside what is there; from the hardware section alone."""
        # Also what keeps torchrun from choosing a number of threads by itself, with a banner on stderr.
        return {"OMP_NUM_THREADS": str(recipe.hardware.threads)}

    def rendezvous_environment(self, recipe: Recipe, address: str, port: int) -> dict[str, str]:
        """What the processes of several nodes need besides, to meet: a port of node 0 that is free for them."""
        return {}

    def compiler(self, recipe: Recipe) -> Compiler | None:
        """The compiler of a recipe's training; None where it runs eagerly."""
        return TorchCompiler() if recipe.graph.torch_compile else None

    def toolchain(self, recipe: Recipe) -> dict[str, str]:
        """Versions of the software that changes compiled graphs; empty where nothing is compiled.

        Raises:
            InvalidInput: torch compiles, and is not installed here.
        """
        if not recipe.graph.torch_compile:
            return {}
        try:
            return {"torch": importlib.metadata.version("torch")}
        except importlib.metadata.PackageNotFoundError:
            raise InvalidInput(
                "graph.torch_compile is true, and where its graphs are kept depends on the version of torch, which is "
                "not installed here. Install fine-tune-assets[train] as where training runs, or set it to false."
            ) from None

    def graph_fields(self, recipe: Recipe) -> tuple[str, ...]:
        """Recipe fields outside the graph section that are written into compiled graphs, dotted."""
        # torch's programs for a CPU have the number of threads written into them.
        return ("hardware.threads",) if recipe.graph.torch_compile and self.host_threads_decide else ()

    def decides_graphs(self, recipe: Recipe) -> dict[str, Any]:  # Any: plain JSON
        """What follows from the recipe and changes a compiled graph; its own fields and the model's config apart.

        Raises:
            InvalidInput: the recipe is refused, or its compiler's version is not known here.
        """
        layout = {name: value for name, value in self.layout(recipe).as_json().items() if name != "threads"}
        return {"layout": layout, "toolchain": self.toolchain(recipe)}

    def instance(self, hardware: HardwareSection) -> Instance | None:
        """The instance type of each node; None for a computer that the recipe does not name.

        Raises:
            InvalidInput: there has to be one, and it is missing or unknown.
        """
        return None

    def device_memory(self, hardware: HardwareSection) -> int | None:
        """Bytes that each process has on its device; None where the recipe does not say which device that is."""
        instance = self.instance(hardware)
        return None if instance is None else instance.memory_per_core

    def inference_device(self) -> str:
        """Where a model answers in this very process, in torch's words; no step books an accelerator for it."""
        return "cpu"

    def booking(self, hardware: HardwareSection) -> Booking:
        """What a pod on one whole node books besides CPU and memory.

        Raises:
            InvalidInput: the instance type is missing or unknown.
        """
        return NOTHING
