"""Raw rows of a dataset version: every *.jsonl and *.parquet file of a folder, one JSON object after the other.

Finding files, strict decoding and the position of each row belong here. The meaning of columns belongs to `formats`.
Nothing is repaired or skipped silently: training on half of a damaged file is worse than stopping.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuron_ops.errors import InvalidInput

PARQUET_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row, and its place in a file, where a person can correct it."""

    where: str
    fields: Mapping[str, object]

    def require(self, columns: Sequence[str]) -> None:
        """Refuse a row that lacks one of these columns.

        Raises:
            InvalidInput: a column is missing.
        """
        missing = next((column for column in columns if column not in self.fields), None)
        if missing is not None:
            raise InvalidInput(
                f"{self.where}: column {missing!r} is missing; the row has {', '.join(sorted(self.fields)) or 'none'}, "
                f"but its format needs {', '.join(columns)}. Rename the columns, or choose the dataset.format of "
                "the rows."
            )

    def text(self, column: str) -> str:
        """The text of a column that must be there.

        Raises:
            InvalidInput: the column is missing, is not text, or has no UTF-8 form.
        """
        self.require((column,))
        value = self.fields[column]
        if not isinstance(value, str):
            raise InvalidInput(
                f"{self.where}: column {column!r} must be text, but is {_kind(value)} ({_short(value)}). "
                "Correct the row."
            )
        self._require_utf8(column, value)
        return value

    def text_or_empty(self, column: str) -> str:
        """Like `text`, but null counts as empty: Parquet writers turn an empty text into null.

        Raises:
            InvalidInput: as for `text`.
        """
        return "" if self.fields.get(column, "") is None else self.text(column)

    def _require_utf8(self, column: str, value: str) -> None:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            # JSON can contain half of a surrogate pair (\ud83d); no tokenizer accepts it.
            raise InvalidInput(
                f"{self.where}: column {column!r} holds half of a surrogate pair ({value[error.start]!a}) "
                f"at character {error.start + 1}. Correct the row."
            ) from None


def read_rows(folder: Path) -> Iterator[RawRow]:
    """Every row of the folder's data files, in order of file name; one row in memory at a time (Parquet: one batch).

    Other files, and names that start with '.' or '_', are markers and manifests and are not read.

    Raises:
        InvalidInput: the folder has no data file, no row in any of them, or a row that cannot be read.
    """
    files = data_files(folder)
    empty = True
    for path in files:
        for row in _READERS[path.suffix](path):
            empty = False
            yield row
    if empty:
        raise InvalidInput(
            f"{folder} has no rows; these files have none: {', '.join(path.name for path in files)}. Deliver the data."
        )


def count_rows(folder: Path) -> int:
    """How many rows `read_rows` would yield, without parsing any.

    Raises:
        InvalidInput: the folder has no data file, or a file is not a readable Parquet file.
    """
    return sum(_COUNTERS[path.suffix](path) for path in data_files(folder))


def data_files(folder: Path) -> list[Path]:
    """The files that `read_rows` reads.

    Raises:
        InvalidInput: the path is not a folder, or the folder has no data file.
    """
    if not folder.is_dir():
        raise InvalidInput(f"Raw dataset {folder} is not a folder. Give the folder that holds *.jsonl or *.parquet.")
    everything = sorted(path for path in folder.iterdir() if path.is_file())
    files = [path for path in everything if path.suffix in _READERS and path.name[0] not in "._"]
    if not files:
        found = ", ".join(path.name for path in everything[:5]) or "nothing"
        raise InvalidInput(f"{folder} has no *.jsonl and no *.parquet file (found: {found}). Put the rows there.")
    return files


def _read_jsonl(path: Path) -> Iterator[RawRow]:
    with path.open("rb") as file:
        offset = 0
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _parse_line(line, path.name, number, offset)
            offset += len(line)


def _parse_line(line: bytes, name: str, number: int, offset: int) -> RawRow:
    where = f"{name}:{number}"
    try:
        # Windows tools put a byte order mark before the first line; it is not part of the JSON.
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{where}: not UTF-8: byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line, "
            f"offset {offset + error.start} of the file ({error.reason}). Save the file as UTF-8."
        ) from None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{where}: not valid JSON ({error}): {_short(text.strip())}. Each line must be one JSON object."
        ) from None
    if not isinstance(value, dict):
        raise InvalidInput(
            f"{where}: must be a JSON object, but is {_kind(value)} ({_short(value)}). Correct the line."
        )
    return RawRow(where, value)


def _read_parquet(path: Path) -> Iterator[RawRow]:
    # 0.1 s of CPU that folders of JSON lines do not need.
    import pyarrow as pa
    import pyarrow.parquet as parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS):
                for fields in batch.to_pylist():
                    number += 1
                    yield RawRow(f"{path.name} row {number}", fields)
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{path.name}: not UTF-8 in rows {number + 1} to {number + PARQUET_BATCH_ROWS} ({error.reason}, "
            f"byte 0x{error.object[error.start]:02x}). Write its text columns as UTF-8."
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{path.name}: not a readable Parquet file after row {number} ({error}).") from None


def _count_jsonl(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _count_parquet(path: Path) -> int:
    import pyarrow as pa  # as above
    import pyarrow.parquet as parquet

    try:
        return int(parquet.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{path.name}: not a readable Parquet file ({error}).") from None


_COUNTERS = {".jsonl": _count_jsonl, ".parquet": _count_parquet}
_READERS = {".jsonl": _read_jsonl, ".parquet": _read_parquet}


def _kind(value: object) -> str:
    """The JSON name of a value's type; Parquet has more types, such as bytes."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
