"""How often a training on several nodes starts again, and what it says in between."""

from collections.abc import Callable

import pytest

from fine_tune_assets.launching import with_restarts
from neuron_ops.ending import Ending
from neuron_ops.errors import InvalidInput, Unavailable

CRASHED, FINISHED = Ending(1), Ending(0)
DIVERGED = Ending(2, InvalidInput("the loss is nan"))
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
    ],
)
def test_it_starts_again_while_that_may_help_and_within_its_bound(
    endings: list[Ending], last: Ending, said: list[Ending]
) -> None:
    told: list[Ending] = []

    assert with_restarts(attempts(*endings), restarts=2, say=told.append) is last
    assert told == said


def test_without_restarts_it_starts_once() -> None:
    assert with_restarts(attempts(CRASHED), restarts=0, say=lambda ending: None) is CRASHED
