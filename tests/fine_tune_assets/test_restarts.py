"""How often a step on several nodes starts again, and what it says in between: machines that go are not failures."""

from collections.abc import Callable

import pytest

from fine_tune_assets.launching import Bound, with_restarts
from neuron_ops.ending import Ending
from neuron_ops.errors import InvalidInput, Unavailable

CRASHED, FINISHED = Ending(1), Ending(0)
DIVERGED = Ending(2, InvalidInput("the loss is nan"))
RECLAIMED = Ending(1, reason="its node was reclaimed", disrupted=True)
UNREACHABLE = Ending(5, Unavailable("the store did not answer"))


def attempts(*endings: Ending) -> Callable[[int], Ending]:
    """The first attempt ends with the first of these, and so on."""
    return lambda number: endings[number]


@pytest.mark.parametrize(
    ("endings", "last", "said"),
    [
        ([FINISHED], FINISHED, []),
        ([CRASHED, FINISHED], FINISHED, [CRASHED]),
        ([CRASHED, UNREACHABLE, FINISHED], FINISHED, [CRASHED, UNREACHABLE]),
        ([CRASHED, CRASHED, UNREACHABLE], UNREACHABLE, [CRASHED, CRASHED]),
        ([DIVERGED], DIVERGED, []),
        ([CRASHED, DIVERGED], DIVERGED, [CRASHED]),
        ([CRASHED, RECLAIMED, CRASHED, RECLAIMED, FINISHED], FINISHED, [CRASHED, RECLAIMED, CRASHED, RECLAIMED]),
        ([RECLAIMED, RECLAIMED, RECLAIMED, RECLAIMED], RECLAIMED, [RECLAIMED] * 3),
    ],
)
def test_it_starts_again_while_that_may_help_and_within_its_bound(
    endings: list[Ending], last: Ending, said: list[Ending]
) -> None:
    told: list[Ending] = []

    assert with_restarts(attempts(*endings), Bound(restarts=2, disruptions=3), told.append) is last
    assert told == said


def test_without_restarts_it_starts_once() -> None:
    assert with_restarts(attempts(CRASHED), Bound(), lambda ending: None) is CRASHED
