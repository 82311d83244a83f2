"""--recipe and --set, the same for every `fine-tune` command that needs a recipe."""

from collections.abc import Callable

import click

from fine_tune_assets.settings import read_settings
from neuron_ops.artifacts import ArtifactStore
from neuron_ops.raw import RawDatasets, check_version
from neuron_ops.recipe import Recipe
from neuron_ops.recipe_file import load_recipe, parse_overrides
from neuron_ops.run import Run

Command = Callable[..., None]


def with_recipe(command: Command) -> Command:
    """The two options, as `recipe` and `pairs`."""
    command = click.option("--set", "pairs", multiple=True, metavar="FIELD=VALUE", help="Override a recipe field.")(
        command
    )
    return click.option("--recipe", help="Name or file (default: FINE_TUNE_RECIPE, else tiny_llama_cpu).")(command)


def chosen_recipe(name: str | None, pairs: tuple[str, ...]) -> Recipe:
    """The recipe that the options or the environment name, overrides applied."""
    return load_recipe(name or read_settings().recipe, parse_overrides(list(pairs)))


def chosen_run(recipe: str | None, pairs: tuple[str, ...], version: str) -> Run:
    """That recipe for one dataset version, on the store of the environment."""
    settings = read_settings()
    return Run(
        chosen_recipe(recipe, pairs), ArtifactStore(settings.store), RawDatasets(settings.raw), check_version(version)
    )
