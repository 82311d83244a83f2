"""Tokenized rows, and a temporary file that keeps them until each is placed into a sequence.

Best-fit packing needs every length before it can place the first row, so the tokens go to a temporary file and only
the lengths stay in memory (4 bytes per row). Making tokens belongs to `chat`, placing them to `packing`.
"""

import tempfile
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]

IGNORED = -100
"""Label of a token that is not in the loss; torch's cross entropy ignores it by default."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One conversation as tokens."""

    ids: Tokens
    labels: Tokens
    """The id if the token is learned, otherwise IGNORED. The labels are not shifted: the model does that. The first
    label is always IGNORED: in a packed sequence, its token could only be predicted from the previous row."""

    @property
    def num_supervised(self) -> int:
        """Tokens that count in the loss."""
        return int(np.count_nonzero(self.labels != IGNORED))


class TokenRows:
    """Rows in the order in which they were appended, in an unnamed file that disappears with the process."""

    def __init__(self, folder: Path) -> None:
        """Open the file on the disk of `folder`, which needs room for 8 bytes per token."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed in __exit__
        self._lengths = array("i")
        self._starts = array("q", [0])
        self.num_supervised = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each row."""
        return self._lengths

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows."""
        return self._starts[-1]

    def append(self, row: TokenRow) -> None:
        """Keep one more row."""
        self._file.write(row.ids.tobytes())
        self._file.write(row.labels.tobytes())
        self._lengths.append(len(row.ids))
        self._starts.append(self._starts[-1] + len(row.ids))
        self.num_supervised += row.num_supervised

    def __getitem__(self, index: int) -> TokenRow:
        """Read a row back."""
        length = self._lengths[index]
        # The labels of a row follow its ids, 4 bytes each.
        self._file.seek(self._starts[index] * 8)
        ids, labels = np.frombuffer(self._file.read(length * 8), dtype=np.int32).reshape(2, length)
        return TokenRow(ids, labels)
