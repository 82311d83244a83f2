"""What a pod books of a machine, in Kubernetes' words; which of it belongs to each backend."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Booking:
    """What a pod needs of its node besides CPU and memory."""

    resources: Mapping[str, int] = field(default_factory=dict)
    """Extended resources by their names, such as nvidia.com/gpu."""
    instance_type: str | None = None
    """The only nodes that have them, by what their label says; None where the resources tell."""
    taint: str | None = None
    """The taint that keeps other pods away from those nodes."""


NOTHING = Booking()
