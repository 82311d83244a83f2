"""One recipe applied to one dataset version: which artifact is where, and whether it is there.

Addresses are derived, never passed: the orchestrator, a step and a person's command line compute the same address from
the same recipe, store and dataset version. The contents of the artifacts belong to the steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from neuron_ops.backends import refuse_model
from neuron_ops.errors import InvalidInput, MissingArtifact
from neuron_ops.models.config import CONFIG, parse_config, refuse_other_targets
from neuron_ops.recipe.first_defaults import field_values, flatten, with_first_defaults, without_first_defaults
from neuron_ops.recipe.schema import BaseModelSection, Recipe, package_path
from neuron_ops.steps.checks import look_up
from neuron_ops.steps.table import BY_ARTIFACT, PUBLISHED_MODEL, RAW_DATASET, Input
from neuron_ops.store.artifacts import Artifact, ArtifactStore
from neuron_ops.store.files import open_files
from neuron_ops.store.manifest import (
    Address,
    CheckRecord,
    InputRecord,
    Manifest,
    Provenance,
    explain_difference,
    fingerprint,
)
from neuron_ops.store.raw_datasets import RawDatasets


@dataclass(frozen=True)
class Lineage:
    """A recipe, a dataset version (None for artifacts without one), the store and the raw datasets."""

    recipe: Recipe
    store: ArtifactStore
    raw: RawDatasets
    dataset_version: str | None = None
    _finished: dict[str, Artifact] = field(default_factory=dict, repr=False)

    def provenance(self, artifact: str) -> Provenance:
        """Address and inputs of an artifact; everything that it reads must be finished.

        Raises:
            MissingArtifact: an input was never finished.
            InvalidInput: an input failed a blocking check.
        """
        step = BY_ARTIFACT[artifact]
        inputs = {item.artifact: self._input(item) for item in step.inputs}
        reads = {
            "step": step.verb,
            "code_version": step.code_version,
            "recipe": field_values(self.recipe, step.fields(self.recipe)),
            "derived": without_first_defaults(flatten(step.derived(self.recipe))),
        }
        hashed = {**reads, "inputs": {name: record.digest for name, record in inputs.items()}}
        version = self.version if step.addressed_by_version else None
        return Provenance(Address(artifact, fingerprint(hashed), version), reads, inputs)

    def find(self, artifact: str) -> Artifact | None:
        """The finished artifact, or None.

        Raises:
            MissingArtifact: one of its inputs was never finished.
            InvalidInput: one of its inputs failed a blocking check.
        """
        if artifact not in self._finished:
            found = self.store.find(self.provenance(artifact).address)
            if found is None:
                return None
            self._finished[artifact] = found
        return self._finished[artifact]

    def require(self, artifact: str) -> Artifact:
        """The finished artifact, whose blocking checks have passed.

        Raises:
            MissingArtifact: it was never finished.
            InvalidInput: one of its blocking checks failed, so nothing may be built on it.
        """
        found = self.find(artifact)
        if found is None:
            raise self._missing(artifact)
        records = look_up(BY_ARTIFACT[artifact].checks, found.manifest)
        failed = [record for record in records if isinstance(record, CheckRecord) and not record.passed]
        if failed := [record for record in failed if record.blocking]:
            raise InvalidInput(
                f"{found.address} failed its check {failed[0].name!r} ({failed[0].description}), "
                "so nothing is built on it. Change the recipe or the dataset and materialize it again."
            )
        return found

    def require_inputs(self, artifact: str) -> Provenance:
        """The provenance of an artifact that is about to be made; what it only waits for must also be finished.

        Raises:
            MissingArtifact: something that it reads or waits for was never finished.
            InvalidInput: one of those failed a blocking check, or the base model does not fit the recipe.
        """
        step = BY_ARTIFACT[artifact]
        for name in step.waits_for:
            self.require(name)
        if step.needs_accelerator:
            base = self.require("base_model")
            config = parse_config(base.read(CONFIG) if base.has(CONFIG) else None, str(base.address))
            refuse_other_targets(config, self.recipe.graph.lora.target_modules)
            refuse_model(self.recipe, config)
        return self.provenance(artifact)

    @property
    def version(self) -> str:
        """The dataset version of an artifact that needs one.

        Raises:
            InvalidInput: no version was given.
        """
        if self.dataset_version is None:
            raise InvalidInput(
                "This artifact belongs to a dataset version, but none was given. Pass --dataset-version."
            )
        return self.dataset_version

    def nearest(self, artifact: str) -> tuple[Address, list[str]] | None:
        """The finished artifact with the fewest fields that differ from the one to make, and these fields."""
        return min(self._differences(artifact), key=lambda other: len(other[1]), default=None)

    def _differences(self, artifact: str) -> Iterator[tuple[Address, list[str]]]:
        wanted = self.provenance(artifact)
        for other in self.store.finished(artifact, wanted.address.dataset_version):
            yield other.address, self._difference(artifact, other.manifest, wanted)

    def _difference(self, artifact: str, old: Manifest, new: Provenance) -> list[str]:
        """The differing fields, under their names in a recipe, with the defaults that an address leaves out."""
        step = BY_ARTIFACT[artifact]
        names = (*step.fields(self.recipe), *flatten(step.derived(self.recipe)))
        before, after = (with_first_defaults(_decided_by(source), names) for source in (old, new))
        return explain_difference(before, after)

    def _input(self, item: Input) -> InputRecord:
        if item.artifact == RAW_DATASET:
            return InputRecord(address=f"{self.raw.url}/{self.version}", digest=self.raw.digest(self.version))
        if item.artifact == PUBLISHED_MODEL:
            return published_model(self.recipe.base_model)
        found = self.require(item.artifact)
        return InputRecord(address=str(found.address), digest=found.manifest.digest_of(item.files))

    def _missing(self, artifact: str) -> MissingArtifact:
        partition = f" --partition {self.dataset_version}" if BY_ARTIFACT[artifact].partitioned else ""
        return MissingArtifact(
            f"{artifact} was never finished with this recipe and these inputs. Materialize it first: "
            f"dagster asset materialize -m fine_tune_assets.definitions --select '{artifact}'{partition} "
            f"(or --select '*' for the whole graph)."
        )


def published_model(section: BaseModelSection) -> InputRecord:
    """The model that the recipe names: a commit, or a folder identified by the contents of its files."""
    if section.repository is not None:
        return InputRecord(address=f"{section.repository}@{section.revision}", digest=str(section.revision))
    url = str(package_path(str(section.path)) or section.path)
    return InputRecord(address=url, digest=fingerprint(open_files(url).digests("")))


def _decided_by(source: Manifest | Provenance) -> dict[str, Any]:  # Any: JSON
    """What decided an artifact: code version, recipe and derived fields under dotted names, digests of the inputs."""
    reads = source.reads
    inputs = {name: record.digest for name, record in source.inputs.items()}
    fields = {**reads.get("recipe", {}), **reads.get("derived", {})}
    return {"code_version": reads.get("code_version"), **fields, "inputs": inputs}
