"""NVIDIA GPUs, one process for each: the launch half. How a process trains belongs to cuda_process."""

from typing import TYPE_CHECKING

from neuron_ops.backends.backend import Backend
from neuron_ops.backends.booking import Booking
from neuron_ops.backends.instances import GIB
from neuron_ops.recipe.schema import HardwareSection, Recipe

if TYPE_CHECKING:
    from neuron_ops.backends.process import BackendProcess

GPU = "nvidia.com/gpu"


class CudaBackend(Backend):
    """Plain PyTorch on GPUs that no recipe names."""

    place = "each GPU"
    runtime_bytes = (0.3 * GIB, 1.0 * GIB)
    evaluates_on_cpu = False
    accelerator_resources = (GPU,)

    def open_process(self, recipe: Recipe) -> "BackendProcess":
        """One process on one GPU."""
        from neuron_ops.backends.cuda_process import CudaProcess  # torch, transformers, PEFT: 4 CPU seconds

        return CudaProcess(recipe)

    def inference_device(self) -> str:
        """A step that books no accelerator uses a GPU only if there is one."""
        import torch  # only a process that holds a model asks

        return "cuda" if torch.cuda.is_available() else "cpu"

    def booking(self, hardware: HardwareSection) -> Booking:
        """A GPU for each process."""
        return Booking({GPU: self.processes_per_node(hardware)}, taint=GPU)


BACKEND = CudaBackend()
