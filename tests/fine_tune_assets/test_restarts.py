"""How often a step on several nodes starts again, and what it says in between: machines that go are not failures."""

from collections.abc import Callable

import pytest

from fine_tune_assets.launching import RestartLimits, with_restarts
from neuron_ops.errors import InvalidInput, Unavailable
from neuron_ops.launch.outcome import ExitResult

CRASHED, FINISHED = ExitResult(1), ExitResult(0)
DIVERGED = ExitResult(2, InvalidInput("the loss is nan"))
RECLAIMED = ExitResult(1, reason="its node was reclaimed", disrupted=True)
UNREACHABLE = ExitResult(5, Unavailable("the store did not answer"))


def attempts(*endings: ExitResult) -> Callable[[int], ExitResult]:
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
    endings: list[ExitResult], last: ExitResult, said: list[ExitResult]
) -> None:
    told: list[ExitResult] = []

    assert with_restarts(attempts(*endings), RestartLimits(restarts=2, disruptions=3), told.append) is last
    assert told == said


def test_without_restarts_it_starts_once() -> None:
    assert with_restarts(attempts(CRASHED), RestartLimits(), lambda result: None) is CRASHED
