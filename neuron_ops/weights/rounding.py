"""Between the dtypes of weights and fp32, block by block, in buffers that the caller keeps.

numpy has no bfloat16: a bf16 number is the upper half of the fp32 number with the same value, so widening is a shift
and narrowing is a shift with rounding to nearest, ties to even. Nothing here allocates for finite input.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Words = NDArray[np.uint16] | NDArray[np.uint32]

WORD: dict[str, np.dtype[Any]] = {"BF16": np.dtype("<u2"), "F16": np.dtype("<u2"), "F32": np.dtype("<u4")}
# Explicit 32-bit constants: a Python int would do, a 64-bit numpy scalar would double the width of every pass.
_HALF = np.uint32(16)
_ONE = np.uint32(1)
_BELOW_HALF = np.uint32(0x7FFF)
_BFLOAT16_NAN = np.uint16(0x7FC0)
_MAGNITUDE = np.uint16(0x7FFF)
# Significant bits of each format, the hidden one included.
_PRECISION = {"BF16": 8, "F16": 11, "F32": 24}


def widen(words: Words, dtype: str, out: Floats) -> None:
    """Exact fp32 values of stored weights."""
    if dtype == "BF16":
        bits = out.view(np.uint32)
        np.copyto(bits, words)
        np.left_shift(bits, _HALF, out=bits)
    else:
        np.copyto(out, words.view(np.float16 if dtype == "F16" else np.float32))


def narrow(values: Floats, dtype: str, out: Words) -> None:
    """Round fp32 values once, to nearest with ties to even; NaN stays NaN, what overflows becomes infinite."""
    with np.errstate(over="ignore"):
        if dtype != "BF16":
            np.copyto(out.view(np.float16 if dtype == "F16" else np.float32), values, casting="same_kind")
            return
        nans = np.isnan(values)
    scratch = np.empty(values.shape, np.uint32)
    round_to_bfloat16(values.copy(), out, scratch)
    out[nans] = _BFLOAT16_NAN


def round_to_bfloat16(values: Floats, out: Words, scratch: NDArray[np.uint32]) -> None:
    """The core of `narrow`, which destroys `values` and needs no memory of its own.

    Adding 0x7fff, and one more if the last kept bit is odd, carries into the kept half exactly when the number must go
    up. A NaN whose upper mantissa bits are all set would carry into the sign; `narrow` covers those, and no sum or
    product of finite fp32 numbers and bf16 numbers has one.
    """
    bits = values.view(np.uint32)
    np.right_shift(bits, _HALF, out=scratch)
    np.bitwise_and(scratch, _ONE, out=scratch)
    np.add(bits, scratch, out=bits)
    np.add(bits, _BELOW_HALF, out=bits)
    np.right_shift(bits, _HALF, out=bits)
    np.copyto(out, bits, casting="unsafe")


def largest_magnitude(words: Words, dtype: str, scratch: NDArray[Any]) -> float:
    """The largest absolute value among stored weights; infinite or NaN if any of them is.

    Without their sign, floats sort like integers, so 16-bit weights need no conversion to be compared.
    """
    if dtype == "F32":
        values = words.view(np.float32)
        return float(np.maximum(values.max(), -values.min()))
    magnitudes = scratch.reshape(-1).view(np.uint16)[: words.size].reshape(words.shape)
    np.bitwise_and(words, _MAGNITUDE, out=magnitudes)
    value = np.empty(1, np.float32)
    widen(magnitudes.max(keepdims=True).reshape(1), dtype, value)
    return float(value[0])


def rounding_error(magnitude: float, dtype: str) -> float:
    """The largest error of one rounding to `dtype` for values up to `magnitude`: half a unit in the last place."""
    if magnitude == 0:
        return 0.0
    _, exponent = np.frexp(magnitude)
    return float(np.ldexp(1.0, int(exponent) - 1 - _PRECISION[dtype]))
