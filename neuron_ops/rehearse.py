"""`rehearse` runs training for the fewest steps that visit every graph: a program that `compile` starts, not a step.

It is training's own loop on rows of the right shape: an evaluation, two optimizer steps with all their micro-batches,
a read of the losses, another evaluation. Two steps, because the first one's gradients and optimizer state are not yet
there. It saves nothing, and looks at no number: where graphs are only extracted, numbers mean nothing.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from neuron_ops import cli
from neuron_ops.artifacts import Address
from neuron_ops.backends import open_backend
from neuron_ops.backends.compilers import compiler
from neuron_ops.backends.process import Backend
from neuron_ops.graphs import rehearsal
from neuron_ops.graphs.synthetic import write_rows
from neuron_ops.recipe import Recipe
from neuron_ops.run import Plan, Run
from neuron_ops.shared_copy import shared_copy
from neuron_ops.training.checkpoints import HISTORY, Checkpoints
from neuron_ops.training.loop import Loop
from neuron_ops.training.ranks import Ranks

STEPS = 2


class Rehearsal(Loop):
    """Training without its results."""

    def __init__(self, recipe: Recipe, backend: Backend, checkpoints: Checkpoints, rows: Path, base: Path) -> None:
        super().__init__(recipe, backend, checkpoints, rows, base, rows / HISTORY)
        self._evaluations: list[float] = []
        self._steps: list[float] = []

    def seconds(self) -> dict[str, float]:
        """What the first of everything took, compiled on the way, and what the second step took."""
        return {
            "first_evaluation_seconds": round(self._evaluations[0], 4),
            "first_step_seconds": round(self._steps[0], 4),
            "second_step_seconds": round(self._steps[1], 4),
        }

    def _resume(self) -> int:
        return 0

    def _evaluate(self, step: int) -> None:
        began = time.monotonic()
        super()._evaluate(step)
        self._evaluations.append(time.monotonic() - began)

    def _train_step(self, step: int) -> None:
        began = time.monotonic()
        super()._train_step(step)
        self._steps.append(time.monotonic() - began)

    def _save(self, step: int) -> None:
        pass

    def _check_finite(self, step: int, values: dict[str, float]) -> None:
        pass

    def _check_gradient(self, step: int, norm: float) -> None:
        pass


def shorten(recipe: Recipe) -> Recipe:
    """The recipe with as few steps as visit every graph."""
    every = {"log_every": STEPS, "evaluate_every": STEPS, "checkpoint_every": STEPS}
    short = {"steps": STEPS, **every, "early_stopping_patience": None}
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=short)})


def rehearse(run: Run, out: Path) -> None:
    """Rehearse with the run's base model, and leave the seconds it took in `out`."""
    backend = open_backend(run.recipe)
    recipe = shorten(run.recipe)
    model = shared_copy(run.require("base_model"), cli.launch_name(), verify=False)
    with model as base, tempfile.TemporaryDirectory() as folder:
        rows = Path(folder)
        size = recipe.graph.micro_batch_size * backend.data_parallel_size
        vocabulary = json.loads((base / "config.json").read_bytes())["vocab_size"]
        steps = size * recipe.graph.gradient_accumulation * STEPS
        write_rows(rows, recipe, vocabulary, train=steps, holdout=size)
        # Nothing is ever saved there: the loop asks for a place.
        nowhere = Checkpoints(run.store, Plan(Address("lora_checkpoints", "rehearsal"), {}, {}), backend, Ranks())
        loop = Rehearsal(recipe, backend, nowhere, rows, base)
        loop.run()
    if backend.rank == 0:
        chosen = compiler(recipe)
        measured = {**loop.seconds(), "machine": chosen.machine() if chosen else ""}
        (out / rehearsal.RESULT).write_text(json.dumps(measured))


def main() -> None:
    """Run as a program, one process of as many as training has."""
    parser = argparse.ArgumentParser(prog="python -m neuron_ops.rehearse", description=__doc__)
    cli.add_places(parser)
    parser.add_argument("--out", required=True, type=Path, help="folder for what was measured")
    arguments = parser.parse_args()

    def body() -> int:
        rehearse(cli.open_run(arguments), arguments.out)
        return 0

    cli.run_program(body)


if __name__ == "__main__":
    main()
