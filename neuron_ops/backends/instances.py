"""The one table of EC2 instance types: a row is all that it takes to train on another.

Facts and list prices only. What follows from them for processes and their environment belongs to each backend, what for
time and cost to planning. Counts and sizes are AWS's published ones (EC2 instance type pages). Not run on Trainium.
"""

from dataclasses import dataclass
from typing import Literal

GIB = 2**30
HYPERPOD_PREFIX = "ml."
"""HyperPod calls the same machines ml.<type>."""

VANTAGE = "on demand in us-east-1, instances.vantage.sh"
VANTAGE_TRN2 = "us-east-2, instances.vantage.sh, where it is mostly sold as Capacity Blocks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One EC2 instance type, as pods, torchrun and a plan see it."""

    chip: Literal["trn1", "trn2"]
    """What graphs are compiled for."""
    devices: int
    """Trainium chips."""
    cores_per_device: int
    """Logical NeuronCores of a chip, each with one process."""
    physical_cores: int
    """Physical cores that make one logical core (LNC)."""
    efa: int
    """Elastic Fabric Adapters; without any, it trains alone."""
    memory_per_core: int
    """Bytes of device memory that one process has."""
    host_memory: int
    """Bytes of main memory."""
    vcpus: int
    """CPU threads."""
    core_flops: float
    """Peak bfloat16 operations per second of each logical core."""
    usd_per_hour: float
    price_source: str
    price_date: str

    @property
    def cores(self) -> int:
        """Processes that leave no core idle."""
        return self.devices * self.cores_per_device


# Peaks: AWS Neuron documentation, Trn1 and Trn2 architecture: 191 TFLOPS for a Trainium's two cores, 667 for a
# Trainium2's four logical ones. trn2 pairs two physical cores into a logical one by default: 16 chips x 4 = 64.
INSTANCES = {
    "trn1.2xlarge": Instance(
        chip="trn1",
        devices=1,
        cores_per_device=2,
        physical_cores=1,
        efa=0,
        memory_per_core=16 * GIB,
        host_memory=32 * GIB,
        vcpus=8,
        core_flops=95.5e12,
        usd_per_hour=1.34375,
        price_source=VANTAGE,
        price_date="January 2026",
    ),
    "trn1.32xlarge": Instance(
        chip="trn1",
        devices=16,
        cores_per_device=2,
        physical_cores=1,
        efa=8,
        memory_per_core=16 * GIB,
        host_memory=512 * GIB,
        vcpus=128,
        core_flops=95.5e12,
        usd_per_hour=21.50,
        price_source=VANTAGE,
        price_date="January 2026",
    ),
    "trn1n.32xlarge": Instance(
        chip="trn1",
        devices=16,
        cores_per_device=2,
        physical_cores=1,
        efa=16,
        memory_per_core=16 * GIB,
        host_memory=512 * GIB,
        vcpus=128,
        core_flops=95.5e12,
        usd_per_hour=24.78,
        price_source=VANTAGE,
        price_date="January 2026",
    ),
    "trn2.48xlarge": Instance(
        chip="trn2",
        devices=16,
        cores_per_device=4,
        physical_cores=2,
        efa=16,
        memory_per_core=24 * GIB,
        host_memory=2048 * GIB,
        vcpus=192,
        core_flops=166.75e12,
        usd_per_hour=35.76,
        price_source=VANTAGE_TRN2,
        price_date="November 2025",
    ),
}


def find_instance(instance_type: str | None) -> Instance | None:
    """The row of a name, HyperPod's or EC2's; None for an unknown name, and for a computer that has none."""
    return INSTANCES.get((instance_type or "").removeprefix(HYPERPOD_PREFIX))
