"""Dagster's asset checks: declared from the table of steps, with results from each artifact's manifest.

The asset that makes the artifact also yields its checks: in the cluster a separate check would need another pod. Checks
are partitioned like their asset, so that a version whose gate failed stays failed when the next version passes.
"""

import warnings
from collections.abc import Iterator

from dagster import AssetCheckResult, AssetCheckSeverity, AssetCheckSpec
from dagster_shared.utils.warnings import PreviewWarning

from fine_tune_assets.metadata import readable
from fine_tune_assets.partitions import DATASET_VERSIONS
from neuron_ops.steps.checks import NotEvaluated, look_up
from neuron_ops.steps.table import Step
from neuron_ops.store.manifest import CheckRecord, Manifest


def specs(step: Step) -> list[AssetCheckSpec]:
    """Dagster's declaration of a step's checks."""
    with warnings.catch_warnings():
        # Partitioned checks are a preview in Dagster 1.13; without partitions a check shows only its latest version.
        warnings.simplefilter("ignore", PreviewWarning)
        return [
            AssetCheckSpec(
                check.name,
                asset=step.artifact,
                description=check.description,
                blocking=check.blocking,
                partitions_def=DATASET_VERSIONS if step.partitioned else None,
            )
            for check in step.checks
        ]


def results(step: Step, manifest: Manifest) -> Iterator[AssetCheckResult]:
    """The result of each declared check, read from the manifest, whether the step ran now or long ago."""
    for found in look_up(step.checks, manifest):
        yield _not_evaluated(found) if isinstance(found, NotEvaluated) else _evaluated(found)


def _evaluated(record: CheckRecord) -> AssetCheckResult:
    return AssetCheckResult(
        check_name=record.name,
        passed=record.passed,
        severity=AssetCheckSeverity.ERROR if record.blocking else AssetCheckSeverity.WARN,
        description=record.description,
        metadata={name: readable(value) for name, value in record.values.items()},
    )


def _not_evaluated(found: NotEvaluated) -> AssetCheckResult:
    """A warning, which blocks nothing: Dagster has no third state between passed and failed."""
    return AssetCheckResult(
        check_name=found.check.name, passed=False, severity=AssetCheckSeverity.WARN, description=found.reason
    )
