"""The loop's device on an NVIDIA GPU: as on the CPU, with the GPU's own random generator."""

from collections.abc import Mapping

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

    def rng_states(self) -> dict[str, torch.Tensor]:
        """The host's and the GPU's generator."""
        return super().rng_states() | {"cuda": torch.cuda.get_rng_state()}

    def restore_rng(self, states: Mapping[str, torch.Tensor]) -> None:
        """Continue both streams."""
        super().restore_rng(states)
        torch.cuda.set_rng_state(states["cuda"])
