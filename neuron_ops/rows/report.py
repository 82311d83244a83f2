"""The report of `prepare`: its numbers, as JSON for programs and as Markdown for people.

Counting belongs to `prepare`; the names and the layout of the counts belong here. Nothing here may differ between two
runs over the same rows: no time, no path.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

NUM_BUCKETS = 10
BAR_WIDTH = 40


@dataclass(frozen=True, slots=True)
class SplitReport:
    """One of the two splits."""

    rows: int
    sequences: int
    tokens: int
    """Real tokens, without padding."""
    supervised_tokens: int
    """Tokens that count in the loss."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Rows with a number of tokens between two bounds, both included."""

    at_least: int
    at_most: int
    rows: int


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """The whole step in numbers."""

    rows_read: int
    rejected: Mapping[str, int]
    """Rows that were left out, by reason."""
    train: SplitReport
    holdout: SplitReport
    sequence_length: int
    packed: bool
    longest_row: int
    """Tokens of the longest row, overlong ones included."""
    histogram: tuple[Bucket, ...]
    """Lengths of all tokenized rows, overlong ones included."""

    @property
    def rows_kept(self) -> int:
        """Rows in either split."""
        return self.train.rows + self.holdout.rows

    @property
    def supervised_share(self) -> float:
        """Tokens that count in the loss, as a share of all real tokens of both splits."""
        return (self.train.supervised_tokens + self.holdout.supervised_tokens) / self._tokens

    @property
    def density(self) -> float:
        """Real tokens, as a share of all positions of both splits; the rest is padding."""
        return self._tokens / ((self.train.sequences + self.holdout.sequences) * self.sequence_length)

    @property
    def _tokens(self) -> int:
        return self.train.tokens + self.holdout.tokens

    def to_json(self) -> str:
        """All fields and derived numbers."""
        derived = {name: getattr(self, name) for name in ("rows_kept", "supervised_share", "density")}
        return json.dumps({**asdict(self), **derived}, indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self, samples: Sequence[str]) -> str:
        """Tables, a text histogram of lengths, and some rows with the learned part between ⟦ and ⟧."""
        parts = ["# Prepared rows", self._counts(), "## Splits", self._splits(), "## Tokens per row", self._picture()]
        parts += ["## Samples", "Between ⟦ and ⟧ stands what the loss counts."]
        parts += [fenced(sample) for sample in samples]
        return "\n\n".join(parts) + "\n"

    def _counts(self) -> str:
        lines = ["| rows | number |", "|---|---:|", f"| read | {self.rows_read:,} |", f"| kept | {self.rows_kept:,} |"]
        lines += [f"| rejected: {reason} | {number:,} |" for reason, number in self.rejected.items()]
        return "\n".join(lines)

    def _splits(self) -> str:
        lines = ["| split | rows | sequences | tokens | supervised |", "|---|---:|---:|---:|---:|"]
        for name, split in (("train", self.train), ("holdout", self.holdout)):
            lines.append(
                f"| {name} | {split.rows:,} | {split.sequences:,} | {split.tokens:,} | {split.supervised_tokens:,} |"
            )
        way = "packed" if self.packed else "one row each, padded"
        return "\n".join(lines) + (
            f"\n\nEach sequence has {self.sequence_length:,} tokens ({way}). Density (real tokens of all positions): "
            f"{self.density:.1%}. Supervised (tokens in the loss of all real ones): {self.supervised_share:.1%}. "
            f"Longest row: {self.longest_row:,} tokens."
        )

    def _picture(self) -> str:
        most = max(bucket.rows for bucket in self.histogram)
        return fenced(
            "\n".join(
                f"{bucket.at_least:>7,} - {bucket.at_most:>7,}  {bucket.rows:>9,}  "
                + "█" * -(-bucket.rows * BAR_WIDTH // most)
                for bucket in self.histogram
            )
        )


def length_histogram(lengths: Sequence[int]) -> tuple[Bucket, ...]:
    """At most NUM_BUCKETS equal ranges from 1 to the longest."""
    width = -(-max(lengths) // NUM_BUCKETS)
    rows = [0] * -(-max(lengths) // width)
    for length in lengths:
        rows[(length - 1) // width] += 1
    return tuple(Bucket(index * width + 1, (index + 1) * width, number) for index, number in enumerate(rows))


def fenced(text: str) -> str:
    """A Markdown code block that its content cannot close early."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
