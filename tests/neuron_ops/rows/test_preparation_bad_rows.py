"""Raw rows that cannot be trained on: each stops the step with one error that names the place and the way out."""

from pathlib import Path

import pytest

from neuron_ops.errors import InvalidInput
from neuron_ops.rows.conversation import Conversation
from neuron_ops.rows.formats import find_format
from neuron_ops.rows.holdout import is_held_out
from neuron_ops.rows.reading import RawRow
from tests.neuron_ops.rows.conftest import Prepare, Row, WriteRows


@pytest.mark.parametrize("content", [None, b"", b"\n"])
def test_an_empty_dataset_stops_the_step(prepare: Prepare, raw: Path, content: bytes | None) -> None:
    if content is not None:
        (raw / "rows.jsonl").write_bytes(content)

    with pytest.raises(InvalidInput, match=r"no \*\.jsonl|has no rows"):
        prepare(raw)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"instruction": "a", "response": "b"}, r"rows\.jsonl:295: column 'context' is missing"),
        ({"instruction": "a", "context": "", "response": 5}, r"rows\.jsonl:295: column 'response' must be text"),
        ('{"instruction": "a", ', r"rows\.jsonl:295: not valid JSON"),
        ({"prompt": "a"}, r"rows\.jsonl:295: column 'instruction' is missing"),
    ],
)
def test_a_row_of_another_shape_stops_the_step_with_its_place(
    prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row], row: Row | str, complaint: str
) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        prepare(write_rows([*dolly_rows, row]))


def test_bytes_that_are_not_utf8_stop_the_step_with_their_place(
    prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row]
) -> None:
    raw = write_rows(dolly_rows)
    with (raw / "rows.jsonl").open("ab") as file:
        file.write(b'{"instruction": "\xff"}\n')

    with pytest.raises(InvalidInput, match=r"rows\.jsonl:295: not UTF-8: byte 0xff at byte 18 of the line"):
        prepare(raw)


def test_no_temporary_file_is_left_even_by_a_step_that_stopped(
    prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row], tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput):
        prepare(write_rows([*dolly_rows, {}]))

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["holdout_prompts.jsonl"]


def test_overlong_rows_stop_the_step_with_their_places_and_two_ways_out(
    prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row]
) -> None:
    overlong = [{**dolly_rows[number], "response": f"{number} " + "long " * 160} for number in range(7)]

    with pytest.raises(InvalidInput) as error:
        prepare(write_rows([*dolly_rows, *overlong]))

    message = str(error.value)
    assert f"7 of {len(dolly_rows) + 7} rows have more than 160 tokens: rows.jsonl:{len(dolly_rows) + 1} (" in message
    assert f"rows.jsonl:{len(dolly_rows) + 5} (" in message
    assert f"rows.jsonl:{len(dolly_rows) + 6} (" not in message
    assert "Raise graph.sequence_length (the longest row has " in message
    assert "set dataset.overlong to drop" in message


def test_too_many_rejected_rows_stop_the_step_with_the_reasons(
    prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row]
) -> None:
    raw = write_rows([*dolly_rows, *dolly_rows, {**dolly_rows[0], "response": ""}])

    with pytest.raises(InvalidInput, match=r"295 of 589 rows were rejected \(duplicate: 294, empty response: 1\)"):
        prepare(raw)


def test_rows_that_all_fall_into_training_stop_the_step(
    prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row]
) -> None:
    with pytest.raises(InvalidInput, match=r"No row is held out: all 294 fall .* or change that fraction"):
        prepare(write_rows(dolly_rows), holdout_fraction=1e-9)


def test_rows_that_are_all_held_out_stop_the_step(
    prepare: Prepare, write_rows: WriteRows, dolly_rows: list[Row]
) -> None:
    to_conversation = find_format("dolly").to_conversation
    found = [(row, to_conversation(RawRow("", row))) for row in dolly_rows]
    held_out = [row for row, made in found if isinstance(made, Conversation) and is_held_out(made, 0.1)]

    with pytest.raises(InvalidInput, match=r"No row is left to train on: all \d+ fall"):
        prepare(write_rows(held_out))
