"""One step as one child process of the asset's process, its progress and its error in Dagster's event log."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dagster import (
    AssetExecutionContext,
    DagsterExecutionInterruptedError,
    Failure,
    PipesEnvContextInjector,
    PipesTempFileMessageReader,
    open_pipes_session,
)
from dagster._core.errors import DagsterUserCodeProcessError
from dagster_shared.error import SerializableErrorInfo
from dagster_shared.utils.warnings import PreviewWarning

from fine_tune_assets.go_or_no_go import stop_unless_go
from fine_tune_assets.interruption import interrupted
from fine_tune_assets.resources import FineTuning
from fine_tune_assets.settings import read_settings
from neuron_ops import launch
from neuron_ops.artifacts import Artifact
from neuron_ops.ending import Ending
from neuron_ops.errors import OpsError
from neuron_ops.launch import command, environment
from neuron_ops.run import Run
from neuron_ops.steps import Step


class StepFailure(DagsterUserCodeProcessError, Failure):
    """A failure whose one sentence is all there is to know, and that no other try can mend.

    The first base is how Dagster lets an exception bring its own error record, here without a stack of Dagster's
    frames. It also keeps Dagster from retrying, so what another try may mend is a plain Failure.
    """

    def __init__(self, message: str) -> None:
        record = SerializableErrorInfo(message, [], type(self).__name__)
        # Dagster leaves this constructor untyped.
        super().__init__(message, user_code_process_error_infos=[record])  # type: ignore[no-untyped-call]
        self.allow_retries = False


def ensure(context: AssetExecutionContext, step: Step, fine_tuning: FineTuning) -> tuple[Artifact, bool]:
    """The step's finished artifact, and whether it was there already. A hit starts no process.

    Raises:
        StepFailure: in one sentence, where another try cannot help; Failure where it can.
        Cancelled: the run was interrupted, and the step's processes have ended.
    """
    with _translated(context, fine_tuning):
        run = fine_tuning.run(context.partition_key if step.partitioned else None)
        # Cheap checks first: torchrun would turn whatever a rank finds into exit code 1.
        address = run.require_before(step.artifact).address
        found = run.find(step.artifact)
        if found is not None:
            found.check_sizes()
            run.store.sweep(found)
            context.log.info(f"{address} is finished already: reused")
            return found, True
        if step.needs_accelerator:
            stop_unless_go(context, step, run)
        _launch(context, step, run, fine_tuning.deployment)
        return run.store.require(address), False


def _launch(context: AssetExecutionContext, step: Step, run: Run, deployment: str) -> None:
    nodes = step.nodes(run.recipe)
    in_pods = deployment == "kubernetes" and nodes > 1
    bound = Bound(
        restarts=run.recipe.hardware.max_restarts if nodes > 1 else 0,
        disruptions=_pods_may_be_taken_away() if in_pods else 0,
    )

    def attempt(number: int) -> Ending:
        if in_pods:
            return _in_pods(context, step, run, number)
        return _in_processes(context, step, run)

    def say(ending: Ending) -> None:
        context.log.warning(f"{_how(step, ending)}. All nodes start again, from the last checkpoint if there is one.")

    ending = with_restarts(attempt, bound, say)
    if ending.status != 0:
        raise _failure(step, ending, bound if nodes > 1 else None)


@dataclass(frozen=True, slots=True)
class Bound:
    """How often a step on several nodes starts again."""

    restarts: int = 0
    """Because something failed: hardware.max_restarts."""
    disruptions: int = 0
    """Because a machine was taken away, as max_disruptions allows for the pod of any step."""


def with_restarts(attempt: Callable[[int], Ending], bound: Bound, say: Callable[[Ending], None]) -> Ending:
    """A step on several nodes, which fails as a whole; each restart of a training goes on from its last checkpoint."""
    failures = disruptions = 0
    while True:
        ending = attempt(failures + disruptions)
        if ending.disrupted:
            disruptions += 1
        else:
            failures += 1
        if ending.final or failures > bound.restarts or disruptions > bound.disruptions:
            return ending
        say(ending)


def _in_processes(context: AssetExecutionContext, step: Step, run: Run) -> Ending:
    """On this machine, with progress in Dagster's event log."""
    with (
        tempfile.TemporaryDirectory(prefix="fine-tune-") as scratch,
        _without_preview_warning(),
        open_pipes_session(context, PipesEnvContextInjector(), PipesTempFileMessageReader()) as session,
    ):
        recipe_file = Path(scratch, "recipe.json")
        recipe_file.write_text(run.recipe.to_json())
        argv = command(step, run.recipe, recipe_file, run.store.url, run.raw.url, run.dataset_version)
        return launch.run(argv, {**environment(step, run.recipe), **session.get_bootstrap_env_vars()})


def _in_pods(context: AssetExecutionContext, step: Step, run: Run, attempt: int) -> Ending:
    """In pods of their own, one for each node; this process only waits, so its pod needs no accelerator."""
    from fine_tune_assets.kubernetes.multi_node import open_training  # imports the Kubernetes client

    name = f"{context.run.run_id[:8]}-{context.op_execution_context.retry_number}-{attempt}"
    return open_training(step, run, name, context.log.info).run()


def _pods_may_be_taken_away() -> int:
    from fine_tune_assets.kubernetes.pods import load_pods  # a laptop has none

    return load_pods(read_settings().pods).max_disruptions


def _failure(step: Step, ending: Ending, bound: Bound | None) -> Failure:
    if ending.error is not None and ending.final:
        return StepFailure(str(ending.error))
    if bound is not None:
        # They are the bound; Dagster's retries would multiply them.
        times = (
            f"{bound.disruptions} times before (max_disruptions)"
            if ending.disrupted
            else f"after {bound.restarts} restarts (hardware.max_restarts)"
        )
        return StepFailure(f"{_how(step, ending)}, {times}.")
    return Failure(str(ending.error) if ending.error else f"{_how(step, ending)}. Its output is in this step's stderr.")


def _how(step: Step, ending: Ending) -> str:
    if ending.error is not None or ending.reason:
        return f"{step.verb} failed: {str(ending.error or ending.reason).rstrip('.')}"
    if ending.status < 0:
        hint = " (out of memory is the usual reason for signal 9)" if ending.status == -9 else ""
        return f"{step.verb} was killed by signal {-ending.status}{hint}"
    if ending.status > 128:  # a shell's way to say it, and that of neuron_ops.nodes
        return f"{step.verb} ended because one of its processes was killed by signal {ending.status - 128}"
    return f"{step.verb} ended with exit status {ending.status}"


def _final_or_not(message: str, retry: bool) -> Failure:
    return Failure(message) if retry else StepFailure(message)


@contextmanager
def _without_preview_warning() -> Iterator[None]:
    # Dagster warns about a preview feature of its own that no argument here asks for.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreviewWarning)
        yield


@contextmanager
def _translated(context: AssetExecutionContext, fine_tuning: FineTuning) -> Iterator[None]:
    """Our errors and Dagster's interrupt as what Dagster should make of them."""
    try:
        yield
    except OpsError as error:
        raise _final_or_not(str(error), error.retry) from None
    except DagsterExecutionInterruptedError:
        raise interrupted(context, fine_tuning.deployment) from None
