"""Numbers that are not known exactly, and the display of bytes, durations and prices.

The meaning of a number belongs to the module that computes it.
"""

from dataclasses import dataclass
from typing import Self

GIB = 2**30
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Range:
    """A number between `low` and `high`, both included; if they are equal, it is a fact."""

    low: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> Self:
        """A number that is known."""
        return cls(value, value)

    def __add__(self, other: "Range") -> "Range":
        return Range(self.low + other.low, self.high + other.high)

    def scaled(self, factor: float) -> "Range":
        """Both ends times a positive factor."""
        return Range(self.low * factor, self.high * factor)

    def times(self, other: "Range") -> "Range":
        """The product of two positive numbers."""
        return Range(self.low * other.low, self.high * other.high)

    def over(self, other: "Range") -> "Range":
        """The quotient of two positive numbers."""
        return Range(self.low / other.high, self.high / other.low)


def total(ranges: list[Range]) -> Range:
    """The sum."""
    return Range(sum(part.low for part in ranges), sum(part.high for part in ranges))


def show_count(value: Range) -> str:
    """1,234 or 1,200 to 1,300."""
    return _join(f"{value.low:,.0f}", f"{value.high:,.0f}")


def show_number_of(value: Range, noun: str) -> str:
    """1 step or 1,200 steps."""
    count = show_count(value)
    return f"{count} {noun}" if count == "1" else f"{count} {noun}s"


def show_share(value: Range) -> str:
    """31.4 % or 30.0 to 35.0 %."""
    low, high = f"{value.low * 100:.1f}", f"{value.high * 100:.1f}"
    return f"{_join(low, high)} %"


def show_factor(value: Range) -> str:
    """0.24 or 0.24 to 0.26."""
    return _join(f"{value.low:.3g}", f"{value.high:.3g}")


def show_bytes(value: Range) -> str:
    """1.87 to 2.40 GiB; MiB below 0.1 GiB."""
    unit, name = (GIB, "GiB") if value.high >= GIB / 10 else (MIB, "MiB")
    return f"{_join(f'{value.low / unit:,.2f}', f'{value.high / unit:,.2f}')} {name}"


def show_seconds(value: Range) -> str:
    """Seconds, minutes or hours, whichever suits the larger end."""
    unit, name = next(((unit, name) for unit, name in ((3600, "h"), (60, "min")) if value.high >= 2 * unit), (1, "s"))
    return f"{_join(_short(value.low / unit), _short(value.high / unit))} {name}"


def show_usd(value: Range) -> str:
    """$4.60 to $18.20."""
    return _join(f"${value.low:,.2f}", f"${value.high:,.2f}")


def _join(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
