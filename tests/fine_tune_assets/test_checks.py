"""Asset checks as Dagster keeps them: by dataset version, and for artifacts that were made before a check existed."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from dagster import AssetCheckEvaluation, AssetCheckKey, AssetKey, DagsterInstance, materialize
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as Status

from fine_tune_assets.assets import build_asset
from fine_tune_assets.resources import fine_tuning
from neuron_ops.steps.checks import Check, Metrics, Verdict
from neuron_ops.steps.table import BY_ARTIFACT, Step
from tests.fine_tune_assets.conftest import Project, run_config
from tests.neuron_ops.steps.finishing import finish_all

EVALUATION = BY_ARTIFACT["evaluation"]


def known_tokens(metrics: Metrics) -> Verdict:
    return Verdict(int(metrics["held_out_tokens"] or 0) > 10, "more than ten tokens were held out")


DECIDABLE = Check("known_tokens", "Enough tokens are held out.", from_metrics=known_tokens)
UNDECIDABLE = Check("style_is_right", "The answers have the right style.")


@pytest.fixture
def instance(project: Project) -> Iterator[DagsterInstance]:
    with project.instance() as instance:
        yield instance


def evaluate(
    project: Project, instance: DagsterInstance, version: str, step: Step, **metrics: Any
) -> list[AssetCheckEvaluation]:
    """Materialize `evaluation` of a version whose artifacts are finished with these metrics; nothing is computed."""
    project.deliver(version)
    project.register(version)
    finish_all(project.lineage(version), {"evaluation": {"metrics": metrics}})
    done = materialize(
        [build_asset(step)],
        instance=instance,
        partition_key=version,
        resources={"fine_tuning": fine_tuning(project.settings)},
        run_config=run_config(project.overrides),
        raise_on_error=False,
    )
    return list(done.get_asset_check_evaluations())


def losses(improvement: float) -> dict[str, float]:
    tuned = 2.0 - improvement
    return {"base_loss": 2.0, "tuned_loss": tuned, "improvement": improvement, "min_improvement": 0.0}


def status_of(instance: DagsterInstance, check: str, version: str) -> Status:
    key = AssetCheckKey(AssetKey("evaluation"), check)
    (record,) = instance.event_log_storage.get_asset_check_execution_history(
        key, limit=1, partition_filter=PartitionKeyFilter(key=version)
    )
    return record.status


def test_a_version_whose_gate_failed_stays_failed_when_the_next_one_passes(
    project: Project, instance: DagsterInstance
) -> None:
    evaluate(project, instance, "v7", EVALUATION, **losses(-0.5))
    evaluate(project, instance, "v8", EVALUATION, **losses(0.5))

    assert status_of(instance, "better_than_base", "v7") == Status.FAILED
    assert status_of(instance, "better_than_base", "v8") == Status.SUCCEEDED


def test_an_artifact_that_is_older_than_a_check_is_reused_and_the_check_is_decided(
    project: Project, instance: DagsterInstance
) -> None:
    """Dagster ends a step that reports no result for a declared check with a traceback of its own."""
    newer = replace(EVALUATION, checks=(*EVALUATION.checks, DECIDABLE, UNDECIDABLE))

    found = {
        each.check_name: each for each in evaluate(project, instance, "v1", newer, held_out_tokens=50, **losses(1))
    }

    assert found["known_tokens"].passed
    assert not found["style_is_right"].passed
    assert found["style_is_right"].severity.value == "WARN"
    assert "not evaluated: the artifact was finished before this check existed" in str(
        found["style_is_right"].description
    )
    assert not found["merged_equals_base_plus_adapter"].passed, "this artifact says nothing about it either"
    assert found["better_than_base"].passed
    assert not instance.get_runs(limit=1)[0].is_failure, "nothing was evaluated against it, so nothing stops"
