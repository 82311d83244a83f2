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

from neuron_ops.backends import open_backend
from neuron_ops.backends.process import Backend
from neuron_ops.compilers.compiler import compiler
from neuron_ops.recipe.schema import Recipe
from neuron_ops.rows.synthetic import write_rows
from neuron_ops.steps import program, warmup_launcher
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.artifacts import Address, Provenance
from neuron_ops.store.shared_copy import shared_copy
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
    every = {"logging_steps": STEPS, "eval_steps": STEPS, "save_steps": STEPS}
    short = {"max_steps": STEPS, "num_train_epochs": None, **every, "early_stopping_patience": None}
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=short)})


def rehearse(lineage: Lineage, out: Path) -> None:
    """Rehearse with the run's base model, and leave the seconds it took in `out`."""
    backend = open_backend(lineage.recipe)
    recipe = shorten(lineage.recipe)
    model = shared_copy(lineage.require("base_model"), program.launch_name(), verify=False)
    with model as base, tempfile.TemporaryDirectory() as folder:
        rows = Path(folder)
        size = recipe.graph.micro_batch_size * backend.data_parallel_size
        vocabulary = json.loads((base / "config.json").read_bytes())["vocab_size"]
        steps = size * recipe.graph.gradient_accumulation_steps * STEPS
        write_rows(rows, recipe, vocabulary, train=steps, holdout=size)
        # Nothing is ever saved there: the loop asks for a place.
        nowhere = Checkpoints(
            lineage.store, Provenance(Address("lora_checkpoints", "rehearsal"), {}, {}), backend, Ranks()
        )
        loop = Rehearsal(recipe, backend, nowhere, rows, base)
        loop.run()
    if backend.rank == 0:
        chosen = compiler(recipe)
        measured = {**loop.seconds(), "machine": chosen.machine() if chosen else ""}
        (out / warmup_launcher.RESULT).write_text(json.dumps(measured))


def main() -> None:
    """Run as a program, one process of as many as training has."""
    parser = argparse.ArgumentParser(prog="python -m neuron_ops.steps.warmup", description=__doc__)
    program.add_places(parser)
    parser.add_argument("--out", required=True, type=Path, help="folder for what was measured")
    arguments = parser.parse_args()

    def body() -> int:
        rehearse(program.open_lineage(arguments), arguments.out)
        return 0

    program.run_program(body)


if __name__ == "__main__":
    main()
