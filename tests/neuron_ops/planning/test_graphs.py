"""Whether graphs are compiled already, and what changed if not."""

from neuron_ops.planning.graphs import forecast_graph_cache
from tests.neuron_ops.planning.conftest import MakeLineage, fetch_base, publish

ARTIFACT = "compiled_graph_cache"


def test_before_the_base_model_is_fetched_there_is_no_address(make_lineage: MakeLineage) -> None:
    assert forecast_graph_cache(make_lineage()).address is None


def test_with_nothing_compiled_before_a_miss_has_nothing_to_compare_with(make_lineage: MakeLineage) -> None:
    lineage = make_lineage()
    fetch_base(lineage)

    plan = forecast_graph_cache(lineage)

    assert (plan.is_hit, plan.nearest, plan.differences) == (False, None, ())
    assert plan.address == str(lineage.provenance(ARTIFACT).address)


def test_a_miss_names_the_fields_that_differ_from_the_most_similar_one(make_lineage: MakeLineage) -> None:
    alike, other = make_lineage(), make_lineage(graph__sequence_length=128, graph__micro_batch_size=1)
    fetch_base(alike)
    publish(alike, ARTIFACT, {"report.md": b"alike"})
    publish(other, ARTIFACT, {"report.md": b"other"})

    plan = forecast_graph_cache(make_lineage(graph__sequence_length=512))

    assert plan.nearest == str(alike.provenance(ARTIFACT).address)
    assert plan.differences == ("graph.sequence_length: 256 -> 512",)


def test_a_hit_lists_its_modules_and_what_they_took(make_lineage: MakeLineage) -> None:
    lineage = make_lineage()
    fetch_base(lineage)
    files = {
        "cache/neuronxcc-2.21/MODULE_12+ab/model.neff": b"12345",
        "cache/neuronxcc-2.21/MODULE_12+ab/model.done": b"",
        "report.md": b"one graph",
    }
    publish(lineage, ARTIFACT, files, metrics={"graphs": 1, "compile_seconds": 61.5, "peak_rss_bytes": 9})

    plan = forecast_graph_cache(make_lineage(training__learning_rate=0.1))

    assert plan.is_hit
    assert plan.modules == {"MODULE_12+ab": 5}
    assert plan.facts == {"graphs": 1, "compile_seconds": 61.5}
