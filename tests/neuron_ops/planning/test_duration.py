"""Time and price: measured where something was measured, else a range whose assumption is named."""

import pytest

from neuron_ops.backends import layout
from neuron_ops.backends.instances import INSTANCES
from neuron_ops.models.shape import ModelShape
from neuron_ops.planning.assumptions import UTILIZATION
from neuron_ops.planning.duration import DurationForecast, flops_per_token, forecast_duration
from neuron_ops.planning.epochs import forecast_epochs
from neuron_ops.planning.graphs import GraphCacheForecast
from neuron_ops.planning.quantities import Range
from neuron_ops.recipe.file import load_recipe
from neuron_ops.steps.addresses import Lineage
from tests.neuron_ops.planning.conftest import MakeLineage, about, fetch_base, publish
from tests.neuron_ops.planning.llama import LLAMA_8B

HIT = GraphCacheForecast("compiled_graph_cache/1", is_hit=True)
MISS = GraphCacheForecast("compiled_graph_cache/1")
TRN1 = "llama3_8b_lora_trn1"


def planned(
    lineage: Lineage, graphs: GraphCacheForecast = HIT, shape: ModelShape | None = LLAMA_8B
) -> DurationForecast:
    world = layout(lineage.recipe)
    epochs = forecast_epochs(lineage.recipe, world, None)
    assert epochs is not None
    return forecast_duration(lineage, world, epochs, graphs, shape)


def finish_training(lineage: Lineage, tokens_per_second: float) -> None:
    """A finished training of the run's recipe, with what it needs; what is finished already stays as it is."""
    fetch_base(lineage)
    publish(lineage, "tokenized_dataset", {"report.json": b"{}"})
    publish(lineage, "lora_checkpoints", {"checkpoints.json": b"{}"}, metrics={"tokens_per_second": tokens_per_second})


def test_a_frozen_base_costs_two_forward_and_two_backward_operations_a_parameter() -> None:
    # 7,504,658,432 multiplied parameters; attention over 1,024 tokens in 32 layers of 4,096.
    assert flops_per_token(load_recipe(TRN1), LLAMA_8B) == 4 * 7_504_658_432 + 12 * 32 * 4_096 * 1_024


def test_recomputing_repeats_the_forward_pass() -> None:
    recipe = load_recipe(TRN1, {"graph.gradient_checkpointing": True})

    assert flops_per_token(recipe, LLAMA_8B) == 6 * 7_504_658_432 + 16 * 32 * 4_096 * 1_024


def test_what_aws_published_for_trn1_lies_at_the_upper_end_of_the_assumed_utilization() -> None:
    # Pretraining has gradients of every weight: 6 operations a parameter, 12 for attention over 8,192 tokens.
    per_token = 6 * LLAMA_8B.multiplied_parameters() + 12 * 32 * 4_096 * 8_192
    reached = 41.99 * 8_192 * per_token / (32 * 32 * INSTANCES["trn1.32xlarge"].core_flops)

    assert UTILIZATION.high == pytest.approx(reached, abs=0.01)


def test_trainiums_time_and_price_are_ranges_that_say_what_was_assumed(make_lineage: MakeLineage) -> None:
    plan = planned(make_lineage(TRN1), MISS)

    # 32 cores of 95.5 TFLOPS at 5 to 20 %, 14,745,600 tokens.
    slow = 32 * 95.5e12 * 0.05 / flops_per_token(load_recipe(TRN1), LLAMA_8B)
    assert plan.tokens_per_second == about(slow, 4 * slow)
    assert plan.training_seconds == about(14_745_600 / (4 * slow), 14_745_600 / slow)
    assert plan.compile_seconds == Range(1_800, 3_600)
    assert plan.training_seconds is not None
    assert plan.usd == about(
        (1_800 + plan.training_seconds.low) / 3_600 * 21.50,
        (3_600 + plan.training_seconds.high) / 3_600 * 21.50,
    )
    for source in (plan.rate_source, plan.compile_source):
        assert "Not run on Trainium" in source
    assert "check it" in plan.price_source


def test_compiled_graphs_cost_nothing(make_lineage: MakeLineage) -> None:
    assert planned(make_lineage(TRN1), HIT).compile_seconds == Range.exactly(0)


@pytest.mark.parametrize("name", ["trn1.32xlarge", "ml.trn1.32xlarge"])
def test_a_price_of_ones_own_replaces_the_published_one_for_each_node(make_lineage: MakeLineage, name: str) -> None:
    lineage = make_lineage(TRN1, hardware__usd_per_hour=10.0, hardware__instance_type=name)

    plan = planned(lineage)

    assert (plan.usd_per_hour, plan.price_source) == (10.0, "hardware.usd_per_hour")


def test_a_model_of_unknown_size_has_no_time(make_lineage: MakeLineage) -> None:
    plan = planned(make_lineage(TRN1), MISS, shape=None)

    assert plan.training_seconds is plan.usd is None
    assert "until base_model is materialized" in plan.rate_source


def test_no_rate_is_invented_for_a_cpu(make_lineage: MakeLineage) -> None:
    plan = planned(make_lineage(), MISS)

    assert plan.tokens_per_second is plan.training_seconds is plan.usd is None
    assert plan.rate_source.startswith("not estimated")
    assert plan.compile_seconds == Range.exactly(0)


def test_torch_compile_is_not_estimated(make_lineage: MakeLineage) -> None:
    assert planned(make_lineage(graph__torch_compile=True), MISS).compile_seconds is None


def test_finished_trainings_with_the_same_graph_tell_their_own_rate(make_lineage: MakeLineage) -> None:
    finish_training(make_lineage(training__seed=1), 1_000.0)
    finish_training(make_lineage(training__seed=2), 1_500.0)
    finish_training(make_lineage(training__seed=3, graph__micro_batch_size=8), 9_000.0)

    plan = planned(make_lineage(training__max_steps=60))

    # 60 steps of 4 x 256 tokens.
    assert plan.tokens_per_second == Range(1_000.0, 1_500.0)
    assert plan.training_seconds == Range(60 * 1_024 / 1_500, 60 * 1_024 / 1_000)
    assert plan.rate_source.startswith("measured by finished trainings")
