"""The loop's device on an NVIDIA GPU: as on the CPU."""

import torch
from accelerate import Accelerator

from neuron_ops.backends.cpu_process import CpuProcess
from neuron_ops.errors import InvalidInput


class CudaProcess(CpuProcess):
    """One process per GPU."""

    def _open(self) -> Accelerator:
        if not torch.cuda.is_available():
            raise InvalidInput(
                "hardware.backend is cuda, but torch sees no GPU here. "
                "Use backend cpu, or install a CUDA build of torch."
            )
        return Accelerator()
