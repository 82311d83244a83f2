"""Any computer's CPUs, one process or several: the launch half. How a process trains belongs to cpu_process."""

from typing import TYPE_CHECKING

from neuron_ops.backends.backend import Backend
from neuron_ops.recipe.schema import Recipe

if TYPE_CHECKING:
    from neuron_ops.backends.process import BackendProcess


class CpuBackend(Backend):
    """Plain PyTorch, whose sums on a CPU depend on how many threads add up."""

    host_threads_decide = True

    def open_process(self, recipe: Recipe) -> "BackendProcess":
        """One process of one or several."""
        from neuron_ops.backends.cpu_process import CpuProcess  # torch, transformers, PEFT: 4 CPU seconds

        return CpuProcess(recipe)


BACKEND = CpuBackend()
