"""How ranges are computed and read."""

import pytest

from neuron_ops.planning.quantities import (
    Range,
    show_bytes,
    show_count,
    show_factor,
    show_seconds,
    show_share,
    show_usd,
    total,
)


def test_arithmetic_keeps_the_smaller_end_low() -> None:
    assert Range(1, 2) + Range(10, 20) == Range(11, 22)
    assert Range(6, 12).over(Range(2, 3)) == Range(2, 6)
    assert Range(1, 2).times(Range(3, 4)) == Range(3, 8)
    assert total([Range(1, 2), Range.exactly(5)]) == Range(6, 7)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (show_count(Range.exactly(15_011)), "15,011"),
        (show_count(Range(1_200, 1_300)), "1,200 to 1,300"),
        (show_share(Range(0.071, 0.209)), "7.1 to 20.9 %"),
        (show_factor(Range.exactly(0.24)), "0.24"),
        (show_bytes(Range.exactly(16 * 2**30)), "16.00 GiB"),
        (show_bytes(Range(2**20, 3 * 2**20)), "1.00 to 3.00 MiB"),
        (show_seconds(Range.exactly(0)), "0 s"),
        (show_seconds(Range.exactly(99)), "99 s"),
        (show_seconds(Range(763, 3_047)), "13 to 51 min"),
        (show_seconds(Range(3_600, 4.5 * 3_600)), "1 to 4.5 h"),
        (show_usd(Range(4.6, 1_018.2)), "$4.60 to $1,018.20"),
    ],
)
def test_people_read_numbers_in_units_of_their_size(shown: str, text: str) -> None:
    assert shown == text
