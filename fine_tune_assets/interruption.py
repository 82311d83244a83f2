"""What an interrupt of a step means: a person's cancel, or a pod whose node is taken away.

Both arrive as SIGTERM. The run's status tells them apart, because Dagster records a cancel before it ends anything.
"""

import os
import sys

from dagster import AssetExecutionContext, DagsterExecutionInterruptedError, DagsterRunStatus
from dagster._core.errors import DagsterUserCodeProcessError
from dagster_shared.error import SerializableErrorInfo

from fine_tune_assets.settings import Deployment

TERMINATED = 128 + 15


class Cancelled(DagsterUserCodeProcessError, DagsterExecutionInterruptedError):
    """An interrupt that ends the run.

    Dagster applies the retry policy to interrupts too, so Ctrl-C would start the step again. It does not retry errors
    of the first base, and shows them without a stack; because of the second base the run still counts as interrupted.
    """

    def __init__(self, message: str) -> None:
        record = SerializableErrorInfo(message, [], type(self).__name__)
        # Dagster leaves this constructor untyped.
        super().__init__(message, user_code_process_error_infos=[record])  # type: ignore[no-untyped-call]


def interrupted(context: AssetExecutionContext, deployment: Deployment) -> Cancelled:
    """The error to raise once the step's processes have ended; a pod that will start again exits here instead."""
    if deployment == "kubernetes" and not _is_over(context):
        context.log.warning(
            "This pod was told to end and nobody cancelled the run: its node is taken away. Kubernetes starts the step "
            "again on another one; training resumes from its last checkpoint."
        )
        _leave()
    return Cancelled(
        "The run was interrupted and the step's processes have ended. Materialize again to go on: what is finished "
        "is reused, and training resumes from its last checkpoint."
    )


def _is_over(context: AssetExecutionContext) -> bool:
    run = context.instance.get_run_by_id(context.run.run_id)
    return run is None or run.is_finished or run.status == DagsterRunStatus.CANCELING


def _leave() -> None:
    # Dagster would report any exception as a failure of the step, and the step has not failed.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(TERMINATED)
