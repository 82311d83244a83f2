"""Checks: declared once with their step, and decided for artifacts that were made before them too."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.schema import package_path
from neuron_ops.steps import table
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.checks import Check, Metrics, NotEvaluated, Verdict, decide, look_up
from neuron_ops.steps.gates import GATES
from neuron_ops.steps.table import BY_ARTIFACT, Step
from neuron_ops.store.artifacts import Artifact
from neuron_ops.store.manifest import CheckRecord
from tests.neuron_ops.conftest import publish_files
from tests.neuron_ops.steps.finishing import open_lineage

KNOWN = Check("known_before", "It was declared when the artifact was made.")
DATASET = "tokenized_dataset"


def enough_rows(metrics: Metrics) -> Verdict:
    rows = int(metrics["training_rows"] or 0)
    return Verdict(rows >= 100, f"{rows} rows, 100 are wanted", {"rows": rows})


ENOUGH_ROWS = Check("enough_rows", "There are a hundred rows to train on.", from_metrics=enough_rows)
"""A toy: all that a new check takes is this and its place in the table."""


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Step]:
    """Put checks into the table, beside those of tokenized_dataset."""

    def declare(*checks: Check) -> Step:
        step = replace(BY_ARTIFACT[DATASET], checks=(*BY_ARTIFACT[DATASET].checks, *checks))
        monkeypatch.setitem(table.BY_ARTIFACT, DATASET, step)
        return step

    return declare


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    raw = str(package_path("package:demo/raw"))
    return open_lineage("tiny_llama_cpu", str(tmp_path / "store"), raw, "demo-v1")


def finish(lineage: Lineage, **fields: Any) -> Artifact:
    """The dataset as an earlier version of this project left it."""
    base = lineage.provenance("base_model")
    publish_files(lineage.store, base.address, {"config.json": b"{}"})
    wanted = lineage.provenance(DATASET)
    old = {"checks": [{"name": "answers_are_in_the_loss", "passed": True, "description": "40 %"}], **fields}
    return publish_files(lineage.store, wanted.address, {"rows": b""}, reads=wanted.reads, inputs=wanted.inputs, **old)


def test_a_check_that_came_later_moves_no_address(declare: Callable[..., Step], lineage: Lineage) -> None:
    made = finish(lineage, metrics={"training_rows": 120})

    declare(ENOUGH_ROWS)

    assert lineage.require(DATASET).address == made.address


def test_a_check_that_came_later_is_decided_from_what_the_artifact_says(
    declare: Callable[..., Step], lineage: Lineage
) -> None:
    made = finish(lineage, metrics={"training_rows": 7})
    step = declare(ENOUGH_ROWS)

    old, new = look_up(step.checks, made.manifest)

    assert isinstance(old, CheckRecord)
    assert (old.passed, old.description) == (True, "40 %")
    assert new == CheckRecord(
        name="enough_rows", passed=False, description="7 rows, 100 are wanted", values={"rows": 7}
    )
    with pytest.raises(InvalidInput, match=r"failed its check 'enough_rows' \(7 rows, 100 are wanted\)"):
        lineage.require(DATASET)


@pytest.mark.parametrize(
    ("check", "why"),
    [(ENOUGH_ROWS, "it has no metric 'training_rows'"), (KNOWN, "only the step itself can decide known_before")],
    ids=["the metric is new too", "it takes the step"],
)
def test_a_check_that_cannot_be_decided_any_more_says_so_and_stops_nothing(
    declare: Callable[..., Step], lineage: Lineage, check: Check, why: str
) -> None:
    made = finish(lineage, metrics={})
    step = declare(check)

    _, found = look_up(step.checks, made.manifest)

    assert isinstance(found, NotEvaluated)
    assert found.reason.startswith(f"not evaluated: the artifact was finished before this check existed, and {why}")
    assert lineage.require(DATASET).address == made.address


def test_a_check_that_is_no_longer_declared_is_not_shown(lineage: Lineage) -> None:
    gone = {"name": "of_old", "passed": False, "description": "it was removed since"}
    made = finish(lineage, checks=[gone], metrics={"supervised_share": 0.5})

    [found] = look_up(BY_ARTIFACT[DATASET].checks, made.manifest)
    assert isinstance(found, CheckRecord)
    assert found.name == "answers_are_in_the_loss"
    assert lineage.require(DATASET).address == made.address


def test_a_failed_check_that_does_not_block_stops_nothing(declare: Callable[..., Step], lineage: Lineage) -> None:
    finish(lineage, metrics={"training_rows": 7})
    declare(replace(ENOUGH_ROWS, blocking=False))

    assert lineage.require(DATASET)


def test_a_step_decides_each_of_its_checks() -> None:
    verdict = Verdict(True, "it was")

    assert [
        record.name for record in decide((KNOWN, ENOUGH_ROWS), {"training_rows": 100}, {"known_before": verdict})
    ] == [
        "known_before",
        "enough_rows",
    ]
    with pytest.raises(ValueError, match="only the step itself can decide known_before"):
        decide((KNOWN,), {}, {})
    with pytest.raises(ValueError, match="does not declare: \\['another'\\]"):
        decide((KNOWN,), {}, {"known_before": verdict, "another": verdict})


@pytest.mark.parametrize(("improvement", "wanted", "passed"), [(0.2, 0.1, True), (0.1, 0.1, False), (-0.1, 0.0, False)])
def test_a_gate_is_a_function_of_what_evaluate_measured(improvement: float, wanted: float, passed: bool) -> None:
    measured = {
        "base_loss": 2.0,
        "tuned_loss": 2.0 - improvement,
        "improvement": improvement,
        "min_improvement": wanted,
    }

    (record,) = decide(GATES, measured, {})

    assert (record.name, record.passed, record.blocking) == ("better_than_base", passed, True)
