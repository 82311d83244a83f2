"""The assets: one for each step, and the raw dataset that a data team delivers.

They are made from the table of steps, so nothing is written twice. Making an artifact belongs to launching, showing it
to metadata and checks.
"""

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    AssetSpec,
    Backoff,
    DataVersion,
    MaterializeResult,
    ResourceParam,
    RetryPolicy,
    asset,
)

from fine_tune_assets import checks
from fine_tune_assets.launching import ensure
from fine_tune_assets.metadata import metadata
from fine_tune_assets.partitions import DATASET_VERSIONS
from fine_tune_assets.resources import FineTuning
from neuron_ops.steps.table import RAW_DATASET, STEPS, Step, upstream

OWNERS = ["team:fine-tuning"]
ACCELERATOR_POOL = "accelerator"
"""Concurrency pool of the steps that book an accelerator; its limit is set on the Dagster instance."""

# A killed pod or process costs at most what was done since the last checkpoint, so trying again is cheap.
RETRIES = RetryPolicy(max_retries=2, delay=5, backoff=Backoff.EXPONENTIAL)


raw_dataset = AssetSpec(
    RAW_DATASET,
    description=(
        "A dataset version as a data team delivers it: rows as JSON lines or Parquet, and a marker written last. "
        "Immutable; made outside this graph."
    ),
    group_name="inputs",
    kinds={"json"},
    owners=OWNERS,
    partitions_def=DATASET_VERSIONS,
)


def build_asset(step: Step) -> AssetsDefinition:
    """The asset that a step of the table makes."""
    shown = step.presentation

    @asset(
        name=step.artifact,
        deps=list(upstream(step)),
        partitions_def=DATASET_VERSIONS if step.partitioned else None,
        group_name=shown.group,
        kinds=set(shown.kinds),
        owners=OWNERS,
        description=shown.description,
        code_version=step.code_version,
        check_specs=checks.specs(step),
        retry_policy=RETRIES,
        pool=ACCELERATOR_POOL if step.needs_accelerator else None,
    )
    def materialize(context: AssetExecutionContext, fine_tuning: ResourceParam[FineTuning]) -> MaterializeResult:  # type: ignore[type-arg]
        artifact, reused = ensure(context, step, fine_tuning)
        return MaterializeResult(
            metadata=metadata(artifact, reused),
            data_version=DataVersion(artifact.manifest.digest),
            check_results=list(checks.results(step, artifact.manifest)),
        )

    return materialize


def build_assets() -> list[AssetsDefinition | AssetSpec]:
    """The whole graph."""
    return [raw_dataset, *(build_asset(step) for step in STEPS)]
