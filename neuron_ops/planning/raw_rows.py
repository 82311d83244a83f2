"""What raw rows look like before anybody has prepared them: counted exactly, their tokens from a sample.

Bounded in time: beyond MAX_ROWS rows are only counted, and SAMPLE_ROWS at most are tokenized. The rows are screened and
the limits checked by what `prepare` itself calls.
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
"""Some seconds of reading and hashing."""
SAMPLE_ROWS = 3_000
"""About two seconds of tokenizing."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """Some rows as tokens."""

    lengths: Sequence[int]
    """Tokens of each row that fits into a sequence."""
    held_out: tuple[bool, ...]
    """Whether each of them is held out."""
    supervised: Sequence[int]
    """Of its tokens, those in the loss."""


@dataclass(frozen=True, slots=True)
class RawRows:
    """What was found."""

    rows: int
    """All of them."""
    train: int
    """Rows that are fit and not held out; scaled up where not every row was looked at."""
    holdout: int
    bytes_per_row: float
    """UTF-8 bytes of all turns of a fit row."""
    answer_bytes_per_row: float
    sampled: Sampled | None
    """None where no tokenizer is at hand."""
    is_complete: bool
    """Whether every fit row was tokenized, so that nothing is guessed."""


@dataclass(slots=True)
class _Counts:
    """What is counted while the rows pass, and the sample: each row is in it with equal chance."""

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
    """Read a dataset version's rows and foretell what `prepare` makes of them.

    Raises:
        InvalidInput: what `prepare` would refuse.
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
