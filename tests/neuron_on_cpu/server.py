"""The process that ranks on the stand-in device are forked from: importing the libraries takes half a minute."""

import os

from tests.neuron_on_cpu import stand_in

LATE_IMPORTS = (
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "neuron_ops.backends.neuron_process",
    "optimum.neuron.models.training.llama.modeling_llama",
    "tests.neuron_on_cpu.probes",
)

if __name__ == "__main__":
    os.environ.pop("USE_TORCH_XLA", None)
    stand_in.install()
    from tests.neuron_ops.training import fork_server

    fork_server.main(LATE_IMPORTS)
