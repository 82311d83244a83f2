"""Trainium: which processes an instance type means. Not run on Trainium.

Device and core counts are AWS's published ones for EC2 Trn instances; HyperPod calls the same machines ml.<type>.
"""

from dataclasses import dataclass

from neuron_ops.errors import InvalidInput
from neuron_ops.recipe import HardwareSection


@dataclass(frozen=True, slots=True)
class Instance:
    """One EC2 instance type, as pods and torchrun see it."""

    devices: int
    """Trainium chips, counted by the resource aws.amazon.com/neuron."""
    cores_per_device: int
    """Logical NeuronCores of a chip, each with one process."""
    efa: int
    """Elastic Fabric Adapters, counted by the resource vpc.amazonaws.com/efa."""

    @property
    def cores(self) -> int:
        """Processes that leave no core idle."""
        return self.devices * self.cores_per_device


# trn2 pairs two physical cores into one logical core by default (LNC 2): 16 chips x 4 = 64.
INSTANCES = {
    "trn1.2xlarge": Instance(devices=1, cores_per_device=2, efa=0),
    "trn1.32xlarge": Instance(devices=16, cores_per_device=2, efa=8),
    "trn1n.32xlarge": Instance(devices=16, cores_per_device=2, efa=16),
    "trn2.48xlarge": Instance(devices=16, cores_per_device=4, efa=16),
}

# The last stack that optimum-neuron 0.4.5 is released for; these packages change a compiled graph or its key.
TOOLCHAIN = {
    "neuron-sdk": "2.26.1",
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
    name = (hardware.instance_type or "").removeprefix("ml.")
    if name not in INSTANCES:
        raise InvalidInput(
            f"hardware.instance_type is {hardware.instance_type!r}, but backend neuron needs one of "
            f"{', '.join(INSTANCES)} (ml. names too)."
        )
    return INSTANCES[name]


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
