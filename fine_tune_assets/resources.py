"""The one resource: which recipe, with which overrides, on which store. The launchpad shows its fields.

Reading the defaults from the environment belongs to settings, finding artifacts to neuron_ops/steps/addresses.
"""

from dataclasses import dataclass
from typing import Any

from dagster import Field, ResourceDefinition

from fine_tune_assets.settings import Deployment, Settings
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.artifacts import ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets


@dataclass(frozen=True, slots=True)
class FineTuning:
    """A recipe and a store, the same for every asset of a run."""

    recipe: str
    overrides: dict[str, Any]  # Any: a value of any recipe field
    store: str
    raw: str
    deployment: Deployment = "local"
    """Whether this process runs in a pod. It is not a field of the launchpad, because a run cannot choose it."""

    def load_recipe(self) -> Recipe:
        """The recipe with the overrides applied; InvalidInput says what is wrong with them."""
        return load_recipe(self.recipe, self.overrides)

    def lineage(self, dataset_version: str | None) -> Lineage:
        """The recipe applied to one dataset version."""
        return Lineage(self.load_recipe(), ArtifactStore(self.store), self.raw_datasets(), dataset_version)

    def raw_datasets(self) -> RawDatasets:
        """Where dataset versions land."""
        return RawDatasets(self.raw)


def fine_tuning(settings: Settings) -> ResourceDefinition:
    """FineTuning with a default for every field, so that a run's configuration names only what it changes.

    A ConfigurableResource has one default for all fields together: a run that overrides one must repeat the others.
    """
    fields = {
        "recipe": Field(
            str,
            default_value=settings.recipe,
            description="Name of a shipped recipe, path of a recipe file, or the recipe itself as YAML.",
        ),
        "overrides": Field(
            dict,
            default_value={},
            description='Recipe fields to change for this run, such as {"training.learning_rate": 0.0001}.',
        ),
        "store": Field(str, default_value=settings.store, description="Folder or s3://bucket/prefix of the artifacts."),
        "raw": Field(
            str,
            default_value=settings.raw,
            description="Folder or s3://bucket/prefix that dataset versions land in.",
        ),
    }
    return ResourceDefinition(
        lambda context: FineTuning(**context.resource_config, deployment=settings.deployment),
        config_schema=fields,
        description=FineTuning.__doc__,
    )
