"""Reading raw rows: what is read, and how each unreadable thing is named."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from neuron_ops.errors import InvalidInput
from neuron_ops.rows.reading import RawRow, count_rows, data_files, read_rows
from tests.neuron_ops.rows.conftest import WriteRows


def fields(folder: Path) -> list[object]:
    return [row.fields for row in read_rows(folder)]


def test_rows_come_in_order_of_file_name_with_the_place_they_stand(write_rows: WriteRows) -> None:
    write_rows([{"n": 3}], name="b.jsonl")
    folder = write_rows([{"n": 1}, {"n": 2}], name="a.jsonl")

    rows = list(read_rows(folder))

    assert [(row.where, row.fields["n"]) for row in rows] == [("a.jsonl:1", 1), ("a.jsonl:2", 2), ("b.jsonl:1", 3)]


def test_markers_manifests_and_hidden_files_are_not_rows(write_rows: WriteRows) -> None:
    folder = write_rows([{"n": 1}])
    for name in ("_SUCCESS", "manifest.json", "README.md", ".rows.jsonl", "_rows.jsonl"):
        (folder / name).write_text("not a row")

    assert [path.name for path in data_files(folder)] == ["rows.jsonl"]
    assert fields(folder) == [{"n": 1}]


def test_parquet_rows_equal_json_rows(raw: Path) -> None:
    rows = [{"instruction": f"día {number}", "context": None} for number in range(2500)]
    parquet.write_table(pa.Table.from_pylist(rows), raw / "rows.parquet")

    read = list(read_rows(raw))

    assert [row.fields for row in read] == rows
    assert read[2049].where == "rows.parquet row 2050"


def test_counting_finds_as_many_rows_as_reading(raw: Path) -> None:
    (raw / "a.jsonl").write_text('{"n": 1}\n\n  \n{"n": 2}')
    parquet.write_table(pa.Table.from_pylist([{"n": 3}] * 5), raw / "b.parquet")

    assert count_rows(raw) == len(list(read_rows(raw))) == 7


def test_a_line_separator_inside_a_text_does_not_end_the_row(write_rows: WriteRows) -> None:
    assert fields(write_rows([{"text": "one\u2028two\x85three"}])) == [{"text": "one\u2028two\x85three"}]


def test_a_byte_order_mark_and_blank_lines_are_no_rows_and_keep_the_line_numbers(raw: Path) -> None:
    (raw / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"n": 1}\r\n\r\n{"n": 2}')

    assert [row.where for row in read_rows(raw)] == ["rows.jsonl:1", "rows.jsonl:3"]


def test_a_byte_that_is_not_utf8_is_named_with_file_line_and_offset(raw: Path) -> None:
    (raw / "rows.jsonl").write_bytes(b'{"n": 1}\n{"n": "caf\xe9"}\n')

    with pytest.raises(InvalidInput, match=r"rows\.jsonl:2: not UTF-8: byte 0xe9 at byte 11 of the line, offset 19 of"):
        fields(raw)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"n": ', "rows.jsonl:2: not valid JSON"),
        ('{"n": 1} {"n": 2}', "rows.jsonl:2: not valid JSON"),
        ("[" * 100_000, "rows.jsonl:2: not valid JSON"),
        ('{"n": ' + "1" * 5000 + "}", "rows.jsonl:2: not valid JSON"),
        ('["n", 1]', "rows.jsonl:2: must be a JSON object, but is a list"),
        ('"n"', "rows.jsonl:2: must be a JSON object, but is text"),
        ("null", "rows.jsonl:2: must be a JSON object, but is null"),
        ("true", "rows.jsonl:2: must be a JSON object, but is a boolean"),
    ],
)
def test_a_line_that_is_not_a_json_object_is_named(write_rows: WriteRows, line: str, complaint: str) -> None:
    folder = write_rows([{"n": 1}, line])

    with pytest.raises(InvalidInput) as error:
        fields(folder)

    assert complaint in str(error.value)
    assert len(str(error.value)) < 400


def test_a_truncated_parquet_file_is_named(raw: Path) -> None:
    parquet.write_table(pa.Table.from_pylist([{"n": 1}] * 100), raw / "rows.parquet")
    whole = (raw / "rows.parquet").read_bytes()
    (raw / "rows.parquet").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(InvalidInput, match=r"rows\.parquet: not a readable Parquet file"):
        count_rows(raw)
    with pytest.raises(InvalidInput, match=r"rows\.parquet: not a readable Parquet file"):
        fields(raw)


def test_parquet_text_that_is_not_utf8_is_named(raw: Path) -> None:
    column = pa.array([b"fine", b"caf\xe9"], type=pa.binary()).cast(pa.string(), safe=False)
    parquet.write_table(pa.table({"response": column}), raw / "rows.parquet")

    with pytest.raises(InvalidInput, match=r"rows\.parquet: not UTF-8 in rows 1 to .*0xe9"):
        fields(raw)


def test_a_folder_without_data_files_says_what_is_there(raw: Path) -> None:
    (raw / "rows.csv").write_text("n\n1\n")

    with pytest.raises(InvalidInput, match=r"no \*\.jsonl and no \*\.parquet file \(found: rows\.csv\)"):
        fields(raw)


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not a folder"):
        fields(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_files_without_a_single_row_are_an_error(raw: Path, content: str) -> None:
    (raw / "rows.jsonl").write_text(content)

    with pytest.raises(InvalidInput, match=r"has no rows; these files have none: rows\.jsonl"):
        fields(raw)


def test_a_missing_column_is_named_with_the_columns_that_are_there() -> None:
    row = RawRow("rows.jsonl:7", {"prompt": "a", "answer": "b"})

    with pytest.raises(InvalidInput, match=r"rows\.jsonl:7: column 'response' is missing; the row has answer, prompt"):
        row.text("response")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, "null"),
        (3, "a number"),
        (1.5, "a number"),
        (True, "a boolean"),
        (["a"], "a list"),
        ({}, "an object"),
        (b"a", "a bytes"),
    ],
)
def test_a_column_of_the_wrong_type_is_named_with_what_was_found(value: object, found: str) -> None:
    row = RawRow("rows.jsonl:7", {"response": value})

    with pytest.raises(InvalidInput, match=rf"rows\.jsonl:7: column 'response' must be text, but is {found}"):
        row.text("response")


def test_null_is_empty_only_where_a_column_may_be_empty() -> None:
    row = RawRow("rows.jsonl:7", {"context": None})

    assert row.text_or_empty("context") == ""
    with pytest.raises(InvalidInput, match="'other' is missing"):
        row.text_or_empty("other")


def test_half_a_surrogate_pair_is_named_because_no_tokenizer_takes_it() -> None:
    row = RawRow("rows.jsonl:7", json.loads(r'{"response": "ok \ud83d"}'))

    with pytest.raises(InvalidInput, match=r"rows\.jsonl:7: column 'response' holds half of a surrogate pair .*ud83d"):
        row.text("response")
