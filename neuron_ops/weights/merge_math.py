"""The numbers of a merge: one changed tensor, a block of rows at a time, in fp32 with one rounding at the end.

With W the base weight, A and B an adapter's factors and s its scaling:

    LoRA    W + s * (B @ A)                        peft/tuners/lora/layer.py, Linear.merge, get_delta_weight
    DoRA    m / norm(W + s * (B @ A)) * (W + s * (B @ A))   peft/tuners/lora/variants.py, DoraLinearVariant.merge_safe

The norm runs over the inputs of each output (for an embedding: over the vocabulary, per dimension). PEFT rounds the
product to the adapter's dtype first when that is 16 bits wide; here it stays fp32. Several adapters are one product:
their factors stand side by side.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuron_ops.errors import InvalidInput
from neuron_ops.weights.byte_ranges import OpenFile, Source
from neuron_ops.weights.lora_targets import Change
from neuron_ops.weights.merge_factors import FP32_UNIT, Factors, read_factors
from neuron_ops.weights.rounding import (
    WORD,
    Floats,
    Words,
    largest_magnitude,
    narrow,
    round_to_bfloat16,
    rounding_error,
    stored_value,
    widen,
)
from neuron_ops.weights.safetensors_io import TensorEntry

# The factors are multiplied this many elements at a time. Another number may round differently: a single row takes
# another path through BLAS.
PRODUCT_ELEMENTS = 1 << 18
# Everything else is done on blocks that, with their product, stay in the 2 MB that one core has for itself.
BLOCK_ELEMENTS = 1 << 16


class Workspace:
    """The buffers of one thread, reused for every block of every tensor."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[np.uint8]] = {}

    def floats(self, name: str, shape: tuple[int, int]) -> Floats:
        return self._buffer(name, shape, 4).view(np.float32).reshape(shape)

    def words(self, name: str, shape: tuple[int, int], dtype: str) -> Words:
        words: Words = self._buffer(name, shape, WORD[dtype].itemsize).view(WORD[dtype]).reshape(shape)
        return words

    def _buffer(self, name: str, shape: tuple[int, int], width: int) -> NDArray[np.uint8]:
        size = shape[0] * shape[1] * width
        if name not in self._buffers or self._buffers[name].size < size:
            self._buffers[name] = np.empty(size, np.uint8)
        return self._buffers[name][:size]


@dataclass(slots=True)
class Outcome:
    """What is known about a changed tensor once all its blocks are computed."""

    delta_norm: float
    """Frobenius norm of the change before rounding."""
    differs: bool
    """Whether any weight is another one after rounding."""
    max_abs_error: float


