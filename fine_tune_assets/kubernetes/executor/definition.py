"""The executor of the Kubernetes deployment: dagster_k8s's configuration, and the limits of diagnosis/watch.py.

The definition does not import the Kubernetes client: every step's pod loads it and never uses it.
"""

from typing import TYPE_CHECKING, Any

from dagster import ExecutorDefinition, Field, InitExecutorContext, Permissive
from dagster import executor as executor_definition
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements

from fine_tune_assets.kubernetes.deployment import check_instance
from fine_tune_assets.kubernetes.diagnosis.watch import Limits
from fine_tune_assets.kubernetes.pods.settings import Pods
from neuron_ops.errors import InvalidInput
from neuron_ops.steps.table import BY_ARTIFACT

if TYPE_CHECKING:
    from dagster._core.executor.base import Executor

NAME = "kubernetes"
# Fields that dagster_k8s's executor passes to its pods under the same name.
POD_FIELDS = (
    "image_pull_policy",
    "image_pull_secrets",
    "service_account_name",
    "env_config_maps",
    "env_secrets",
    "env_vars",
    "volume_mounts",
    "volumes",
    "labels",
    "resources",
    "scheduler_name",
    "security_context",
)


def pod_executor(pods: Pods) -> ExecutorDefinition:
    """The executor with a team's settings as its defaults."""
    own = {
        "pending_timeout_seconds": Field(
            int,
            default_value=pods.pending_timeout_seconds,
            description="Seconds after which a step fails if its pod does not run.",
        ),
        "check_interval_seconds": Field(
            int,
            default_value=pods.check_interval_seconds,
            description="Seconds between two checks of the run's pods; each check lists the pods once.",
        ),
        "max_disruptions": Field(
            int,
            default_value=pods.max_disruptions,
            description="How often one try of a step may start again because its node was taken away.",
        ),
    }

    @executor_definition(
        name=NAME,
        # The other fields are checked when a run starts: naming them here would cost each pod dagster_k8s's import.
        config_schema=Permissive(own),  # type: ignore[no-untyped-call]
        requirements=multiple_process_executor_requirements(),
    )
    def kubernetes(init_context: InitExecutorContext) -> "Executor":
        """Runs each asset in its own pod, as the recipe and the team's settings say.

        Takes every field of dagster_k8s's k8s_job_executor besides those shown here.
        """
        config = dict(init_context.executor_config)
        return _build(init_context, pods, {name: config.pop(name) for name in own}, config)

    return kubernetes


def _build(init_context: InitExecutorContext, pods: Pods, own: dict[str, Any], config: dict[str, Any]) -> "Executor":
    # Any: values that Dagster has checked against the schemas
    check_instance(init_context.instance)
    from dagster._core.execution.retries import RetryMode

    # dagster_k8s: 1.1 CPU seconds; only a run's own process calls this
    from fine_tune_assets.kubernetes.executor.run_executor import RunExecutor
    from fine_tune_assets.kubernetes.executor.step_handler import PodStepHandler

    checked, instance = _checked(config), init_context.instance
    handler = PodStepHandler(
        pods,
        Limits(**own),
        _resumes(instance),
        **_stock_arguments(checked, instance.run_launcher, pods.namespace),
        # While a run may be resumed in a new pod, its steps must outlive the old one.
        enable_owner_references=checked["enable_owner_references"] or not _resumes(instance),
    )
    return RunExecutor(
        handler,
        retries=RetryMode.from_config(checked["retries"]),
        check_step_health_interval_seconds=own["check_interval_seconds"],
        max_concurrent=checked.get("max_concurrent"),
        tag_concurrency_limits=checked.get("tag_concurrency_limits"),
        # Kubernetes starts a disrupted pod again, and that one must not find that its step "was already started".
        should_verify_step=False,
    )


def _checked(config: dict[str, Any]) -> dict[str, Any]:
    from dagster._config import process_config
    from dagster_k8s import k8s_job_executor

    result = process_config(k8s_job_executor.config_schema.config_type, config)
    if not result.success:
        raise InvalidInput(
            f"The executor's configuration is wrong: {'; '.join(e.message for e in result.errors or [])}"
        )
    checked = dict(result.value or {})
    if unknown := sorted(set(checked["per_step_k8s_config"]) - set(BY_ARTIFACT)):
        raise InvalidInput(
            f"The executor's per_step_k8s_config names {unknown[0]!r}, which is not an asset. The assets are "
            f"{', '.join(BY_ARTIFACT)}."
        )
    return checked


def _stock_arguments(config: dict[str, Any], launcher: Any, namespace: str | None) -> dict[str, Any]:
    """The arguments of dagster_k8s's handler; how to reach the cluster comes from the run launcher unless given."""
    from dagster_k8s.container_context import K8sContainerContext
    from dagster_k8s.job import UserDefinedDagsterK8sConfig

    raw = UserDefinedDagsterK8sConfig.from_dict(config.get("step_k8s_config", {}))  # type: ignore[no-untyped-call]
    context = K8sContainerContext(
        **{name: config.get(name) for name in POD_FIELDS},
        namespace=config.get("job_namespace") or namespace,
        run_k8s_config=raw,
    )
    return {
        "image": config.get("job_image"),
        "container_context": context,
        "load_incluster_config": config.get("load_incluster_config", launcher.load_incluster_config),
        "kubeconfig_file": config.get("kubeconfig_file", launcher.kubeconfig_file),
        "per_step_k8s_config": config["per_step_k8s_config"],
    }


def _resumes(instance: Any) -> bool:  # Any: Dagster's mixins hide these from the type checker
    return bool(instance.run_monitoring_enabled and instance.run_monitoring_max_resume_run_attempts > 0)
