"""Trainium: the launch half. What its processes find in their environment, and what decides their graphs. No torch.

What a recipe may not ask of it belongs to neuron_refusals, what its instance types are to instances, how a process
trains to neuron_process. Not run on Trainium.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from neuron_ops.backends import neuron_refusals
from neuron_ops.backends.backend import Backend
from neuron_ops.backends.booking import Booking
from neuron_ops.backends.instances import GIB, INSTANCES, Instance, find_instance
from neuron_ops.compilers.neuron import IN_GRAPHS, NeuronCompiler
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.schema import HardwareSection, Recipe

if TYPE_CHECKING:
    from neuron_ops.backends.process import BackendProcess

DEVICE = "aws.amazon.com/neuron"
ADAPTER = "vpc.amazonaws.com/efa"

# AWS ends PyTorch/XLA training with Neuron SDK 2.30; this is the last stack that optimum-neuron 0.4.5 is released for.
# Packages that change a compiled graph or its key; the compiler's version is also a folder in its cache.
SDK = "2.26.1"
TOOLCHAIN = {
    "neuron-sdk": SDK,
    "neuronx-cc": "2.21.33363.0",
    "torch-neuronx": "2.8.0.2.10.16998",
    "libneuronxla": "2.2.12677.0",
    "neuronx-distributed": "0.15.22404",
    "optimum-neuron": "0.4.5",
}


class NeuronBackend(Backend):
    """One process for each core of an instance type, in tensor-parallel groups."""

    place = "each core"
    runtime_bytes = (0.0, 1.5 * GIB)
    accelerator_resources = (DEVICE, ADAPTER)

    def open_process(self, recipe: Recipe) -> "BackendProcess":
        """One process on one core."""
        try:
            # torch_xla and optimum-neuron: seconds, and not installed where launching and planning happen.
            from neuron_ops.backends.neuron_process import NeuronProcess
        except ModuleNotFoundError as error:
            raise InvalidInput(
                f"hardware.backend is neuron, but {error.name} is not installed here. Use the image for Trainium, or "
                "backend cpu or cuda."
            ) from None
        return NeuronProcess(recipe)

    def refuse_recipe(self, recipe: Recipe) -> None:
        """Refuse by what the libraries cannot do."""
        neuron_refusals.refuse_recipe(recipe, self.instance(recipe.hardware))

    def refuse_model(self, recipe: Recipe, config: Mapping[str, Any]) -> None:  # Any: a Hugging Face config.json
        """Refuse by what the model's sizes do not divide into."""
        neuron_refusals.refuse_model(recipe, config, self.instance(recipe.hardware))

    def processes_per_node(self, hardware: HardwareSection) -> int:
        """One process for each core."""
        return self.instance(hardware).cores

    def environment(self, recipe: Recipe) -> dict[str, str]:
        """What the training program and its compilation find; names and meanings as in AWS's Neuron documentation."""
        instance = self.instance(recipe.hardware)
        variables = {
            **super().environment(recipe),
            # "Neuron Compiler CLI Reference Guide": the first two choose optimizations, and all are part of a cached
            # graph's key.
            # --auto-cast: by default float32 matrix products are cast to bfloat16 (same guide, and "Mixed Precision and
            # Performance-accuracy Tuning (neuronx-cc)"; the troubleshooting guide of NxD Inference has a section on
            # what that costs in accuracy). The rotary embedding's angles are such a product: of 1,024 positions 513
            # would stay distinct. So are those of the adapter's float32 factors, and all of a float32 model.
            "NEURON_CC_FLAGS": "--model-type=transformer --distribution-strategy=llm-training --auto-cast=none",
            # "Neuron Runtime configuration". Under torchrun torch_xla gives each process one core by its local rank,
            # which goes before this count; optimum-neuron reads the count.
            "NEURON_RT_NUM_CORES": str(instance.cores),
            # Rounding is stochastic for bfloat16 weights that are trained; the adapter is trained in float32.
            "NEURON_RT_STOCHASTIC_ROUNDING_EN": "0",
            # "PyTorch NeuronX environment variables": steps in flight, and softmax as one operator.
            "NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS": "3",
            "NEURON_FUSE_SOFTMAX": "1",
            # "PyTorch NeuronX release notes", on memory that glibc keeps: without it the host runs out while saving.
            "MALLOC_ARENA_MAX": "64",
            # optimum-neuron asks a cache on the Hugging Face Hub for every graph; what training needs is published
            # here.
            "HF_HUB_OFFLINE": "1",
        }
        if instance.physical_cores > 1:
            # "Logical NeuronCore configuration": the number of processes above counts groups of cores.
            variables["NEURON_LOGICAL_NC_CONFIG"] = str(instance.physical_cores)
        if recipe.hardware.nodes > 1:
            # "How to prepare trn1.32xlarge for multi-node execution".
            variables |= {"FI_PROVIDER": "efa", "FI_EFA_USE_DEVICE_RDMA": "1", "FI_EFA_FORK_SAFE": "1"}
        return variables

    def rendezvous_environment(self, recipe: Recipe, address: str, port: int) -> dict[str, str]:
        """Where the processes of several nodes meet: on a port of this training's own, not on the default one."""
        return {"NEURON_RT_ROOT_COMM_ID": f"{address}:{port}"}

    def compiler(self, recipe: Recipe) -> NeuronCompiler:
        """There is always one."""
        return NeuronCompiler()

    def toolchain(self, recipe: Recipe) -> dict[str, str]:
        """The pinned one: a plan is made where none of it is installed."""
        return dict(TOOLCHAIN)

    def graph_fields(self, recipe: Recipe) -> tuple[str, ...]:
        """The optimizer's numbers, which may be constants of its graph.

        The learning rate is not: it changes with every step, so it is given to a graph.
        """
        return ("training.weight_decay", "training.adam_beta1", "training.adam_beta2", "training.max_grad_norm")

    def decides_graphs(self, recipe: Recipe) -> dict[str, Any]:  # Any: plain JSON
        """The chip too, and those variables that change what is traced or how it is compiled."""
        variables = self.environment(recipe)
        return {
            **super().decides_graphs(recipe),
            "target": self.instance(recipe.hardware).chip,
            "environment": {name: variables[name] for name in IN_GRAPHS if name in variables},
        }

    def instance(self, hardware: HardwareSection) -> Instance:
        """The one that the recipe has to name."""
        found = find_instance(hardware.instance_type)
        if found is None:
            raise InvalidInput(
                f"hardware.instance_type is {hardware.instance_type!r}, but backend neuron needs one of "
                f"{', '.join(INSTANCES)} (ml. names too)."
            )
        return found

    def booking(self, hardware: HardwareSection) -> Booking:
        """Every device of the node, so that no other training comes beside."""
        instance = self.instance(hardware)
        # Adapters are booked for several nodes only: a pod alone has nobody to talk to.
        adapters = {ADAPTER: instance.efa} if hardware.nodes > 1 and instance.efa else {}
        return Booking({DEVICE: instance.devices} | adapters, hardware.instance_type, DEVICE)


BACKEND = NeuronBackend()