class TensorMerge:
    """Computes one changed tensor from the base's rows (or the adapter's, where it replaces the tensor)."""

    def __init__(self, change: Change, entry: TensorEntry, base: Source, work: Workspace) -> None:
        self.change = change
        self.entry = entry
        self.rows = entry.shape[0] if entry.shape else 1
        self.columns = math.prod(entry.shape[1:])
        self.factors = read_factors(change, self.rows, self.columns)
        self._base = base
        self._work = work
        self._differs = False
        self._largest = 0
        self._delta_squared = 0.0
        self._product_rows = max(1, PRODUCT_ELEMENTS // self.columns)
        self._product = np.empty((0, self.columns), np.float32)
        self._product_start = -1
        self._column_factor: Floats | None = None
        self._largest_factor = 1.0
        if self.factors.magnitude is not None and not self.factors.magnitude_of_rows:
            self._column_factor = self._dora_column_factor(self.factors.magnitude)

    def blocks(self) -> Iterator[Words]:
        """The new rows, block after block; a block is valid until the next is asked for."""
        replacement = self.change.replacement
        with OpenFile(replacement.adapter.file.path) if replacement else nullcontext(self._base) as source:
            step = max(1, BLOCK_ELEMENTS // self.columns)
            for first, end in self._product_ranges():
                for start in range(first, end, step):
                    yield self._block(start, min(start + step, end), source)

    def outcome(self) -> Outcome:
        """What is known now that all blocks are computed.

        Raises:
            InvalidInput: a weight became NaN or infinite.
        """
        exact = self.change.replacement is None and self.factors.magnitude is None
        norm = self.factors.norm() if exact else math.sqrt(self._delta_squared)
        largest = self._checked_magnitude()
        error = rounding_error(largest, self.entry.dtype) + FP32_UNIT * largest
        error += self.factors.error_bound() * self._largest_factor
        if self.factors.magnitude is not None:  # the norm's own sum, and the division
            error += (max(self.rows, self.columns) / 2 + 4) * FP32_UNIT * largest
        return Outcome(norm, self._differs, error)

    def _product_ranges(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self.rows, self._product_rows):
            yield start, min(start + self._product_rows, self.rows)

    def _block(self, start: int, stop: int, source: Source) -> Words:
        shape = (stop - start, self.columns)
        stored, values = self._base_values(start, stop)
        result = self._work.words("result", shape, self.entry.dtype)
        before = None
        if self.change.replacement is not None:
            before = values.copy()
            self._replacement_values(source, start, stop, values)
        elif self.factors.magnitude is not None:
            before = values.copy()
        self._change(values, start, stop)
        if before is not None:
            np.subtract(values, before, out=before)
            self._delta_squared += float(np.vdot(before, before))
        self._round(values, result)
        self._differs = self._differs or not np.array_equal(stored, result)
        self._largest = max(self._largest, largest_magnitude(result))
        return result

    def _base_values(self, start: int, stop: int) -> tuple[Words, Floats]:
        shape = (stop - start, self.columns)
        words = self._work.words("stored", shape, self.entry.dtype)
        self._base.read_into(words.data.cast("B"), self.entry.start + start * self.columns * words.itemsize)
        values = self._work.floats("values", shape)
        widen(words, self.entry.dtype, values)
        return words, values

    def _replacement_values(self, source: Source, start: int, stop: int, values: Floats) -> None:
        replacement = self.change.replacement
        assert replacement is not None
        words = self._work.words("replaced", values.shape, replacement.entry.dtype)
        source.read_into(words.data.cast("B"), replacement.entry.start + start * self.columns * words.itemsize)
        widen(words, replacement.entry.dtype, values)

    def _change(self, values: Floats, start: int, stop: int) -> None:
        """values += left @ right * scale, then DoRA's rescaling."""
        factors = self.factors
        if factors.left.shape[1]:
            np.add(values, self._delta(start, stop), out=values)
        if factors.magnitude is not None:
            scale = (
                self._column_factor if self._column_factor is not None else self._dora_row_factor(values, start, stop)
            )
            self._largest_factor = max(self._largest_factor, float(np.abs(scale).max()))
            np.multiply(values, scale, out=values)

    def _delta(self, start: int, stop: int) -> Floats:
        """Rows of left @ right * scale; the product that they are part of is kept for the next rows."""
        first = start - start % self._product_rows
        if first != self._product_start:
            left = self.factors.left[first : first + self._product_rows]
            self._product = self._work.floats("product", (len(left), self.columns))
            self._product_start = first
            np.matmul(left, self.factors.right, out=self._product)
            if self.factors.scale != 1:
                np.multiply(self._product, np.float32(self.factors.scale), out=self._product)
        return self._product[start - first : stop - first]

    def _dora_row_factor(self, values: Floats, start: int, stop: int) -> Floats:
        assert self.factors.magnitude is not None
        norms = np.sqrt(np.einsum("ij,ij->i", values, values))
        factor: Floats = (self.factors.magnitude[start:stop] / norms)[:, None]
        return factor

    def _dora_column_factor(self, magnitude: Floats) -> Floats:
        """An embedding is normed over its rows, so they are all read once before the first is written."""
        squares = np.zeros(self.columns, np.float64)
        plain = Factors(self.factors.left, self.factors.right, self.factors.scale)
        whole, self.factors = self.factors, plain
        for start, stop in self._product_ranges():
            _, values = self._base_values(start, stop)
            self._change(values, start, stop)
            squares += np.einsum("ij,ij->j", values, values)
        self.factors = whole
        norms = np.sqrt(squares).astype(np.float32)
        return (magnitude / norms)[None, :]

    def _round(self, values: Floats, result: Words) -> None:
        if self.entry.dtype == "BF16" and self.change.replacement is None:
            shape = (values.shape[0], values.shape[1])
            round_to_bfloat16(values, result, self._work.words("dropped", shape, self.entry.dtype))
        else:
            narrow(values, self.entry.dtype, result)

    def _checked_magnitude(self) -> float:
        magnitude = stored_value(self._largest, self.entry.dtype)
        if not math.isfinite(magnitude):
            raise InvalidInput(
                f"{self.entry.name} of {self._base.path} becomes NaN or infinite in {self.entry.dtype} with this "
                "adapter. Take an earlier checkpoint, a smaller weight, or a base in a wider dtype."
            )
        return magnitude
