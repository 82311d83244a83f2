"""Dagster's step-delegating executor, with a cancel that means cancel."""

from collections.abc import Iterator

from dagster import DagsterEvent, DagsterRunStatus
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.executor.step_delegating import StepDelegatingExecutor

from fine_tune_assets.kubernetes.step_handler import PodStepHandler


class RunExecutor(StepDelegatingExecutor):
    """Leaves no pod behind when the run will not go on.

    Where run monitoring may resume a run, Dagster forwards no termination to the steps at all: it does not tell a
    person's cancel from a run pod that is moved. The run's status does.
    """

    def __init__(self, step_handler: PodStepHandler, **stock: object) -> None:
        super().__init__(step_handler, **stock)  # type: ignore[arg-type]
        self._pods = step_handler

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        """Run the plan; then, unless the run goes on elsewhere, see that nothing of it is left."""
        try:
            yield from super().execute(plan_context, execution_plan)
        finally:
            run = plan_context.instance.get_run_by_id(plan_context.run_id)
            if run is None or run.is_finished or run.status == DagsterRunStatus.CANCELING:
                self._pods.delete_unfinished()
