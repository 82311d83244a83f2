"""The part of a machine that a pod books: extended resources and placement, from the recipe's hardware alone."""

from fine_tune_assets.kubernetes.pods.settings import INSTANCE_TYPE_LABEL
from neuron_ops.backends import find_backend
from neuron_ops.backends.booking import Booking
from neuron_ops.recipe.schema import HardwareSection


def booking(hardware: HardwareSection) -> Booking:
    """One whole node of the recipe's hardware; nothing for cpu.

    Raises:
        InvalidInput: the instance type is missing or unknown.
    """
    return find_backend(hardware).booking(hardware)


def node_selector(books: Booking) -> dict[str, str]:
    """Labels of the nodes that have the booked resources; empty if any node does."""
    return {} if books.instance_type is None else {INSTANCE_TYPE_LABEL: books.instance_type}
