"""The plan as the last door before an accelerator: a no-go is seen in the UI, and nothing is launched."""

import pytest
from dagster import AssetKey, DagsterEventType

from tests.fine_tune_assets.conftest import Project
from tests.neuron_ops.planning.conftest import fetch_base, publish

ASSET = "compiled_graph_cache"


@pytest.mark.slow
def test_a_no_go_stops_before_anything_is_launched_and_is_not_tried_again(project: Project) -> None:
    project.deliver("v1")
    project.register("v1")
    lineage = project.lineage("v1")
    fetch_base(lineage)
    rows = publish(lineage, "tokenized_dataset", {"report.json": b"{}"})
    manifest = project.root / "store" / str(rows.address) / "manifest.json"
    manifest.write_text("{")

    result = project.materialize("v1", ASSET)

    assert not result.success
    types = [event.event_type for event in result.all_events if event.step_key == ASSET]
    assert DagsterEventType.STEP_UP_FOR_RETRY not in types
    (failure,) = [event for event in result.all_events if event.event_type == DagsterEventType.STEP_FAILURE]
    error = failure.step_failure_data.error
    assert error is not None
    assert "manifest.json cannot be read" in error.message
    assert project.lineage("v1").find(ASSET) is None
    with project.instance() as instance:
        (record,) = instance.fetch_observations(AssetKey(ASSET), limit=2).records
    assert record.asset_observation is not None
    assert str(record.asset_observation.metadata["plan"].value).startswith("**NO-GO")
