"""The asset checks as Dagster sees them: what the table of steps declares, with what each artifact says.

They are checks of the producing asset: in the cluster a check of its own would be another pod. They are partitioned
like their asset, so that a version whose gate failed stays failed when the next version passes.
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
        # Dagster 1.13 calls partitions of a check a preview; without them a check's health is its latest version's.
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
    """What the artifact says about each declared check; the same whether its step ran now or long ago."""
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
