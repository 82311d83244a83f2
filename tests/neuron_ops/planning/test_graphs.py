"""Whether graphs are compiled already, and what changed if not."""

from neuron_ops.planning.graphs import plan_graphs
from tests.neuron_ops.planning.conftest import MakeRun, fetch_base, publish

ARTIFACT = "compiled_graph_cache"


def test_before_the_base_model_is_fetched_there_is_no_address(make_run: MakeRun) -> None:
    assert plan_graphs(make_run()).address is None


def test_with_nothing_compiled_before_a_miss_has_nothing_to_compare_with(make_run: MakeRun) -> None:
    run = make_run()
    fetch_base(run)

    plan = plan_graphs(run)

    assert (plan.is_hit, plan.nearest, plan.differences) == (False, None, ())
    assert plan.address == str(run.plan(ARTIFACT).address)


def test_a_miss_names_the_fields_that_differ_from_the_most_similar_one(make_run: MakeRun) -> None:
    alike, other = make_run(), make_run(graph__sequence_length=128, graph__micro_batch_size=1)
    fetch_base(alike)
    publish(alike, ARTIFACT, {"report.md": b"alike"})
    publish(other, ARTIFACT, {"report.md": b"other"})

    plan = plan_graphs(make_run(graph__sequence_length=512))

    assert plan.nearest == str(alike.plan(ARTIFACT).address)
    assert plan.differences == ("graph.sequence_length: 256 -> 512",)


def test_a_hit_lists_its_modules_and_what_they_took(make_run: MakeRun) -> None:
    run = make_run()
    fetch_base(run)
    files = {
        "cache/neuronxcc-2.21/MODULE_12+ab/model.neff": b"12345",
        "cache/neuronxcc-2.21/MODULE_12+ab/model.done": b"",
        "report.md": b"one graph",
    }
    publish(run, ARTIFACT, files, metrics={"graphs": 1, "compile_seconds": 61.5, "peak_rss_bytes": 9})

    plan = plan_graphs(make_run(training__learning_rate=0.1))

    assert plan.is_hit
    assert plan.modules == {"MODULE_12+ab": 5}
    assert plan.facts == {"graphs": 1, "compile_seconds": 61.5}
