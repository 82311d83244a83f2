"""The command line of a step and the environment of its program.

Starting and watching the program belongs to launch and to the orchestrator; reading flags and environment to program.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from neuron_ops import backends
from neuron_ops.backends import layout
from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps.table import Step


def command(step: Step, recipe: Recipe, recipe_file: Path, store: str, raw: str, version: str | None) -> list[str]:
    """The command line of a step; if it takes several processes, of the program that starts them all.

    Raises:
        InvalidInput: the recipe's hardware section is inconsistent.
    """
    words = flags(step, str(recipe_file), store, raw, version)
    if takes_several(step, recipe):
        return world_command(step, words)
    return [sys.executable, "-m", f"neuron_ops.steps.{step.verb}", *words]


def takes_several(step: Step, recipe: Recipe) -> bool:
    """Whether several processes make a step's artifact together.

    Raises:
        InvalidInput: the recipe's hardware section is inconsistent.
    """
    return (step.launched_by_backend and layout(recipe).world_size > 1) or step.nodes(recipe) > 1


def world_command(step: Step, words: Sequence[str]) -> list[str]:
    """The program that starts every process of a step, with the step's own flags."""
    return [sys.executable, "-m", "neuron_ops.steps.nodes", step.verb, *words]


def flags(step: Step, recipe: str, store: str, raw: str, version: str | None) -> list[str]:
    """The flags of a step's program; `recipe` is a file, a shipped name, or the recipe itself as JSON."""
    words = ["--recipe", recipe, "--store", store, "--raw", raw]
    return [*words, "--dataset-version", version] if version is not None and step.partitioned else words


def environment(step: Step, recipe: Recipe) -> dict[str, str]:
    """The variables that a step's program needs in addition to its launcher's environment."""
    if step.needs_accelerator:
        return backends.environment(recipe)
    # numpy's BLAS reads this when numpy is imported; without it, it starts a thread for each core. The blocks in these
    # steps are too small for so many threads: they would only spin.
    return {"OPENBLAS_NUM_THREADS": "1"} if step.verb in ("consolidate", "merge") else {}
