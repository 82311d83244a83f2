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
_HALF_UNIT = np.uint32(0x8000)
_EVEN = np.uint16(0xFFFE)
_BFLOAT16_NAN = np.uint16(0x7FC0)
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
    round_to_bfloat16(values.copy(), out, np.empty_like(out))
    out[nans] = _BFLOAT16_NAN


def round_to_bfloat16(values: Floats, out: Words, dropped: Words) -> None:
    """The core of `narrow`, which destroys `values` and needs no memory of its own; `dropped` is as large as `out`.

    Half a unit is added and the lower half dropped. Where nothing is left in it, the number was a tie, and the kept
    half is made even: one number in 65,536, so looking for them costs less than adding what each needs. A NaN whose
    upper mantissa bits are all set would carry into the sign; `narrow` covers those, and no sum or product of finite
    fp32 numbers and bf16 numbers has one.
    """
    bits = values.view(np.uint32)
    np.add(bits, _HALF_UNIT, out=bits)
    np.copyto(dropped, bits, casting="unsafe")
    np.right_shift(bits, _HALF, out=bits)
    np.copyto(out, bits, casting="unsafe")
    ties = np.flatnonzero(dropped == 0)
    out.reshape(-1)[ties] &= _EVEN


def largest_magnitude(words: Words) -> int:
    """The stored weight of the largest absolute value, without its sign; infinities and NaN are larger than numbers.

    Without their sign, floats sort like integers: read as signed the largest is the largest positive one, read as
    unsigned the largest negative one, if there is any.
    """
    signed = words.view(np.int16 if words.itemsize == 2 else np.int32)
    return max(int(signed.max()), int(words.max()) & (1 << 8 * words.itemsize - 1) - 1)


def stored_value(word: int, dtype: str) -> float:
    """The value of one stored weight."""
    value = np.empty(1, np.float32)
    widen(np.array([word], WORD[dtype]), dtype, value)
    return float(value[0])


def rounding_error(magnitude: float, dtype: str) -> float:
    """The largest error of one rounding to `dtype` for values up to `magnitude`: half a unit in the last place."""
    if magnitude == 0:
        return 0.0
    _, exponent = np.frexp(magnitude)
    return float(np.ldexp(1.0, int(exponent) - 1 - _PRECISION[dtype]))
