"""From raw rows to the folder that training reads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from neuron_ops.recipe.schema import DatasetSection
from neuron_ops.rows.chat import open_chat
from neuron_ops.rows.preparation import prepare_dataset
from neuron_ops.rows.report import PrepareReport, fenced, length_histogram
from neuron_ops.rows.token_rows import IGNORED
from tests.neuron_ops.rows.conftest import Prepare, Row, WriteRows

LENGTH = 160  # as the fixture `prepare` has it
FILES = {
    "train/data-00000-of-00001.arrow",
    "train/dataset_info.json",
    "train/state.json",
    "holdout/data-00000-of-00001.arrow",
    "holdout/dataset_info.json",
    "holdout/state.json",
    "holdout_prompts.jsonl",
    "chat_template.jinja",
    "special_tokens.json",
    "report.json",
    "report.md",
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def prompts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "holdout_prompts.jsonl").read_text(encoding="utf-8").splitlines()]


def columns(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import datasets

    rows = datasets.load_from_disk(folder).with_format("numpy")[:]
    return rows["input_ids"], rows["labels"], rows["position_ids"]


def documents(folder: Path, pad: int) -> list[tuple[int, ...]]:
    """The rows that lie in the sequences of a split, padding left out."""
    found = []
    for ids, positions in zip(*columns(folder)[::2], strict=True):
        for document in np.split(ids, np.flatnonzero(positions == 0)[1:]):
            if document[0] != pad:
                found.append(tuple(document.tolist()))
    return found


def test_the_folder_opens_with_datasets_and_every_sequence_has_the_same_length(
    prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row]
) -> None:
    import datasets

    report, out = prepare(write_rows(dolly_rows))

    train = datasets.load_from_disk(out / "train")

    assert set(contents(out)) == FILES
    assert train.column_names == ["input_ids", "labels", "position_ids"]
    assert all(feature == datasets.List(datasets.Value("int32"), length=LENGTH) for feature in train.features.values())
    assert len(train) == report.train.sequences
    assert len(datasets.load_from_disk(out / "holdout")) == report.holdout.sequences


def test_the_sequences_hold_every_kept_row_once_and_whole(
    prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row], tokenizer_folder: Path
) -> None:
    from neuron_ops.rows.conversation import Conversation, Message

    report, out = prepare(write_rows(dolly_rows))
    chat = open_chat(tokenizer_folder, DatasetSection())
    turns = [
        (row["instruction"] + ("\n\n" + row["context"]) * bool(row["context"]), row["response"]) for row in dolly_rows
    ]
    expected = chat.encode([Conversation("", (Message("user", q), Message("assistant", a))) for q, a in turns])

    placed = [documents(out / split, chat.special.pad.id) for split in ("train", "holdout")]

    assert sorted(placed[0] + placed[1]) == sorted(tuple(row.ids.tolist()) for row in expected)
    assert (len(placed[0]), len(placed[1])) == (report.train.rows, report.holdout.rows)


def test_the_report_counts_what_is_on_disk(prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row]) -> None:
    report, out = prepare(write_rows(dolly_rows))
    special = json.loads((out / "special_tokens.json").read_text())

    for name, split in (("train", report.train), ("holdout", report.holdout)):
        ids, labels, _ = columns(out / name)
        assert split.tokens == int((ids != special["pad"]["id"]).sum())
        assert split.supervised_tokens == int((labels != IGNORED).sum())
        assert int((labels == special["end_of_turn"]["id"]).sum()) == split.rows, "each answer's end is learned"
        assert not (labels == special["pad"]["id"]).any()
        assert bool(np.isin(labels, [IGNORED, *np.unique(ids)]).all())
    assert report.rows_read == report.rows_kept == len(dolly_rows)
    assert report.density == pytest.approx((report.train.tokens + report.holdout.tokens) / (LENGTH * total(report)))
    assert 0.2 < report.supervised_share < 0.8
    assert json.loads((out / "report.json").read_text())["density"] == report.density


def total(report: PrepareReport) -> int:
    return report.train.sequences + report.holdout.sequences


def test_packing_fills_the_sequences_and_without_it_each_row_has_its_own(
    prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row]
) -> None:
    raw = write_rows(dolly_rows)

    packed, _ = prepare(raw, "packed")
    unpacked, out = prepare(raw, "unpacked", packing=False)

    assert packed.density > 0.9
    assert unpacked.density < 0.6
    assert unpacked.train.sequences == unpacked.train.rows == packed.train.rows
    assert unpacked.train.supervised_tokens == packed.train.supervised_tokens
    assert (columns(out / "train")[2] == 0).sum() == 2 * unpacked.train.rows, "positions restart only for the padding"


def test_the_same_rows_give_the_same_bytes(prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row]) -> None:
    raw = write_rows(dolly_rows)

    _, first = prepare(raw, "first")
    _, second = prepare(raw, "second")

    assert contents(first) == contents(second)


def test_parquet_and_json_lines_give_the_same_bytes(
    prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row], tmp_path: Path
) -> None:
    (tmp_path / "parquet").mkdir()
    parquet.write_table(pa.Table.from_pylist(dolly_rows), tmp_path / "parquet" / "rows.parquet")

    _, from_json = prepare(write_rows(dolly_rows), "one")
    _, from_parquet = prepare(tmp_path / "parquet", "other")

    assert contents(from_json) == contents(from_parquet)


def test_adding_or_reordering_rows_moves_no_row_between_the_splits(
    prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row]
) -> None:
    _, before = prepare(write_rows(dolly_rows[:200]), "before")
    _, after = prepare(write_rows(dolly_rows[::-1]), "after")
    texts = {row["prompt"] for row in prompts(after)}

    assert {row["prompt"] for row in prompts(before)} < texts
    assert 0.03 < len(texts) / len(dolly_rows) < 0.2


def test_two_answers_to_one_question_are_on_the_same_side(
    prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row]
) -> None:
    again = [{**row, "response": "Somebody else."} for row in dolly_rows]

    report, out = prepare(write_rows([*dolly_rows, *again]))
    held_out = [row["prompt"] for row in prompts(out)]

    assert report.rows_kept == 2 * len(dolly_rows)
    assert all(held_out.count(prompt) == 2 for prompt in held_out)


def test_held_out_prompts_ask_for_an_answer_and_bring_the_reference(
    prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row]
) -> None:
    report, out = prepare(write_rows(dolly_rows), system_prompt="Be brief.")

    rows = prompts(out)

    assert len(rows) == report.holdout.rows
    assert all("Be brief." in row["prompt"] for row in rows)
    assert all([message["role"] for message in row["messages"]] == ["system", "user"] for row in rows)
    assert all(row["messages"][1]["content"].strip() in row["prompt"] for row in rows)
    assert all(row["prompt"].endswith("<|start_header_id|>assistant<|end_header_id|>\n\n") for row in rows)
    assert {row["reference"] for row in rows} <= {row["response"] for row in dolly_rows}


def test_a_held_out_text_with_a_line_separator_stays_one_line(
    prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row]
) -> None:
    rows = [{**row, "response": row["response"] + "\u2028next\x85last"} for row in dolly_rows]

    report, out = prepare(write_rows(rows))

    assert len(prompts(out)) == report.holdout.rows
    assert prompts(out)[0]["reference"].endswith("\u2028next\x85last")


def test_rejected_rows_are_counted_by_reason(prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row]) -> None:
    bad = [
        dolly_rows[0],
        dolly_rows[1],
        {**dolly_rows[0], "response": " "},
        {**dolly_rows[0], "instruction": ""},
        {**dolly_rows[0], "response": "Yes.<|eot_id|><|start_header_id|>user"},
        {**dolly_rows[0], "response": "long " * LENGTH},
    ]

    report, out = prepare(write_rows([*dolly_rows, *bad]), overlong="drop")

    assert report.rejected == {
        "duplicate": 2,
        "empty instruction": 1,
        "empty response": 1,
        "more tokens than a sequence": 1,
        "special token in the text": 1,
    }
    assert report.rows_read == len(dolly_rows) + 6
    assert report.rows_kept == len(dolly_rows)
    assert report.longest_row > LENGTH
    assert "| rejected: duplicate | 2 |" in (out / "report.md").read_text()


def test_a_row_that_fills_a_sequence_exactly_is_not_overlong(
    prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row]
) -> None:
    report, _ = prepare(write_rows(dolly_rows))

    exact, _ = prepare(write_rows(dolly_rows), "exact", length=report.longest_row)

    assert exact.rows_kept == report.rows_kept


def test_samples_show_the_learned_part_and_cannot_break_the_page(
    prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row]
) -> None:
    fence = {**dolly_rows[0], "response": "````\n# not a heading\n```"}

    _, out = prepare(write_rows([fence, *dolly_rows[1:]]))
    report = (out / "report.md").read_text(encoding="utf-8")

    assert "`````text\n<|begin_of_text|>" in report
    assert "⟦````\n# not a heading\n```<|eot_id|>⟧\n`````\n" in report
    assert report.count("⟦") == 3 + 1


def test_a_fence_is_longer_than_every_run_of_backticks_inside() -> None:
    assert fenced("a ```` b") == "`````text\na ```` b\n`````"
    assert fenced("plain") == "```text\nplain\n```"


def test_the_histogram_counts_every_row_once() -> None:
    lengths = [1, 1, 9, 10, 11, 95, 100]

    buckets = length_histogram(lengths)

    assert sum(bucket.rows for bucket in buckets) == len(lengths)
    assert [(bucket.at_least, bucket.at_most) for bucket in buckets][::9] == [(1, 10), (91, 100)]
    assert (buckets[0].rows, buckets[1].rows, buckets[-1].rows) == (4, 1, 2)
    assert length_histogram([7]) == length_histogram([7])


def test_progress_is_told(
    prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row], tokenizer_folder: Path, tmp_path: Path
) -> None:
    told: list[str] = []

    prepare_dataset(write_rows(dolly_rows), tokenizer_folder, DatasetSection(), LENGTH, tmp_path / "told", told.append)

    assert told[-1].startswith("kept 294 of 294 rows in ")
