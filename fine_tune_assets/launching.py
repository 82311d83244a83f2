"""One step as one child process of the asset's process, its progress and its error in Dagster's event log."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dagster import (
    AssetExecutionContext,
    Failure,
    PipesEnvContextInjector,
    PipesTempFileMessageReader,
    open_pipes_session,
)
from dagster._core.errors import DagsterUserCodeProcessError
from dagster_shared.error import SerializableErrorInfo
from dagster_shared.utils.warnings import PreviewWarning

from fine_tune_assets.resources import FineTuning
from neuron_ops.artifacts import Artifact
from neuron_ops.errors import OpsError
from neuron_ops.launch import command, execute
from neuron_ops.run import Run
from neuron_ops.steps import Step


class StepFailure(Failure, DagsterUserCodeProcessError):
    """A failure whose one sentence is all there is to know: Dagster shows it without a stack of its own frames.

    Failure brings the retry decision; the second base is how Dagster lets an exception bring its own error record.
    """

    def __init__(self, message: str, retry: bool) -> None:
        Failure.__init__(self, message, allow_retries=retry)
        self.user_code_process_error_infos = [SerializableErrorInfo(message, [], type(self).__name__)]

    def __str__(self) -> str:
        return str(self.description)


def ensure(context: AssetExecutionContext, step: Step, fine_tuning: FineTuning) -> tuple[Artifact, bool]:
    """The step's finished artifact, and whether it was there already. A hit starts no process.

    Raises:
        StepFailure: in one sentence; retried only where another try can help.
    """
    with _as_failures():
        run = fine_tuning.run(context.partition_key if step.partitioned else None)
        # Cheap checks first: torchrun would turn whatever a rank finds into exit code 1.
        address = run.require_before(step.artifact).address
        found = run.find(step.artifact)
        if found is not None:
            found.check_sizes()
            run.store.sweep(found)
            context.log.info(f"{address} is finished already: reused")
            return found, True
    _launch(context, step, run)
    with _as_failures():
        return run.store.require(address), False


def _launch(context: AssetExecutionContext, step: Step, run: Run) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="fine-tune-") as scratch,
        _without_preview_warning(),
        open_pipes_session(context, PipesEnvContextInjector(), PipesTempFileMessageReader()) as session,
    ):
        recipe_file = Path(scratch, "recipe.json")
        recipe_file.write_text(run.recipe.to_json())
        with _as_failures():
            argv = command(step, run.recipe, recipe_file, run.store.url, run.raw.url, run.dataset_version)
        status = execute(argv, session.get_bootstrap_env_vars())
    if status != 0:
        raise _failure(step, status, session.get_custom_messages())


def _failure(step: Step, status: int, messages: object) -> StepFailure:
    for message in messages if isinstance(messages, list | tuple) else ():
        if isinstance(message, dict) and "error" in message:
            return StepFailure(message["error"]["message"], message["error"]["retry"])
    how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
    hint = " (out of memory is the usual reason for signal 9)" if status == -9 else ""
    return StepFailure(f"{step.verb} {how}{hint}. Its output is in this step's stderr.", retry=True)


@contextmanager
def _without_preview_warning() -> Iterator[None]:
    # Dagster warns about a preview feature of its own that no argument here asks for.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreviewWarning)
        yield


@contextmanager
def _as_failures() -> Iterator[None]:
    try:
        yield
    except OpsError as error:
        raise StepFailure(str(error), error.retry) from None
