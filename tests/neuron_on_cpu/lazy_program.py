"""Runs a step's program on real, lazy torch_xla: its CPU device, one process, TP 1; only the SDK's packages are empty.

`GRAPHS=folder python -m tests.neuron_on_cpu.lazy_program neuron_ops.steps.train …` leaves a file named after each graph
in the folder. With `DIE=n` it kills itself after the n-th backward pass.
"""

import os
import runpy
import signal
import sys

ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "none"}
MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


def install() -> None:
    """Let optimum-neuron's libraries take torch_xla's CPU device for a core."""
    os.environ.pop("USE_TORCH_XLA", None)
    os.environ.update({"PJRT_DEVICE": "CPU", "NXD_LOG_LEVEL": "error", **ALONE, **MEETING})
    import torch_xla
    import torch_xla.core.xla_model as xm
    import torch_xla.runtime as xr

    from tests.neuron_on_cpu import empty_packages
    from tests.neuron_on_cpu.stand_in import register_machine

    empty_packages.install(torch_xla)
    # Names that AWS's build of torch_xla still has.
    xm.get_ordinal, xm.xrt_world_size, xm.get_local_ordinal = xr.global_ordinal, xr.world_size, xr.local_ordinal
    register_machine()
    xr.initialize_cache(os.environ["GRAPHS"], readonly=False)


def die_after(backward_passes: int) -> None:
    """SIGKILL to this very process, as a machine that goes away."""
    import torch

    from neuron_ops.backends.neuron_process import NeuronProcess

    left, backward = [backward_passes], NeuronProcess.backward

    def count(self: NeuronProcess, loss: torch.Tensor) -> None:
        backward(self, loss)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    NeuronProcess.backward = count  # type: ignore[method-assign]


if __name__ == "__main__":
    install()
    if "DIE" in os.environ:
        die_after(int(os.environ["DIE"]))
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
