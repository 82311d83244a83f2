"""Which raw rows are usable for training, and how many may be rejected.

Decisions about a row before it is tokenized, and the limits that end the whole step, belong here: `prepare` enforces
them, and a plan predicts them. Reading files belongs to `reading`, tokens to `chat`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.schema import DatasetSection
from neuron_ops.rows.conversation import Conversation, Rejected
from neuron_ops.rows.formats import find_format
from neuron_ops.rows.holdout import SeenRows
from neuron_ops.rows.reading import RawRow

if TYPE_CHECKING:
    from neuron_ops.rows.chat import Chat

OVERLONG = "more tokens than a sequence"
NUM_OVERLONG_SHOWN = 5


class Screening:
    """Selects the rows to tokenize, and counts the rejected rows by reason."""

    def __init__(self, section: DatasetSection, chat: "Chat | None") -> None:
        """Without a chat (no tokenizer available), special tokens in the texts are not found."""
        self.rows_read = 0
        self.rejected: Counter[str] = Counter()
        self._to_conversation = find_format(section.format).to_conversation
        self._chat = chat
        self._seen = SeenRows()

    def conversations(self, rows: Iterable[RawRow]) -> Iterator[Conversation]:
        """The rows to tokenize; the others are counted.

        Raises:
            InvalidInput: a row lacks a column of the format.
        """
        for row in rows:
            self.rows_read += 1
            conversation = self._to_conversation(row)
            if isinstance(conversation, Rejected):
                self.rejected[conversation.reason] += 1
            elif self._chat is not None and self._chat.forged_token(conversation) is not None:
                self.rejected["special token in the text"] += 1
            elif not self._seen.add(conversation):
                self.rejected["duplicate"] += 1
            else:
                yield conversation


def check_overlong(
    section: DatasetSection, sequence_length: int, rows_read: int, overlong: int, first: Sequence[str], longest: int
) -> None:
    """Refuse rows that are longer than a sequence, unless the recipe drops them.

    Raises:
        InvalidInput: there are overlong rows.
    """
    if overlong and section.overlong == "error":
        raise InvalidInput(
            f"{overlong:,} of {rows_read:,} rows have more than {sequence_length:,} tokens: "
            f"{', '.join(first)}{', …' * (overlong > len(first))}. Raise graph.sequence_length (the longest row has "
            f"{longest:,}), or set dataset.overlong to drop, which leaves them out and counts them."
        )


def check_rejected(section: DatasetSection, rows_read: int, rejected: Counter[str]) -> None:
    """Refuse data of which more rows are rejected than the recipe allows.

    Raises:
        InvalidInput: too many rows are rejected.
    """
    if rejected.total() > section.max_rejected_fraction * rows_read:
        reasons = ", ".join(f"{reason}: {number:,}" for reason, number in rejected.most_common())
        raise InvalidInput(
            f"{rejected.total():,} of {rows_read:,} rows were rejected ({reasons}), more than "
            f"dataset.max_rejected_fraction ({section.max_rejected_fraction}) allows. "
            "Correct the data, or raise that limit."
        )


def check_splits(section: DatasetSection, train: int, holdout: int) -> None:
    """Refuse data that leaves one of the two splits without a row.

    Raises:
        InvalidInput: training or evaluation would have no rows.
    """
    for name, rows, other in (("held out", holdout, train), ("left to train on", train, holdout)):
        if not rows:
            raise InvalidInput(
                f"No row is {name}: all {other:,} fall into the other split by the hash of their prompt at "
                f"dataset.holdout_fraction {section.holdout_fraction}. Deliver more rows with different "
                "prompts, or change that fraction."
            )
