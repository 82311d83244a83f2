"""`train` makes `lora_checkpoints`: the one training loop, on the backend that the recipe names.

The checkpoints hold everything that resuming needs. The loop itself belongs to training/loop.py.
"""

import json
from pathlib import Path

from neuron_ops.backends import open_backend
from neuron_ops.steps import program
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.graph_cache_use import GraphCacheUse, compiled_graphs
from neuron_ops.store.shared_copy import shared_copy
from neuron_ops.training.checkpoints import HISTORY, Checkpoints
from neuron_ops.training.history import draw_losses
from neuron_ops.training.loop import Loop
from neuron_ops.training.ranks import Ranks
from neuron_ops.training.watchdog import Watchdog


def build(lineage: Lineage, out: Path) -> program.StepResult:
    """Train with the graphs that `compile` made."""
    with compiled_graphs(lineage, program.launch_name(), program.end_at_once) as graphs:
        loop = _train(lineage, out)
    return _result(loop, graphs)


def _train(lineage: Lineage, out: Path) -> Loop:
    """Train, resuming from the newest finished checkpoint of the same training, and write which checkpoint is best."""
    recipe, process = lineage.recipe, open_backend(lineage.recipe)
    checkpoints = Checkpoints(lineage.store, lineage.provenance("lora_checkpoints"), process, Ranks())
    dataset, model, launch = lineage.require("tokenized_dataset"), lineage.require("base_model"), program.launch_name()
    first = process.rank == 0  # one rank reads every byte to compare digests; the others compare sizes
    with shared_copy(dataset, launch, verify=first) as rows, shared_copy(model, launch, verify=first) as base:
        watchdog = Watchdog(recipe.hardware.stall_minutes, program.end_at_once)
        loop = Loop(
            *(recipe, process, rows, base),
            checkpoints=checkpoints,
            history_file=out / HISTORY,
            on_progress=watchdog.progress,
        )
        with watchdog:
            loop.run()
    if first:
        checkpoints.tidy()
        summary = checkpoints.summary()
        (out / "checkpoints.json").write_text(json.dumps(summary, indent=2) + "\n")
        # Artifacts made from the best checkpoint must not depend on how many others are kept.
        (out / "best.json").write_text(json.dumps(summary["best"], indent=2) + "\n")
        draw_losses(loop.history, out / "loss.png")
    return loop


def _result(loop: Loop, graphs: GraphCacheUse) -> program.StepResult:
    return program.StepResult(metrics={**loop.metrics(), **graphs.metrics()})


if __name__ == "__main__":
    program.main("train", build)
