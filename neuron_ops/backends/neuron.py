"""Trainium's launch half: what an instance type is, and what its processes find in their environment. No torch here.

What a recipe may not ask of it belongs to neuron_refusals; the training process to the process half. Counts and sizes
are AWS's published ones (EC2 instance type pages; HyperPod calls the same machines ml.<type>). Not run on Trainium.
"""

from dataclasses import dataclass

from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.schema import HardwareSection, Recipe

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Instance:
    """One EC2 instance type, as pods, torchrun and a plan see it."""

    devices: int
    """Trainium chips, counted by the resource aws.amazon.com/neuron."""
    cores_per_device: int
    """Logical NeuronCores of a chip, each with one process."""
    efa: int
    """Elastic Fabric Adapters, counted by the resource vpc.amazonaws.com/efa; without any, it trains alone."""
    memory_per_core: int
    """Bytes of device memory that one process has."""
    host_memory: int
    """Bytes of main memory."""
    vcpus: int
    """CPU threads."""

    @property
    def cores(self) -> int:
        """Processes that leave no core idle."""
        return self.devices * self.cores_per_device


# trn2 pairs two physical cores into one logical core by default (LNC 2): 16 chips x 4 = 64.
INSTANCES = {
    "trn1.2xlarge": Instance(1, 2, efa=0, memory_per_core=16 * GIB, host_memory=32 * GIB, vcpus=8),
    "trn1.32xlarge": Instance(16, 2, efa=8, memory_per_core=16 * GIB, host_memory=512 * GIB, vcpus=128),
    "trn1n.32xlarge": Instance(16, 2, efa=16, memory_per_core=16 * GIB, host_memory=512 * GIB, vcpus=128),
    "trn2.48xlarge": Instance(16, 4, efa=16, memory_per_core=24 * GIB, host_memory=2048 * GIB, vcpus=192),
}

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


def instance(hardware: HardwareSection) -> Instance:
    """The instance type of the recipe.

    Raises:
        InvalidInput: none is given, or it is not a known one.
    """
    name = instance_name(hardware)
    if name not in INSTANCES:
        raise InvalidInput(
            f"hardware.instance_type is {hardware.instance_type!r}, but backend neuron needs one of "
            f"{', '.join(INSTANCES)} (ml. names too)."
        )
    return INSTANCES[name]


def instance_name(hardware: HardwareSection) -> str:
    """EC2's name of it, without HyperPod's prefix; empty when the recipe names none."""
    return (hardware.instance_type or "").removeprefix("ml.")


def processes_per_node(hardware: HardwareSection) -> int:
    """One process per core.

    Raises:
        InvalidInput: the recipe asks for another number, which would leave cores idle.
    """
    cores = instance(hardware).cores
    if hardware.processes not in (None, cores):
        raise InvalidInput(
            f"hardware.processes is {hardware.processes}, but {hardware.instance_type} has {cores} cores and idle "
            "cores are paid for. Remove the field: it is derived from instance_type."
        )
    return cores


def environment(recipe: Recipe) -> dict[str, str]:
    """What the training program and its compilation find; names and meanings as in AWS's Neuron documentation."""
    hardware = recipe.hardware
    variables = {
        # "Neuron Compiler CLI Reference Guide": both choose optimizations, and both are part of a cached graph's key.
        "NEURON_CC_FLAGS": "--model-type=transformer --distribution-strategy=llm-training",
        # "Neuron Runtime configuration". Under torchrun torch_xla gives each process one core by its local rank, which
        # goes before this count; optimum-neuron reads the count.
        "NEURON_RT_NUM_CORES": str(instance(hardware).cores),
        # Rounding is stochastic for bfloat16 weights that are trained; the adapter is trained in float32.
        "NEURON_RT_STOCHASTIC_ROUNDING_EN": "0",
        # "PyTorch NeuronX environment variables": steps in flight, and softmax as one operator.
        "NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS": "3",
        "NEURON_FUSE_SOFTMAX": "1",
        # "PyTorch NeuronX release notes", on memory that glibc keeps: without it the host runs out while saving.
        "MALLOC_ARENA_MAX": "64",
        # optimum-neuron asks a cache on the Hugging Face Hub for every graph; what training needs is published here.
        "HF_HUB_OFFLINE": "1",
    }
    if instance_name(hardware).startswith("trn2"):
        # "Logical NeuronCore configuration": the number of processes above counts pairs of cores.
        variables["NEURON_LOGICAL_NC_CONFIG"] = "2"
    if hardware.nodes > 1:
        # "How to prepare trn1.32xlarge for multi-node execution".
        variables |= {"FI_PROVIDER": "efa", "FI_EFA_USE_DEVICE_RDMA": "1", "FI_EFA_FORK_SAFE": "1"}
    return variables


def rendezvous_environment(address: str, port: int) -> dict[str, str]:
    """Where the processes of several nodes meet: on a port of this training's own, not on the default one."""
    return {"NEURON_RT_ROOT_COMM_ID": f"{address}:{port}"}
