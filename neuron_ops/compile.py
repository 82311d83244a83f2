"""`compile` makes `compiled_graph_cache`: what training would otherwise compile in its first minutes.

On cpu and cuda the loop runs eagerly, so there is no graph to keep and the artifact says so.
"""

import logging
from pathlib import Path

from neuron_ops import cli
from neuron_ops.backends import layout
from neuron_ops.errors import InvalidInput
from neuron_ops.run import Run

log = logging.getLogger(__name__)


def build(run: Run, out: Path) -> cli.Product:
    """Fill `out` with the graphs that training with this recipe needs."""
    backend = layout(run.recipe).backend
    if backend == "neuron":
        raise InvalidInput(
            "hardware.backend is neuron: this version plans and addresses Trainium runs but cannot compile for it yet. "
            "Use backend cpu or cuda."
        )
    reason = f"backend {backend} runs eagerly: training compiles no graph"
    (out / "report.md").write_text(f"No compiled graphs: {reason}.\n")
    log.info("%s", reason)
    return cli.Product(metrics={"graphs": 0, "reason": reason})


if __name__ == "__main__":
    cli.main("compile", build)
