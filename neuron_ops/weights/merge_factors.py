"""An adapter's change of one tensor as two fp32 factors, and what is known of their product before it is computed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuron_ops.errors import InvalidInput
from neuron_ops.weights.byte_ranges import OpenFile
from neuron_ops.weights.lora_targets import Change, LowRank
from neuron_ops.weights.rounding import WORD, Floats, widen
from neuron_ops.weights.safetensors_io import TensorEntry

FP32_UNIT = 2.0**-24
"""The unit roundoff of fp32: a rounded result is off by at most this much of itself."""


@dataclass(frozen=True, slots=True)
class Factors:
    """A change as `left @ right * scale`, with the magnitude of DoRA if it has one."""

    left: Floats
    """rows x rank"""
    right: Floats
    """rank x columns"""
    scale: float
    magnitude: Floats | None = None
    magnitude_of_rows: bool = True

    def norm(self) -> float:
        """The Frobenius norm of the product, from the two small Gram matrices: exact enough, and free."""
        left, right = self.left.astype(np.float64), self.right.astype(np.float64)
        return abs(self.scale) * math.sqrt(max(0.0, float(np.sum((left.T @ left) * (right @ right.T)))))

    def error_bound(self) -> float:
        """Of the fp32 product: each entry is at most (longest row of left) * (longest column of right)."""
        if not self.left.size or not self.right.size:
            return 0.0
        rows = math.sqrt(float(np.max(np.sum(np.square(self.left, dtype=np.float64), axis=1))))
        columns = math.sqrt(float(np.max(np.sum(np.square(self.right, dtype=np.float64), axis=0))))
        return float((self.left.shape[1] + 2) * FP32_UNIT * rows * columns * abs(self.scale))


def read_floats(file: OpenFile, entry: TensorEntry) -> Floats:
    """A small tensor (a factor, a bias, a magnitude) as fp32; NaN and infinity are refused.

    Raises:
        InvalidInput: NaN or infinity is in it.
    """
    words = np.empty(entry.shape, WORD[entry.dtype])
    if words.size:
        file.read_into(words.reshape(-1).data.cast("B"), entry.start)
    values = np.empty(entry.shape, np.float32)
    widen(words, entry.dtype, values)
    if not np.isfinite(values).all():
        raise InvalidInput(f"{file.path}: {entry.name} holds NaN or infinity. Take an earlier checkpoint.")
    return values


def read_factors(change: Change, rows: int, columns: int) -> Factors:
    """The factors of all adapters that change one tensor.

    Raises:
        InvalidInput: NaN or infinity is in one of them.
    """
    lefts, rights, scales = [], [], []
    magnitude = None
    for update in change.low_rank:
        left, right, magnitude = _read_update(update)
        lefts.append(left)
        rights.append(right)
        scales.append(update.scale)
    for bias in change.bias:  # a vector is a matrix of one column
        with OpenFile(bias.adapter.file.path) as file:
            lefts.append(read_floats(file, bias.entry).reshape(-1, 1))
        rights.append(np.ones((1, 1), np.float32))
        scales.append(bias.scale)
    if not lefts:
        return Factors(np.empty((rows, 0), np.float32), np.empty((0, columns), np.float32), 1.0)
    of_rows = not any(update.embedding for update in change.low_rank)
    right, scale = _scaled(rights, scales)
    left = lefts[0] if len(lefts) == 1 else np.concatenate(lefts, axis=1)
    return Factors(left, right, scale, magnitude, of_rows)


def _read_update(update: LowRank) -> tuple[Floats, Floats, Floats | None]:
    with OpenFile(update.adapter.file.path) as file:
        a, b = read_floats(file, update.a), read_floats(file, update.b)
        magnitude = None if update.magnitude is None else read_floats(file, update.magnitude)
    if update.embedding:
        return np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), magnitude
    return b, a, magnitude


def _scaled(rights: Sequence[Floats], scales: Sequence[float]) -> tuple[Floats, float]:
    """Scales go into the small factor where that loses nothing (powers of two) or can't be avoided (several)."""
    if len(rights) == 1 and abs(math.frexp(scales[0])[0]) != 0.5:
        return rights[0], scales[0]
    parts = [right * np.float32(scale) for right, scale in zip(rights, scales, strict=True)]
    return (parts[0] if len(parts) == 1 else np.concatenate(parts, axis=0)), 1.0
