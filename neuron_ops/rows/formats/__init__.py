"""The formats of raw rows: each turns one JSON object into one conversation.

A format is a module that holds FORMAT, a `RowFormat`, and its line in `neuron_ops.registry.ROW_FORMATS`, whose key is
what `dataset.format` says; recipe, JSON schema and messages take it from there. Reading files belongs to `reading`,
rendering to `chat_template`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from neuron_ops.registry import ROW_FORMATS, load
from neuron_ops.rows.conversation import Conversation, Rejected
from neuron_ops.rows.reading import RawRow


@dataclass(frozen=True, slots=True)
class RowFormat:
    """Which columns a row has, and what they say."""

    summary: str
    """What such rows are, as a sentence for people."""
    columns: tuple[str, ...]
    """Columns that every row must have."""
    optional_columns: tuple[str, ...]
    """Columns that a row may have; any others are left alone."""
    convert: Callable[[RawRow], Conversation | Rejected]
    """Called with rows that have all `columns`. Raises InvalidInput for a value of the wrong type."""

    def to_conversation(self, row: RawRow) -> Conversation | Rejected:
        """The row as a conversation, or why it is left out.

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
        InvalidInput: there is none.
    """
    found: RowFormat = load(ROW_FORMATS, name, "dataset.format").FORMAT
    return found
