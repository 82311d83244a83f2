"""Plans over artifacts that failed a check: what would be refused later is refused in the plan."""

from neuron_ops.planning.forecast import Forecast, make_forecast
from neuron_ops.steps.table import STEPS
from neuron_ops.store.manifest import CheckRecord
from tests.neuron_ops.planning.conftest import MakeLineage, fetch_base, prepare_report, publish


def refusals(forecast: Forecast) -> list[str]:
    return [problem.text for problem in forecast.refusals]


def test_nothing_is_built_on_an_artifact_whose_check_failed(make_lineage: MakeLineage) -> None:
    lineage = make_lineage()
    fetch_base(lineage)
    failed = CheckRecord(name="answers_are_in_the_loss", passed=False, description="0.0% of the tokens are learned")
    publish(lineage, "tokenized_dataset", {"report.json": prepare_report(lineage)}, checks=(failed,))

    forecast = make_forecast(make_lineage())

    assert len(refusals(forecast)) == 1
    assert "failed its check 'answers_are_in_the_loss'" in refusals(forecast)[0]


def test_an_evaluation_that_failed_its_gate_is_a_no_go(make_lineage: MakeLineage) -> None:
    """It was once called finished and a go, while materializing and the report refused it."""
    lineage = make_lineage()
    fetch_base(lineage)
    failed = CheckRecord(name="better_than_base", passed=False, description="0.1 nats per token are gained")
    for step in STEPS[1:]:
        checks = (failed,) if step.artifact == "evaluation" else ()
        publish(lineage, step.artifact, {"report.json": prepare_report(lineage)}, checks=checks)

    forecast = make_forecast(lineage, read_rows=False)

    assert next(state for state in forecast.artifacts if state.artifact == "evaluation").finished
    assert [text for text in refusals(forecast) if "failed its check 'better_than_base'" in text]
