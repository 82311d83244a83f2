"""The amount of data in a dataset version, as training will see it.

The numbers are exact if `tokenized_dataset` is finished; otherwise they are estimated from the raw rows, and the
estimate says how. Reading raw rows belongs to `raw_rows`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import pstdev

from neuron_ops.errors import MissingArtifact
from neuron_ops.planning.assumptions import BYTES_PER_TOKEN, TEMPLATE_TOKENS
from neuron_ops.planning.model_files import local_files
from neuron_ops.planning.quantities import Range, show_share
from neuron_ops.planning.raw_rows import RawRows, survey
from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import TOKENIZER_FILES
from neuron_ops.store.artifacts import Artifact

MAX_RAW_BYTES = 4_000_000_000
"""A plan neither reads nor downloads more than this."""
STANDARD_ERRORS = 2.0
"""Half-width of a sample's range in standard errors: it contains the true value for 95 % of samples."""
ASSUMED_DENSITY = 0.9
MUCH_PADDING = 0.5


@dataclass(frozen=True, slots=True)
class DataForecast:
    """One dataset version as training will see it; counts of the training split unless they say otherwise."""

    source: str
    """The source of the numbers, with the assumptions."""
    rows: int
    """Raw rows."""
    training_rows: Range
    held_out_rows: Range
    tokens: Range
    """Real tokens, without padding."""
    supervised_share: Range
    """Tokens in the loss, as a share of all real tokens."""
    sequences: Range
    held_out_sequences: Range
    padding_share: Range
    """Padding positions, as a share of all positions."""
    longest_row: int | None
    """Tokens of the longest tokenized row; None if no row was tokenized."""


def forecast_data(lineage: Lineage, *, read_rows: bool, tokenize: bool) -> DataForecast | None:
    """The forecast; None if the rows are not prepared and may not, or cannot, be read now.

    Without `tokenize`, tokens are estimated from bytes even if the base model is available.

    Raises:
        InvalidInput: `prepare` would refuse the rows, the tokenizer, the template or the splits.
    """
    try:
        prepared = lineage.find("tokenized_dataset")
    except MissingArtifact:
        prepared = None
    if prepared is not None:
        return _from_report(prepared)
    if not read_rows or lineage.raw.stats(lineage.version)["bytes"] > MAX_RAW_BYTES:
        return None
    return _from_rows(lineage, tokenize)


def _from_report(prepared: Artifact) -> DataForecast:
    report = json.loads(prepared.read("report.json"))
    train, holdout = report["train"], report["holdout"]
    positions = train["sequences"] * report["sequence_length"]
    return DataForecast(
        source=f"exact: {prepared.address} is finished",
        rows=report["rows_read"],
        training_rows=Range.exactly(train["rows"]),
        held_out_rows=Range.exactly(holdout["rows"]),
        tokens=Range.exactly(train["tokens"]),
        supervised_share=Range.exactly(train["supervised_tokens"] / train["tokens"]),
        sequences=Range.exactly(train["sequences"]),
        held_out_sequences=Range.exactly(holdout["sequences"]),
        padding_share=Range.exactly(1 - train["tokens"] / positions),
        longest_row=report["longest_row"],
    )


def _from_rows(lineage: Lineage, tokenize: bool) -> DataForecast:
    from neuron_ops.rows.chat import open_chat  # tokenizers and jinja: 100 CPU ms, not needed for a finished artifact

    dataset, length = lineage.recipe.dataset, lineage.recipe.graph.sequence_length
    with lineage.raw.local(lineage.version) as raw, local_files(lineage, (*TOKENIZER_FILES, "config.json")) as model:
        chat = open_chat(model, dataset) if model is not None and tokenize else None
        found = survey(raw, dataset, length, chat)
    return _Estimate(lineage.recipe, found).forecast()


def padding_warnings(data: DataForecast, sequence_length: int) -> Iterator[str]:
    """Warn if most of the computing time would go into padding."""
    if data.padding_share.low <= MUCH_PADDING:
        return
    longest = f" (the longest row has {data.longest_row:,} tokens)" if data.longest_row else ""
    yield (
        f"{show_share(data.padding_share)} of what training computes is padding. Lower graph.sequence_length from "
        f"{sequence_length:,}{longest}, or set dataset.packing if the backend supports it."
    )


