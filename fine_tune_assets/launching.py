"""One step as one child process of the asset's process, its progress and its error in Dagster's event log."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
from neuron_ops.artifacts import Artifact
from neuron_ops.errors import OpsError
from neuron_ops.launch import command, environment, execute
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
        _launch(context, step, run)
        return run.store.require(address), False


def _launch(context: AssetExecutionContext, step: Step, run: Run) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="fine-tune-") as scratch,
        _without_preview_warning(),
        open_pipes_session(context, PipesEnvContextInjector(), PipesTempFileMessageReader()) as session,
    ):
        recipe_file = Path(scratch, "recipe.json")
        recipe_file.write_text(run.recipe.to_json())
        argv = command(step, run.recipe, recipe_file, run.store.url, run.raw.url, run.dataset_version)
        status = execute(argv, {**environment(step), **session.get_bootstrap_env_vars()})
    if status != 0:
        raise _failure(step, status, session.get_custom_messages())


def _failure(step: Step, status: int, messages: object) -> Failure:
    for message in messages if isinstance(messages, list | tuple) else ():
        if isinstance(message, dict) and "error" in message:
            return _final_or_not(message["error"]["message"], message["error"]["retry"])
    how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
    hint = " (out of memory is the usual reason for signal 9)" if status == -9 else ""
    return Failure(f"{step.verb} {how}{hint}. Its output is in this step's stderr.")


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
