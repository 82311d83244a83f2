"""The one resource: which recipe, with which overrides, on which store. Its fields are what the launchpad shows."""

from typing import Any

from dagster import ConfigurableResource
from pydantic import Field

from neuron_ops.artifacts import ArtifactStore
from neuron_ops.raw import RawDatasets
from neuron_ops.recipe import Recipe, load_recipe
from neuron_ops.run import Run


class FineTuning(ConfigurableResource):  # type: ignore[type-arg]  # Dagster leaves the parameter open
    """A recipe and a store, the same for every asset of a run."""

    recipe: str = Field(description="Name of a shipped recipe, or path of a recipe file.")
    overrides: dict[str, Any] = Field(  # Any: a value of any recipe field
        default={},
        description='Recipe fields to change for this run, such as {"training.learning_rate": 0.0001}.',
    )
    store: str = Field(description="Folder or s3://bucket/prefix of the artifacts.")
    raw: str = Field(description="Folder or s3://bucket/prefix that dataset versions land in.")

    def load_recipe(self) -> Recipe:
        """The recipe with the overrides applied; InvalidInput says what is wrong with them."""
        return load_recipe(self.recipe, self.overrides)

    def run(self, dataset_version: str | None) -> Run:
        """The recipe applied to one dataset version."""
        return Run(self.load_recipe(), ArtifactStore(self.store), self.raw_datasets(), dataset_version)

    def raw_datasets(self) -> RawDatasets:
        """Where dataset versions land."""
        return RawDatasets(self.raw)
