"""What is installed, put together: an overlay as it is applied, and the chart as the guide installs it there."""

from dataclasses import dataclass
from typing import Any

from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import DagsterK8sJobConfig, UserDefinedDagsterK8sConfig, construct_dagster_k8s_job
from kubernetes.client import ApiClient, Configuration

from fine_tune_assets.kubernetes.multi_node.manifests import Training, manifests
from fine_tune_assets.kubernetes.pods.config import pod_config
from fine_tune_assets.kubernetes.pods.settings import Pods, load_pods
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps.table import BY_ARTIFACT, Step
from tests.deployments.conftest import Objects, find
from tests.deployments.helm_values import merged_values, run_launcher

FSX = ("--values", "fsx.yaml")
TRAIN = BY_ARTIFACT["lora_checkpoints"]


@dataclass(frozen=True)
class Installed:
    """An overlay, as it is applied, and the chart as the guide installs it there."""

    name: str
    objects: Objects

    @property
    def settings(self) -> dict[str, str]:
        """The environment of every pod."""
        return dict(find(self.objects, "ConfigMap", "fine-tune-settings")["data"])

    @property
    def pods(self) -> Pods:
        return load_pods(self.settings["FINE_TUNE_PODS"])

    @property
    def recipe(self) -> Recipe:
        return load_recipe(self.settings["FINE_TUNE_RECIPE"])

    @property
    def values(self) -> dict[str, Any]:
        return merged_values(*(FSX if self.settings["FINE_TUNE_STORE"].startswith("/fsx/") else ()))

    def job(self, step: Step, **hardware: Any) -> dict[str, Any]:
        """The Job of a step, merged from everything as the step handler merges it."""
        changed = self.recipe.hardware.model_copy(update=hardware)
        recipe = self.recipe.model_copy(update={"hardware": changed})
        resumes = self.values["dagsterDaemon"]["runMonitoring"]["maxResumeRunAttempts"] > 0
        return self._job("step_worker", pod_config(step, recipe, self.pods, resumes=resumes))

    def run_job(self) -> dict[str, Any]:
        """The Job of a run."""
        return self._job("run_worker", {})

    def _job(self, component: str, config: dict[str, Any]) -> dict[str, Any]:
        launcher = run_launcher(self.values)
        location = self.values["dagster-user-deployments"]["deployments"][0]
        of_runs, own = (
            UserDefinedDagsterK8sConfig.from_dict(given)  # type: ignore[no-untyped-call]  # dagster gives it no types
            for given in (launcher["run_k8s_config"], config)
        )
        context = (
            K8sContainerContext(
                service_account_name=launcher["service_account_name"],
                volumes=launcher.get("volumes", []),
                volume_mounts=launcher.get("volume_mounts", []),
                run_k8s_config=of_runs,
            )
            .merge(K8sContainerContext(env_config_maps=[item["name"] for item in location["envConfigMaps"]]))
            .merge(K8sContainerContext(run_k8s_config=own))
        )
        names = ("dagster_home", "instance_config_map", "postgres_password_secret")
        made = construct_dagster_k8s_job(
            DagsterK8sJobConfig(job_image=_image(location["image"]), **{name: launcher[name] for name in names}),
            args=["dagster", "api"],
            job_name="a-job",
            user_defined_k8s_config=context.run_k8s_config,
            component=component,
            labels={"dagster/run-id": "1"},
        )
        return dict(ApiClient(Configuration()).sanitize_for_serialization(made))


def _image(image: dict[str, str]) -> str:
    return f"{image['repository']}:{image['tag']}"


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    """The pod of a Job."""
    return dict(job["spec"]["template"]["spec"])


def nodes_of(installed: Installed, **hardware: Any) -> list[dict[str, Any]]:
    """What the training step makes for two nodes, from its own pod as the cluster shows it."""
    job = installed.job(TRAIN, nodes=2, **hardware)
    launcher = {
        "metadata": {"name": "step", "namespace": "fine-tune", "uid": "1", **job["spec"]["template"]["metadata"]},
        "spec": pod_of(job),
    }
    launcher["metadata"]["name"] = "step"
    changed = installed.recipe.hardware.model_copy(update={"nodes": 2, **hardware})
    return manifests(Training("training-1", changed, ("train",), launcher))
