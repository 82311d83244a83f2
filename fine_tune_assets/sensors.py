"""The sensor that starts a run when a dataset version lands.

The job that it starts belongs to jobs; the sensor that deletes the pods of finished runs, to kubernetes/janitor.
"""

from collections.abc import Iterator

from dagster import (
    AssetMaterialization,
    DefaultSensorStatus,
    ResourceParam,
    RunRequest,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from fine_tune_assets.jobs import fine_tune
from fine_tune_assets.partitions import DATASET_VERSIONS, PARTITIONS_NAME
from fine_tune_assets.resources import FineTuning
from neuron_ops.errors import OpsError
from neuron_ops.steps.table import RAW_DATASET
from neuron_ops.store.raw_datasets import MARKERS, RawDatasets, check_version

MAX_NEW_PER_TICK = 20
"""A tick has a minute and reads each new version's rows once for their digest; the others wait for the next tick."""


@sensor(
    job=fine_tune,
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.STOPPED,
    description="Registers each dataset version that has landed as a partition and fine-tunes on it, in one tick.",
)
def new_dataset_version(
    context: SensorEvaluationContext, fine_tuning: ResourceParam[FineTuning]
) -> SensorResult | SkipReason:
    """Compare names, not dates: a listing is sorted by name, and a late version may sort before the others."""
    raw = fine_tuning.raw_datasets()
    known = set(context.instance.get_dynamic_partitions(PARTITIONS_NAME))
    landed, problems = _find_landed(raw, known)
    for problem in problems:
        context.log.warning(problem)
    if not landed:
        return SkipReason(" ".join([f"No new dataset version in {raw.url}.", *problems]))
    return SensorResult(
        dynamic_partitions_requests=[DATASET_VERSIONS.build_add_request(list(landed))],
        run_requests=[
            RunRequest(run_key=f"{version}-{digest}", partition_key=version) for version, digest in landed.items()
        ],
        asset_events=[delivery(raw, version, digest) for version, digest in landed.items()],
    )


def delivery(raw: RawDatasets, version: str, digest: str) -> AssetMaterialization:
    """The event that tells Dagster that a dataset version exists; it is the root of the version's lineage."""
    return AssetMaterialization(
        RAW_DATASET,
        partition=version,
        metadata={"location": f"{raw.url}/{version}", **raw.stats(version)},
        tags={DATA_VERSION_TAG: digest},
    )


def _find_landed(raw: RawDatasets, known: set[str]) -> tuple[dict[str, str], list[str]]:
    """New versions with their digests, and why other folders do not count as versions."""
    landed: dict[str, str] = {}
    problems: list[str] = []
    waiting: list[str] = []
    for version in _unknown(raw, known):
        if len(landed) == MAX_NEW_PER_TICK:
            break
        try:
            check_version(version)
            if raw.has_landed(version):
                landed[version] = raw.digest(version)
            else:
                waiting.append(version)
        except OpsError as error:
            problems.append(str(error))
    if waiting:
        others = f" and {len(waiting) - 1} others" if len(waiting) > 1 else ""
        problems.append(f"Waiting for {MARKERS[0]} in {waiting[0]}{others}.")
    return landed, problems


def _unknown(raw: RawDatasets, known: set[str]) -> Iterator[str]:
    return (name for name in raw.names() if name not in known and not name.startswith("."))
