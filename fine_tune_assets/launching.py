"""Runs one step as a child process of the asset's process, with its progress and its error in Dagster's event log.

Restarts after a failure, and the decision which failure Dagster may retry, belong here. What the processes are belongs
to neuron_ops/launch; pods for several nodes belong to kubernetes/multi_node.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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

from fine_tune_assets.interruption import interrupted
from fine_tune_assets.preflight import show_and_require_go
from fine_tune_assets.resources import FineTuning
from fine_tune_assets.settings import read_settings
from neuron_ops.errors import OpsError
from neuron_ops.launch import process
from neuron_ops.launch.outcome import ExitResult
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.commands import command, environment
from neuron_ops.steps.table import Step
from neuron_ops.store.artifacts import Artifact

if TYPE_CHECKING:
    from fine_tune_assets.kubernetes.pods.settings import Pods


class StepFailure(DagsterUserCodeProcessError, Failure):
    """A failure that one sentence explains completely and that a retry cannot correct.

    The first base lets an exception bring its own error record to Dagster, here without a stack of Dagster's frames. It
    also keeps Dagster from retrying, so a failure that a retry may correct is a plain Failure.
    """

    def __init__(self, message: str) -> None:
        record = SerializableErrorInfo(message, [], type(self).__name__)
        # Dagster leaves this constructor untyped.
        super().__init__(message, user_code_process_error_infos=[record])  # type: ignore[no-untyped-call]
        self.allow_retries = False


def ensure(context: AssetExecutionContext, step: Step, fine_tuning: FineTuning) -> tuple[Artifact, bool]:
    """The step's finished artifact, and whether it was there already. A hit starts no process.

    Raises:
        StepFailure: the step failed and a retry cannot help.
        Failure: the step failed and a retry may help.
        Cancelled: the run was interrupted, and the step's processes have ended.
    """
    with _translated(context, fine_tuning):
        lineage = fine_tuning.lineage(context.partition_key if step.partitioned else None)
        # Cheap checks first: torchrun would turn any error of a rank into exit code 1.
        address = lineage.require_inputs(step.artifact).address
        found = lineage.find(step.artifact)
        if found is not None:
            found.check_sizes()
            lineage.store.sweep(found)
            context.log.info(f"{address} is finished already: reused")
            return found, True
        if step.needs_accelerator:
            show_and_require_go(context, step, lineage)
        _launch(context, step, lineage, fine_tuning.deployment)
        return lineage.store.require(address), False


def _launch(context: AssetExecutionContext, step: Step, lineage: Lineage, deployment: str) -> None:
    nodes = step.nodes(lineage.recipe)
    pods = _pods(context) if deployment == "kubernetes" and nodes > 1 else None
    limits = RestartLimits(
        restarts=lineage.recipe.hardware.max_restarts if nodes > 1 else 0,
        disruptions=pods.max_disruptions if pods else 0,
    )

    def attempt(number: int) -> ExitResult:
        if pods is not None:
            return _in_pods(context, step, lineage, pods, number)
        return _in_processes(context, step, lineage)

    def warn(result: ExitResult) -> None:
        context.log.warning(f"{_how(step, result)}. All nodes start again, from the last checkpoint if there is one.")

    result = with_restarts(attempt, limits, warn)
    if result.status != 0:
        raise _failure(step, result, limits if nodes > 1 else None)


@dataclass(frozen=True, slots=True)
class RestartLimits:
    """How often a step on several nodes may start again."""

    restarts: int = 0
    """After failures: hardware.max_restarts."""
    disruptions: int = 0
    """After a machine was taken away: max_disruptions, which also limits the pod of any other step."""


def with_restarts(
    attempt: Callable[[int], ExitResult], limits: RestartLimits, on_restart: Callable[[ExitResult], None]
) -> ExitResult:
    """Run a step on several nodes, which fails as a whole; a restarted training resumes from its last checkpoint."""
    failures = disruptions = 0
    while True:
        result = attempt(failures + disruptions)
        if result.disrupted:
            disruptions += 1
        else:
            failures += 1
        if result.final or failures > limits.restarts or disruptions > limits.disruptions:
            return result
        on_restart(result)


def _in_processes(context: AssetExecutionContext, step: Step, lineage: Lineage) -> ExitResult:
    """Run the step on this machine, with progress in Dagster's event log."""
    with (
        tempfile.TemporaryDirectory(prefix="fine-tune-") as scratch,
        _without_preview_warning(),
        open_pipes_session(context, PipesEnvContextInjector(), PipesTempFileMessageReader()) as session,
    ):
        recipe_file = Path(scratch, "recipe.json")
        recipe_file.write_text(lineage.recipe.to_json())
        argv = command(step, lineage.recipe, recipe_file, lineage.store.url, lineage.raw.url, lineage.dataset_version)
        return process.run(argv, {**environment(step, lineage.recipe), **session.get_bootstrap_env_vars()})


def _in_pods(context: AssetExecutionContext, step: Step, lineage: Lineage, pods: "Pods", attempt: int) -> ExitResult:
    """Run the step in one pod for each node; this process only waits, so its pod needs no accelerator."""
    from fine_tune_assets.kubernetes.multi_node.own_pod import make_pod_training  # the Kubernetes client: 300 CPU ms

    name = f"{context.run.run_id[:8]}-{context.op_execution_context.retry_number}-{attempt}"
    return make_pod_training(step, lineage, pods, name, context.log.info).run()


def _pods(context: AssetExecutionContext) -> "Pods":
    """The team's pod settings, with the limits that this run's configuration changes."""
    from fine_tune_assets.kubernetes.pods.settings import load_pods, pods_of_run  # not for the local deployment

    return pods_of_run(load_pods(read_settings().pods), context.run.run_config)


def _failure(step: Step, result: ExitResult, limits: RestartLimits | None) -> Failure:
    if result.error is not None and result.final:
        return StepFailure(str(result.error))
    if limits is not None:
        # These are the limits; Dagster's retries would multiply them.
        times = (
            f"after {limits.disruptions} disruptions (max_disruptions)"
            if result.disrupted
            else f"after {limits.restarts} restarts (hardware.max_restarts)"
        )
        return StepFailure(f"{_how(step, result)}, {times}.")
    return Failure(str(result.error) if result.error else f"{_how(step, result)}. Its output is in this step's stderr.")


def _how(step: Step, result: ExitResult) -> str:
    if result.error is not None or result.reason:
        return f"{step.verb} failed: {str(result.error or result.reason).rstrip('.')}"
    if result.status < 0:
        hint = " (out of memory is the usual reason for signal 9)" if result.status == -9 else ""
        return f"{step.verb} was killed by signal {-result.status}{hint}"
    if result.status > 128:  # how a shell and neuron_ops.launch.torchrun report a signal
        return f"{step.verb} ended because one of its processes was killed by signal {result.status - 128}"
    return f"{step.verb} ended with exit status {result.status}"


def _final_or_not(message: str, retry: bool) -> Failure:
    return Failure(message) if retry else StepFailure(message)


@contextmanager
def _without_preview_warning() -> Iterator[None]:
    # Dagster warns about its own preview feature, which no argument here requests.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreviewWarning)
        yield


@contextmanager
def _translated(context: AssetExecutionContext, fine_tuning: FineTuning) -> Iterator[None]:
    """Turn our errors and Dagster's interrupt into exceptions that tell Dagster whether to retry."""
    try:
        yield
    except OpsError as error:
        raise _final_or_not(str(error), error.retry) from None
    except DagsterExecutionInterruptedError:
        raise interrupted(context, fine_tuning.deployment) from None
