"""Warming up a compiler: training's own loop, for the fewest steps that visit every graph.

`compile` starts it; it is not a step. On rows of the right shape it runs an evaluation of two batches, two optimizer
steps with all their micro-batches, a read of the losses, and another evaluation. It takes two steps because gradients
and optimizer state do not exist yet in the first. It saves nothing and checks no number: while a compiler only extracts
graphs, numbers mean nothing.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from neuron_ops.backends import compiler, open_backend
from neuron_ops.backends.process import BackendProcess
from neuron_ops.models.config import CONFIG, read_config, read_shape
from neuron_ops.recipe.schema import Recipe
from neuron_ops.rows.synthetic import write_rows
from neuron_ops.steps import program, warmup_launcher
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.shared_copy import shared_copy
from neuron_ops.training.loop import Loop
from neuron_ops.training.watchdog import Watchdog

log = logging.getLogger("neuron_ops.steps.warmup")  # as a program, this module has another name

NUM_STEPS = 2
"""Optimizer steps of a warm-up."""
# The second batch adds to a sum that is already on the device. On a lazy device this was once a different graph from
# the first batch's; a warm-up of one batch missed it, and training ended before step 1.
EVALUATED_BATCHES = 2


def visit_every_graph(loop: Loop) -> dict[str, float]:
    """Seconds of the first evaluation, the first step (each with its compilation) and the second step."""
    seconds = {
        "first_evaluation_seconds": _timed(lambda: loop.evaluate(0)),
        "first_step_seconds": _timed(lambda: loop.train_step(0)),
        "second_step_seconds": _timed(lambda: loop.train_step(1)),
    }
    loop.read_losses()
    first, second = seconds["first_step_seconds"], seconds["second_step_seconds"]
    log.info("%d steps took %.2f s and %.2f s", NUM_STEPS, first, second)
    loop.evaluate(NUM_STEPS)
    return seconds


def _timed(part: Callable[[], None]) -> float:
    began = time.monotonic()
    part()
    return round(time.monotonic() - began, 4)


def warm_up(lineage: Lineage, out: Path) -> None:
    """Visit every graph with the lineage's base model, and write the measured seconds to `out`."""
    recipe, process = shorten(lineage.recipe), open_backend(lineage.recipe)
    model = shared_copy(lineage.require("base_model"), program.launch_name(), verify=False)
    with model as base, tempfile.TemporaryDirectory() as folder:
        rows = Path(folder)
        _write_rows(rows, recipe, process, base)
        watchdog = Watchdog(recipe.hardware.stall_minutes, program.end_at_once)
        loop = Loop(*(recipe, process, rows, base), on_progress=watchdog.progress, check_numbers=False)
        with watchdog:
            seconds = visit_every_graph(loop)
    if process.rank == 0:
        chosen = compiler(recipe)
        measured = {**seconds, "machine": chosen.machine() if chosen else ""}
        (out / warmup_launcher.RESULT).write_text(json.dumps(measured))


def shorten(recipe: Recipe) -> Recipe:
    """The recipe with the length of the warm-up; no graph depends on the length.

    The learning rate at the recipe's own last step may be zero, which a compiler treats as a special constant; and the
    few rows of a warm-up say nothing about epochs.
    """
    short = recipe.training.model_copy(update={"max_steps": NUM_STEPS, "num_train_epochs": None})
    return recipe.model_copy(update={"training": short})


def _write_rows(folder: Path, recipe: Recipe, process: BackendProcess, base: Path) -> None:
    """Write just enough rows for EVALUATED_BATCHES and every micro-batch of the steps."""
    size = recipe.graph.micro_batch_size * process.data_parallel_size
    vocabulary = read_shape(read_config(base), str(base / CONFIG)).vocabulary
    num_training_rows = size * recipe.graph.gradient_accumulation_steps * NUM_STEPS
    write_rows(folder, recipe, vocabulary, train=num_training_rows, holdout=size * EVALUATED_BATCHES)


def main() -> None:
    """Run as a program: one of as many processes as training has."""
    parser = argparse.ArgumentParser(prog="python -m neuron_ops.steps.warmup", description=__doc__)
    program.add_places(parser)
    parser.add_argument("--out", required=True, type=Path, help="folder for what was measured")
    arguments = parser.parse_args()

    def body() -> int:
        warm_up(program.open_lineage(arguments), arguments.out)
        return 0

    program.run_program(body)


if __name__ == "__main__":
    main()
