"""The formats of raw rows: each turns one JSON object into one conversation.

A format is a module that holds FORMAT, a `RowFormat`, and its line in `neuron_ops.registry.ROW_FORMATS`, whose key is
the value of `dataset.format`; recipe, JSON schema and messages take the names from there. Reading files
belongs to `reading`, rendering to `chat_template`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from neuron_ops.registry import ROW_FORMATS, load
from neuron_ops.rows.conversation import Conversation, Rejected
from neuron_ops.rows.reading import RawRow


@dataclass(frozen=True, slots=True)
class RowFormat:
    """The columns of a row, and what they mean."""

    summary: str
    """A sentence for people on what the rows are."""
    columns: tuple[str, ...]
    """Columns that every row must have."""
    optional_columns: tuple[str, ...]
    """Columns that a row may have; other columns are ignored."""
    convert: Callable[[RawRow], Conversation | Rejected]
    """Called with rows that have all `columns`. Raises InvalidInput for a value of the wrong type."""

    def to_conversation(self, row: RawRow) -> Conversation | Rejected:
        """The row as a conversation, or the reason for leaving it out.

        Raises:
            InvalidInput: a column is missing or holds the wrong type.
        """
        row.require(self.columns)
        return self.convert(row)

    def describe(self) -> str:
        """The summary and the columns, for the recipe's JSON schema."""
        optional = f" Optional: {', '.join(self.optional_columns)}." if self.optional_columns else ""
        return f"{self.summary} Columns: {', '.join(self.columns)}.{optional}"


def find_format(name: str) -> RowFormat:
    """The format of this name.

    Raises:
        InvalidInput: there is no such format.
    """
    found: RowFormat = load(ROW_FORMATS, name, "dataset.format").FORMAT
    return found
