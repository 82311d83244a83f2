"""What of a machine a pod books: extended resources and node placement, from the recipe's hardware alone."""

from dataclasses import dataclass, field

from fine_tune_assets.kubernetes.pods import INSTANCE_TYPE_LABEL
from neuron_ops.backends import neuron
from neuron_ops.recipe.schema import HardwareSection

NEURON = "aws.amazon.com/neuron"
EFA = "vpc.amazonaws.com/efa"
GPU = "nvidia.com/gpu"
ACCELERATORS = (NEURON, EFA, GPU)


@dataclass(frozen=True, slots=True)
class Booking:
    """What a pod needs of its node besides CPU and memory."""

    resources: dict[str, int] = field(default_factory=dict)
    """Extended resources, by their Kubernetes names."""
    node_selector: dict[str, str] = field(default_factory=dict)
    """Labels of the only nodes that have them."""
    taint: str | None = None
    """The taint that keeps other pods away from those nodes."""


NOTHING = Booking()


def booking(hardware: HardwareSection) -> Booking:
    """One whole node of the recipe's hardware; nothing for cpu.

    Raises:
        InvalidInput: the instance type is missing or unknown.
    """
    if hardware.backend == "neuron":
        instance = neuron.instance(hardware)
        # Adapters are booked for several nodes only: a pod alone has nobody to talk to.
        adapters = {EFA: instance.efa} if hardware.nodes > 1 and instance.efa else {}
        selector = {INSTANCE_TYPE_LABEL: str(hardware.instance_type)}
        return Booking({NEURON: instance.devices} | adapters, selector, NEURON)
    if hardware.backend == "cuda":
        return Booking({GPU: hardware.processes or 1}, {}, GPU)
    return NOTHING
