"""The checks of an artifact: declared once, with the step that makes it, and decided from the step's findings.

A check whose verdict follows from the step's metrics declares how (`from_metrics`), so it is also decided for artifacts
that were made before the check existed. The list of checks of each step belongs to the table.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from neuron_ops.store.manifest import CheckRecord, Manifest, Scalar

Metrics = Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an artifact has the property, with a sentence and numbers for people."""

    passed: bool
    description: str
    values: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """A property that a step establishes of its artifact."""

    name: str
    description: str
    """What is true when it passes."""
    blocking: bool = True
    """Whether failing stops everything that would be built on the artifact."""
    from_metrics: Callable[[Metrics], Verdict] | None = None
    """How the step's metrics decide it; None if only the running step can decide it."""

    def record(self, verdict: Verdict) -> CheckRecord:
        """The verdict as a manifest keeps it."""
        return CheckRecord(
            name=self.name,
            passed=verdict.passed,
            description=verdict.description,
            blocking=self.blocking,
            values=dict(verdict.values),
        )


@dataclass(frozen=True, slots=True)
class NotEvaluated:
    """A declared check on which an older artifact has no verdict."""

    check: Check
    reason: str


def decide(checks: tuple[Check, ...], metrics: Metrics, verdicts: Mapping[str, Verdict]) -> tuple[CheckRecord, ...]:
    """The records of a step that just ran: its own verdicts, or what its metrics decide.

    Raises:
        ValueError: a declared check has no verdict, or a verdict has no declared check; this is a defect of the step.
    """
    if unknown := set(verdicts) - {check.name for check in checks}:
        raise ValueError(f"verdicts on checks that the table of steps does not declare: {sorted(unknown)}")
    return tuple(check.record(verdicts.get(check.name) or _from_metrics(check, metrics)) for check in checks)


def look_up(checks: tuple[Check, ...], manifest: Manifest) -> Iterator[CheckRecord | NotEvaluated]:
    """What a finished artifact says about each declared check; a check that is no longer declared is left out."""
    kept = {record.name: record for record in manifest.checks}
    for check in checks:
        if check.name in kept:
            yield kept[check.name].model_copy(update={"blocking": check.blocking})
            continue
        try:
            yield check.record(_from_metrics(check, manifest.metrics))
        except (KeyError, ValueError) as error:
            yield NotEvaluated(check, _why_not(error))


def _from_metrics(check: Check, metrics: Metrics) -> Verdict:
    if check.from_metrics is None:
        raise ValueError(f"only the step itself can decide {check.name}")
    return check.from_metrics(metrics)


def _why_not(error: Exception) -> str:
    lacks = f"it has no metric {error}" if isinstance(error, KeyError) else str(error)
    return (
        f"not evaluated: the artifact was finished before this check existed, and {lacks}. To have it evaluated, "
        "remove the artifact and materialize it again."
    )
