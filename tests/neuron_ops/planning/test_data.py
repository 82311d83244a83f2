"""What is said about data before it is prepared, against what preparing makes of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from neuron_ops.errors import InvalidInput
from neuron_ops.planning import raw_rows
from neuron_ops.planning.data import DataForecast, forecast_data, padding_warnings
from neuron_ops.recipe.schema import package_path
from neuron_ops.rows.preparation import prepare_dataset
from neuron_ops.steps.addresses import Lineage
from tests.neuron_ops.planning.conftest import MakeLineage, demo_rows, fetch_base, publish


def known(lineage: Lineage, *, tokenize: bool = True) -> DataForecast:
    plan = forecast_data(lineage, read_rows=True, tokenize=tokenize)
    assert plan is not None
    return plan


def prepared(lineage: Lineage, tmp_path: Path) -> DataForecast:
    """The plan once `tokenized_dataset` is really finished."""
    fetch_base(lineage)
    out, model = tmp_path / "out", package_path(str(lineage.recipe.base_model.path))
    assert model is not None
    with lineage.raw.local(lineage.version) as raw:
        prepare_dataset(raw, model, lineage.recipe.dataset, lineage.recipe.graph.sequence_length, out)
    publish(lineage, "tokenized_dataset", {"report.json": (out / "report.json").read_bytes()})
    shutil.rmtree(out)
    return known(lineage)


@pytest.mark.parametrize("packing", [True, False])
def test_a_small_dataset_is_foretold_exactly(make_lineage: MakeLineage, tmp_path: Path, packing: bool) -> None:
    lineage = make_lineage(dataset__packing=packing, graph__sequence_length=128)

    foretold, truth = known(lineage), prepared(lineage, tmp_path)

    assert foretold.source == "exact: all 120 rows that fit were tokenized"
    assert truth.source.startswith("exact: tokenized_dataset/v1/")
    assert replace(foretold, source="") == replace(truth, source="")


def test_a_sample_gives_a_range_around_the_truth(
    make_lineage: MakeLineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lineage = make_lineage(rows=demo_rows(600), graph__sequence_length=128)
    monkeypatch.setattr(raw_rows, "SAMPLE_ROWS", 100)

    foretold, truth = known(lineage), prepared(lineage, tmp_path)

    assert foretold.source == "rows counted, tokens estimated from a sample of 100 rows"
    assert foretold.rows == truth.rows == 600
    assert foretold.training_rows == truth.training_rows
    assert foretold.tokens.low < truth.tokens.low < foretold.tokens.high
    assert foretold.sequences.low <= truth.sequences.low <= foretold.sequences.high


def test_very_many_rows_are_counted_but_not_all_looked_at(
    make_lineage: MakeLineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lineage = make_lineage(rows=[*demo_rows(200), ""])
    monkeypatch.setattr(raw_rows, "MAX_ROWS", 100)

    foretold = known(lineage)

    assert foretold.rows == 200, "an empty line is no row"
    assert foretold.training_rows.low + foretold.held_out_rows.low == pytest.approx(200, abs=2)


def test_without_a_tokenizer_tokens_are_guessed_from_bytes_and_it_says_so(
    make_lineage: MakeLineage, tmp_path: Path
) -> None:
    lineage = make_lineage()

    guessed, truth = known(lineage, tokenize=False), prepared(lineage, tmp_path)

    assert guessed.source.startswith("rows counted; 3.5 to 5 bytes a token")
    assert guessed.training_rows == truth.training_rows
    assert guessed.tokens.low < truth.tokens.low < guessed.tokens.high
    assert guessed.supervised_share.low < truth.supervised_share.low < guessed.supervised_share.high


def test_a_repository_that_was_not_fetched_brings_no_tokenizer(make_lineage: MakeLineage) -> None:
    foretold = known(make_lineage("llama3_8b_lora_trn1"))

    assert "no usable tokenizer is available" in foretold.source
    assert foretold.longest_row is None


def test_nothing_is_said_where_the_rows_may_not_be_read(make_lineage: MakeLineage) -> None:
    assert forecast_data(make_lineage(), read_rows=False, tokenize=True) is None


def test_a_single_held_out_row_is_not_estimated_away(
    make_lineage: MakeLineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = {"graph__sequence_length": 64, "dataset__overlong": "drop", "dataset__max_rejected_fraction": 0.9}
    lineage = make_lineage(dataset__holdout_fraction=0.01, **dropped)
    monkeypatch.setattr(raw_rows, "SAMPLE_ROWS", 50)

    foretold = known(lineage)

    assert 0 < foretold.training_rows.low < 119, "overlong rows are dropped"
    assert foretold.held_out_rows.low >= 1


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"graph__sequence_length": 16}, r"120 of 120 rows have more than 16 tokens: rows.jsonl:1 .*overlong to drop"),
        ({"dataset__pad_token": "<|nope|>"}, "not in the vocabulary"),
        ({"dataset__holdout_fraction": 0.000001}, "No row is held out"),
        ({"graph__sequence_length": 16, "dataset__overlong": "drop"}, "120 of 120 rows were rejected"),
    ],
)
def test_what_preparing_would_refuse_is_refused(
    make_lineage: MakeLineage, overrides: dict[str, object], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        known(make_lineage(**overrides))


def test_rows_without_the_columns_of_the_format_are_refused_by_line(make_lineage: MakeLineage) -> None:
    with pytest.raises(InvalidInput, match=r"rows\.jsonl:2: column 'context' is missing"):
        known(make_lineage(rows=[demo_rows(1)[0], json.dumps({"instruction": "hello"})]))


def test_much_padding_is_worth_a_word(make_lineage: MakeLineage) -> None:
    loose, packed = known(make_lineage(dataset__packing=False)), known(make_lineage())

    assert list(padding_warnings(packed, 256)) == []
    (warning,) = padding_warnings(loose, 256)
    assert loose.padding_share.low > 0.5
    assert "Lower graph.sequence_length from 256 (the longest row has " in warning


def test_an_exact_number_is_no_range(make_lineage: MakeLineage) -> None:
    sequences = known(make_lineage()).sequences

    assert sequences.low == sequences.high
