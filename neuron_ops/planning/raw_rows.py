"""A survey of raw rows that are not prepared yet: exact counts, and tokens from a sample.

The time is bounded: rows after the first MAX_ROWS are only counted, and at most SAMPLE_ROWS are tokenized. The
functions that screen rows and check limits are those of `prepare`.
"""

import random
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from neuron_ops.recipe.schema import DatasetSection
from neuron_ops.rows.conversation import Conversation
from neuron_ops.rows.holdout import is_held_out
from neuron_ops.rows.reading import count_rows, read_rows
from neuron_ops.rows.screening import (
    NUM_OVERLONG_SHOWN,
    OVERLONG,
    Screening,
    check_overlong,
    check_rejected,
    check_splits,
)

if TYPE_CHECKING:
    from neuron_ops.rows.chat import Chat

MAX_ROWS = 100_000
"""A few seconds of reading and hashing."""
SAMPLE_ROWS = 3_000
"""About two seconds of tokenizing."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """The tokenized sample of rows."""

    lengths: Sequence[int]
    """Tokens of each row that fits into a sequence."""
    held_out: tuple[bool, ...]
    """Whether each of them is held out."""
    supervised: Sequence[int]
    """Tokens in the loss, of each of these rows."""


@dataclass(frozen=True, slots=True)
class RawRows:
    """The result of the survey."""

    rows: int
    """All raw rows."""
    train: int
    """Rows that are usable and not held out; scaled up if not every row was read."""
    holdout: int
    bytes_per_row: float
    """Mean UTF-8 bytes of all turns of a usable row."""
    answer_bytes_per_row: float
    sampled: Sampled | None
    """None if no tokenizer is available."""
    is_complete: bool
    """Whether every usable row was tokenized, so that nothing is estimated."""


@dataclass(slots=True)
class _Counts:
    """The running counts, and the sample, which contains each row with equal probability."""

    train: int = 0
    holdout: int = 0
    text_bytes: int = 0
    answer_bytes: int = 0
    sample: list[Conversation] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    def add(self, conversation: Conversation, holdout_fraction: float) -> None:
        if is_held_out(conversation, holdout_fraction):
            self.holdout += 1
        else:
            self.train += 1
        self.text_bytes += sum(len(message.content.encode()) for message in conversation.messages)
        self.answer_bytes += len(conversation.answer.encode())
        place = self.chance.randrange(self.train + self.holdout)
        if len(self.sample) < SAMPLE_ROWS:
            self.sample.append(conversation)
        elif place < SAMPLE_ROWS:
            self.sample[place] = conversation


def survey(folder: Path, section: DatasetSection, sequence_length: int, chat: "Chat | None") -> RawRows:
    """Read a dataset version's rows and predict what `prepare` makes of them.

    Raises:
        InvalidInput: `prepare` would refuse the rows.
    """
    screening, counts = Screening(section, chat), _Counts()
    for conversation in screening.conversations(islice(read_rows(folder), MAX_ROWS)):
        counts.add(conversation, section.holdout_fraction)
    read, kept = screening.rows_read, counts.train + counts.holdout
    sampled = None if chat is None else _tokenize(counts.sample, section, sequence_length, chat, screening.rejected)
    check_rejected(section, read, screening.rejected)
    rows = read if read < MAX_ROWS else count_rows(folder)
    is_complete = sampled is not None and rows == read and len(counts.sample) == kept
    if sampled is not None and is_complete:
        train, holdout = sampled.held_out.count(False), sampled.held_out.count(True)
    else:
        fit = len(sampled.lengths) / max(len(counts.sample), 1) if sampled is not None else 1.0
        train, holdout = (ceil(number * rows / read * fit) for number in (counts.train, counts.holdout))
    check_splits(section, train, holdout)
    return RawRows(
        rows, train, holdout, counts.text_bytes / kept, counts.answer_bytes / kept, sampled, is_complete=is_complete
    )


def _tokenize(
    sample: Sequence[Conversation], section: DatasetSection, sequence_length: int, chat: "Chat", rejected: Counter[str]
) -> Sampled:
    rows = chat.encode(sample)
    lengths = array("i", (len(row.ids) for row in rows))
    fit = [at for at, length in enumerate(lengths) if length <= sequence_length]
    rejected[OVERLONG] += len(rows) - len(fit)
    first = [
        f"{conversation.where} ({length:,} tokens)"
        for conversation, length in zip(sample, lengths, strict=True)
        if length > sequence_length
    ]
    check_overlong(
        section, sequence_length, len(rows), len(rows) - len(fit), first[:NUM_OVERLONG_SHOWN], max(lengths, default=0)
    )
    held_out = tuple(is_held_out(sample[at], section.holdout_fraction) for at in fit)
    return Sampled([lengths[at] for at in fit], held_out, [rows[at].num_supervised for at in fit])
