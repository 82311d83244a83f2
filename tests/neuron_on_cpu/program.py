"""Runs a step's program with the stand-in device: `python -m tests.neuron_on_cpu.program neuron_ops.steps.train …`."""

import os
import runpy
import sys

from tests.neuron_on_cpu import stand_in

if __name__ == "__main__":
    os.environ.pop("USE_TORCH_XLA", None)
    stand_in.install()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
