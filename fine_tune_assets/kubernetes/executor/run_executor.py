"""Dagster's step-delegating executor, which deletes all pods on a cancel and does not count an interrupt as a failure.

One step's pod belongs to step_handler, the configuration to definition.
"""

from collections.abc import Iterator

from dagster import DagsterEvent, DagsterInstance, DagsterRunStatus
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.objects import ErrorSource
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.executor.step_delegating import StepDelegatingExecutor

from fine_tune_assets.kubernetes.executor.step_handler import PodStepHandler


class RunExecutor(StepDelegatingExecutor):
    """Deletes a run's pods when the run will not continue, and asks Kubernetes what happened to an interrupted pod.

    Where run monitoring may resume a run, Dagster does not forward a termination to the steps, because it does not
    distinguish a person's cancel from a run pod that is moved. The run's status distinguishes them.
    """

    def __init__(self, step_handler: PodStepHandler, **stock: object) -> None:
        super().__init__(step_handler, **stock)  # type: ignore[arg-type]
        self._pods = step_handler

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        """Run the plan; then delete what is left of it, unless the run continues elsewhere."""
        try:
            yield from super().execute(plan_context, execution_plan)
        finally:
            run = plan_context.instance.get_run_by_id(plan_context.run_id)
            if run is None or run.is_finished or run.status == DagsterRunStatus.CANCELING:
                self._pods.delete_unfinished()

    def _pop_events(self, instance: DagsterInstance, run_id: str, seen_storage_ids: set[int]) -> list[DagsterEvent]:
        events = super()._pop_events(instance, run_id, seen_storage_ids)
        return [event for event in events if not _is_interrupt(event)]


def _is_interrupt(event: DagsterEvent) -> bool:
    """Whether the event is a pod's report that it was told to end.

    An interrupt before or after the asset's own code does not reach interruption.py, and Dagster reports it as a
    failure. How the pod ends shows whether it is one: Kubernetes starts a disrupted pod again, and the step handler
    reports any other pod as deleted.
    """
    return event.is_step_failure and event.step_failure_data.error_source == ErrorSource.INTERRUPT
