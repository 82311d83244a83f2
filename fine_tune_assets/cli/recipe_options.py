"""--recipe and --set, the same for every `fine-tune` command that needs a recipe."""

from collections.abc import Callable

import click

from fine_tune_assets.settings import read_settings
from neuron_ops.recipe.file import load_recipe, parse_overrides
from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.artifacts import ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets, check_version

Command = Callable[..., None]


def with_recipe(command: Command) -> Command:
    """Add the two options to a command, which gets them as `recipe` and `pairs`."""
    command = click.option("--set", "pairs", multiple=True, metavar="FIELD=VALUE", help="Override a recipe field.")(
        command
    )
    return click.option("--recipe", help="Name or file (default: FINE_TUNE_RECIPE, else tiny_llama_cpu).")(command)


def chosen_recipe(name: str | None, pairs: tuple[str, ...]) -> Recipe:
    """The recipe that the options or the environment name, overrides applied."""
    return load_recipe(name or read_settings().recipe, parse_overrides(list(pairs)))


def chosen_lineage(recipe: str | None, pairs: tuple[str, ...], version: str) -> Lineage:
    """The chosen recipe for one dataset version, on the store that the environment names."""
    settings = read_settings()
    return Lineage(
        chosen_recipe(recipe, pairs), ArtifactStore(settings.store), RawDatasets(settings.raw), check_version(version)
    )