class _Estimate:
    """A DataForecast from raw rows: all of them tokenized, a sample tokenized, or only their bytes known."""

    def __init__(self, recipe: Recipe, found: RawRows) -> None:
        self._length, self._packing = recipe.graph.sequence_length, recipe.dataset.packing
        self._found = found
        self._lengths = found.sampled.lengths if found.sampled else ()
        self._supervised = found.sampled.supervised if found.sampled else ()

    def forecast(self) -> DataForecast:
        """The whole estimate."""
        found, per_row = self._found, self._tokens_per_row()
        tokens = self._tokens(per_row)
        sequences = self._sequences(held_out=False, per_row=per_row)
        return DataForecast(
            source=self._source(),
            rows=found.rows,
            training_rows=Range.exactly(found.train),
            held_out_rows=Range.exactly(found.holdout),
            tokens=tokens,
            supervised_share=self._supervised_share(per_row),
            sequences=sequences,
            held_out_sequences=self._sequences(held_out=True, per_row=per_row),
            padding_share=self._padding(tokens, sequences),
            longest_row=max(self._lengths, default=None),
        )

    def _padding(self, tokens: Range, sequences: Range) -> Range:
        few = max(1 - tokens.low / (sequences.low * self._length), 0.0)
        many = max(1 - tokens.high / (sequences.high * self._length), 0.0)
        return Range(min(few, many), max(few, many))

    def _tokens(self, per_row: Range) -> Range:
        if self._found.is_complete:
            return Range.exactly(sum(self._of_split(self._lengths, held_out=False)))
        return per_row.scaled(self._found.train)

    def _tokens_per_row(self) -> Range:
        if not self._lengths:
            return Range.exactly(self._found.bytes_per_row).over(BYTES_PER_TOKEN) + TEMPLATE_TOKENS
        mean = sum(self._lengths) / len(self._lengths)
        error = STANDARD_ERRORS * pstdev(self._lengths) / sqrt(len(self._lengths))
        return Range(mean - error, mean + error)

    def _supervised_share(self, per_row: Range) -> Range:
        if not self._lengths:
            answers = Range.exactly(self._found.answer_bytes_per_row).over(BYTES_PER_TOKEN)
            return Range(answers.low / per_row.high, min(answers.high / per_row.low, 1.0))
        learned, seen = (self._of_split(numbers, held_out=False) for numbers in (self._supervised, self._lengths))
        return Range.exactly(sum(learned) / max(sum(seen), 1))

    def _sequences(self, held_out: bool, per_row: Range) -> Range:
        rows = self._found.holdout if held_out else self._found.train
        if not self._packing:
            return Range.exactly(rows)
        if self._found.is_complete:
            return Range.exactly(self._packed(self._of_split(self._lengths, held_out=held_out)))
        positions = self._length * self._density()
        return Range(ceil(rows * per_row.low / self._length), ceil(rows * per_row.high / positions))

    def _of_split(self, numbers: Sequence[int], held_out: bool) -> list[int]:
        """The numbers of those sampled rows that belong to the split."""
        chosen = self._found.sampled.held_out if self._found.sampled else ()
        return [number for number, is_held_out in zip(numbers, chosen, strict=True) if is_held_out == held_out]

    def _packed(self, lengths: Sequence[int]) -> int:
        from neuron_ops.rows.packing import plan_packed  # numpy: 70 CPU ms

        return len(plan_packed(lengths, self._length))

    def _density(self) -> float:
        """Lowest share of real tokens in packed sequences: more rows than the sample's fill sequences better."""
        if not self._lengths:
            return ASSUMED_DENSITY
        return sum(self._lengths) / (self._packed(self._lengths) * self._length)

    def _source(self) -> str:
        if self._found.is_complete:
            return f"exact: all {len(self._lengths):,} rows that fit were tokenized"
        if self._lengths:
            return f"rows counted, tokens estimated from a sample of {len(self._lengths):,} rows"
        return (
            f"rows counted; {BYTES_PER_TOKEN.low:g} to {BYTES_PER_TOKEN.high:g} bytes a token and "
            f"{TEMPLATE_TOKENS.low:g} to {TEMPLATE_TOKENS.high:g} tokens of template a row are assumed, because no "
            "usable tokenizer is available; materialize base_model to get one"
        )
