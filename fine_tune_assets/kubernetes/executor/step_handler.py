"""Dagster's Kubernetes step handler, which takes each step's pod from the recipe and reports what happens to it.

dagster_k8s builds the Job itself. Watching it belongs to diagnosis/observer.py, the pod's configuration to
pods/config.py.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from dagster import DagsterEvent
from dagster._core.events import EngineEventData
from dagster._core.execution.plan.objects import StepFailureData
from dagster._core.executor.step_delegating import CheckStepHealthResult, StepHandlerContext
from dagster._core.system_config.objects import ResolvedRunConfig
from dagster_k8s.client import DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.executor import K8sStepHandler
from dagster_k8s.job import UserDefinedDagsterK8sConfig, get_user_defined_k8s_config
from dagster_shared.error import SerializableErrorInfo

from fine_tune_assets.kubernetes.api.client import Client
from fine_tune_assets.kubernetes.api.errors import refusal
from fine_tune_assets.kubernetes.api.labels import COMPONENT_LABEL, RUN_LABEL
from fine_tune_assets.kubernetes.deployment import check_store
from fine_tune_assets.kubernetes.diagnosis.observer import Observer
from fine_tune_assets.kubernetes.diagnosis.watch import Limits
from fine_tune_assets.kubernetes.pods.config import pod_config, refuse_accelerator
from fine_tune_assets.kubernetes.pods.settings import Pods
from fine_tune_assets.preflight import require_go
from fine_tune_assets.resources import FineTuning
from neuron_ops.errors import MissingArtifact, OpsError
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import BY_ARTIFACT, Step

if TYPE_CHECKING:
    from dagster_k8s import K8sRunLauncher


class PodStepHandler(K8sStepHandler):
    """Creates and watches one Job for each try of a step."""

    def __init__(self, pods: Pods, limits: Limits, resumes: bool, **stock: Any) -> None:
        # Any: the arguments of dagster_k8s's own handler
        super().__init__(**stock)
        self._resumes = resumes
        self._pods = pods
        self._limits = limits
        self._observers: dict[str, Observer] = {}
        self._refusals: dict[str, OpsError] = {}
        self._failed: set[str] = set()
        self._run_pod: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """The handler's name in Dagster's event log."""
        return "PodStepHandler"

    def observer(self, context: StepHandlerContext) -> Observer:
        """The observer of the context's run; a handler serves one run only."""
        run_id = context.dagster_run.run_id
        if run_id not in self._observers:
            # The connection of the stock handler, which knows how this instance reaches its cluster.
            client = Client(self._api_client.core_api.api_client, str(self._run_context(context).namespace))
            self._observers[run_id] = Observer(client, run_id, self._limits)
        return self._observers[run_id]

    def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
        """Create the step's Job. A refusal fails this step only; the others go on."""
        job = self._get_k8s_step_job_name(step_handler_context)
        try:
            yield from self._create(step_handler_context, job)
        except OpsError as error:
            self._refusals[job] = error  # the next health check reports it
        self.observer(step_handler_context).launched(job)

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        """Act on the verdict about a step. Dagster retries a step that is reported as unhealthy, if a retry is left."""
        job = self._get_k8s_step_job_name(step_handler_context)
        if job in self._failed:
            return CheckStepHealthResult.healthy()
        if (refused := self._refusals.pop(job, None)) is not None:
            return self._fail(step_handler_context, job, str(refused), refused.retry)
        observer = self.observer(step_handler_context)
        verdict = observer.verdict(job)
        if verdict.message:
            self._log_event(step_handler_context, verdict.message)
        if verdict.failure is None:
            return CheckStepHealthResult.healthy()
        return self._fail(step_handler_context, job, observer.conclude(job, verdict), verdict.retry)

    def terminate_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
        """Delete the step's Job with its pods."""
        job = self._get_k8s_step_job_name(step_handler_context)
        self._log_event(step_handler_context, f"Deleting Kubernetes job {job}.")
        self.observer(step_handler_context).client.delete("Job", job)
        yield from ()

    def delete_unfinished(self) -> list[str]:
        """Delete every Job of the run that may still run a pod, and return their names."""
        return [name for observer in self._observers.values() for name in observer.delete_unfinished()]

    def _create(self, context: StepHandlerContext, job: str) -> Iterator[DagsterEvent]:
        observer = self.observer(context)
        if self._enable_owner_references and self._run_pod is None:
            self._run_pod = _run_pod(observer.client, context.dagster_run.run_id)
        try:
            yield from super().launch_step(context)
        except (DagsterK8sUnrecoverableAPIError, DagsterK8sAPIRetryLimitExceeded) as error:
            cause = error.k8s_api_exception
            if getattr(cause, "status", None) != 409:
                raise refusal(cause, f"create Job {job} in namespace {observer.client.namespace}") from error
            # A resumed run launches its steps again, and a Job may exist already. One that may still run is kept.
            if not observer.has_unfinished(job):
                observer.client.delete("Job", job)
                observer.client.wait_until_gone("Job", job)
                yield from super().launch_step(context)

    def _detect_current_name_and_uid(self) -> tuple[str, str] | None:
        """The pod that owns the Jobs; None for a run that a terminal's process executes."""
        return self._run_pod

    def _get_container_context(self, step_handler_context: StepHandlerContext) -> K8sContainerContext:
        """Merges, general to specific: launcher and code location, executor, the recipe's pod, the op's settings."""
        step = BY_ARTIFACT[self._step(step_handler_context).op_name]
        fine_tuning = _fine_tuning(step_handler_context, step)
        check_store(fine_tuning.store, self._pods)
        lineage = fine_tuning.lineage(step_handler_context.dagster_run.tags.get("dagster/partition"))
        finished = step.needs_accelerator and _is_finished(step, lineage)
        config = pod_config(step, lineage.recipe, self._pods, finished=finished, resumes=self._resumes)
        if step.needs_accelerator and not finished and lineage.dataset_version is not None:
            require_go(lineage)  # the pod would find it too, but only after a node was bought
        context = self._run_context(step_handler_context).merge(_with(config))
        if not finished:  # the op's settings may ask for an accelerator, which reuse does not need
            context = context.merge(self._op_context(step_handler_context, step))
        refuse_accelerator(step, context.run_k8s_config.container_config.get("resources", {}).get("limits", {}))
        return context

    def _run_context(self, context: StepHandlerContext) -> K8sContainerContext:
        launcher = cast("K8sRunLauncher", context.instance.run_launcher)  # check_instance has checked it
        inherited = K8sContainerContext.create_for_run(context.dagster_run, launcher, include_run_tags=False)
        return inherited.merge(self._executor_container_context)

    def _op_context(self, context: StepHandlerContext, step: Step) -> K8sContainerContext:
        tags = get_user_defined_k8s_config(self._step(context).tags)
        return K8sContainerContext(run_k8s_config=tags).merge(_with(self._per_step_k8s_config.get(step.artifact, {})))

    def _fail(self, context: StepHandlerContext, job: str, failure: str, retry: bool) -> CheckStepHealthResult:
        self._failed.add(job)
        if retry:
            return CheckStepHealthResult.unhealthy(failure)
        record = SerializableErrorInfo(failure, [], "PodFailure")
        error = StepFailureData(record, user_failure_data=None)  # type: ignore[no-untyped-call]
        DagsterEvent.step_failure_event(context.get_step_context(self._get_step_key(context)), error)
        return CheckStepHealthResult.healthy()

    def _log_event(self, context: StepHandlerContext, text: str) -> None:
        job = self._get_k8s_step_job_name(context)
        data = EngineEventData(metadata={"Kubernetes Job name": job})
        DagsterEvent.engine_event(context.get_step_context(self._get_step_key(context)), text, data)

    def _step(self, context: StepHandlerContext) -> Any:  # Any: Dagster's ExecutionStep
        return context.get_step_context(self._get_step_key(context)).step


def _fine_tuning(context: StepHandlerContext, step: Step) -> FineTuning:
    """The run's resource as its steps will get it: the run's configuration over the defaults."""
    definition = context.get_step_context(step.artifact).job.get_definition()
    resolved = ResolvedRunConfig.build(definition, context.dagster_run.run_config)
    return FineTuning(**resolved.resources["fine_tuning"].config)


def _is_finished(step: Step, lineage: Lineage) -> bool:
    try:
        lineage.require_inputs(step.artifact)
        return lineage.find(step.artifact) is not None
    except MissingArtifact:
        return False  # the step itself says what to materialize first


def _run_pod(client: Client, run_id: str) -> tuple[str, str] | None:
    pods = client.find_all("Pod", labels=f"{RUN_LABEL}={run_id},{COMPONENT_LABEL}=run_worker")
    running = [pod["metadata"] for pod in pods if pod["status"].get("phase") == "Running"]
    return (running[0]["name"], running[0]["uid"]) if running else None


def _with(config: Mapping[str, Any]) -> K8sContainerContext:
    # Dagster leaves this constructor untyped.
    return K8sContainerContext(run_k8s_config=UserDefinedDagsterK8sConfig.from_dict(config))  # type: ignore[no-untyped-call]
