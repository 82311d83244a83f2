"""How long the verdict takes on CPUs, told before anything is started."""

import dataclasses

import pytest

from neuron_ops.planning.assumptions import CPU_FLOPS
from neuron_ops.planning.data import DataForecast, forecast_data
from neuron_ops.planning.evaluation_time import evaluation_seconds, evaluation_warnings
from neuron_ops.planning.quantities import Range
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import Recipe
from tests.neuron_ops.planning.conftest import MakeLineage, about
from tests.neuron_ops.planning.llama import LLAMA_8B

TRN1 = "llama3_8b_lora_trn1"


@pytest.fixture
def data(make_lineage: MakeLineage) -> DataForecast:
    """300 rows held out, as of dolly with the shipped recipe."""
    plan = forecast_data(make_lineage(), read_rows=True, tokenize=False)
    assert plan is not None
    return dataclasses.replace(plan, held_out_sequences=Range.exactly(300))


def recipe(threads: int) -> Recipe:
    return load_recipe(TRN1, {"evaluation.threads": threads})


def test_both_models_see_every_held_out_position_once(data: DataForecast) -> None:
    seconds = evaluation_seconds(recipe(8), data, LLAMA_8B)

    # 2 operations a multiplied parameter, 4 for attention over 1,024 tokens in 32 layers of 4,096.
    work = 2 * 300 * 1_024 * (2 * 7_504_658_432 + 4 * 32 * 4_096 * 1_024)
    assert seconds == about(work / (8 * CPU_FLOPS.high), work / (8 * CPU_FLOPS.low))


def test_hours_are_a_warning_that_names_what_shortens_them(data: DataForecast) -> None:
    warnings = list(evaluation_warnings(recipe(1), evaluation_seconds(recipe(1), data, LLAMA_8B)))

    assert len(warnings) == 1
    assert "evaluation.threads 1" in warnings[0]
    assert "dataset.holdout_fraction (0.02)" in warnings[0]


def test_minutes_are_not(data: DataForecast) -> None:
    few = dataclasses.replace(data, held_out_sequences=Range.exactly(1))

    assert list(evaluation_warnings(recipe(8), evaluation_seconds(recipe(8), few, LLAMA_8B))) == []


def test_what_is_not_known_is_not_estimated(data: DataForecast) -> None:
    assert evaluation_seconds(recipe(8), None, LLAMA_8B) is None
    assert evaluation_seconds(recipe(8), data, None) is None
    gpu = load_recipe("tiny_llama_cpu", {"hardware.backend": "cuda"})
    assert evaluation_seconds(gpu, data, LLAMA_8B) is None
