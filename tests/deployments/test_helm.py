"""The Helm values: what Dagster's chart makes of them is an instance that Dagster accepts, with pods that may run.

The chart itself is in no package registry. Its templates copy these sections into dagster.yaml under snake_case names;
what they copy is checked against Dagster's own configuration here. Against the chart's JSON schema: `helm upgrade`.
"""

import subprocess
import tomllib
from collections.abc import Callable
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.config import dagster_instance_config_schema
from dagster_aws.s3.compute_log_manager import S3ComputeLogManager
from dagster_k8s import K8sRunLauncher
from dagster_k8s.job import DagsterK8sJobConfig, UserDefinedDagsterK8sConfig, construct_dagster_k8s_job
from kubernetes.client import ApiClient

from tests.deployments.conftest import ROOT, Objects, breaks_restricted, find, of_kind
from tests.deployments.helm_values import INSTALL, Values, merged_values, run_launcher, sent_to_helm, snake

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture
def values() -> Values:
    """The values as helm merges them."""
    return merged_values()


def test_the_chart_is_of_dagster_s_version() -> None:
    words = sent_to_helm("registry.example.com", "0.1.0-abcdef0", "a-bucket", "--dry-run")
    dagster = next(item for item in PROJECT["project"]["dependencies"] if item.startswith("dagster=="))

    assert words[words.index("--version") + 1] == dagster.removeprefix("dagster==")
    assert words[words.index("--namespace") + 1] == "fine-tune"
    assert words[-1] == "--dry-run"


def test_install_says_what_it_needs() -> None:
    done = subprocess.run([INSTALL, "registry.example.com"], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr == "error: give registry, tag and bucket: deployments/helm/install REGISTRY TAG BUCKET\n"


def test_all_pods_of_dagster_have_one_image(values: Values) -> None:
    image = {
        "repository": "registry.example.com/fine-tune-assets",
        "tag": "0.1.0-abcdef0",
        "pullPolicy": "IfNotPresent",
    }

    assert values["dagsterWebserver"]["image"] == values["dagsterDaemon"]["image"] == image
    assert [item["image"] for item in values["dagster-user-deployments"]["deployments"]] == [image]
    assert "given by install" not in yaml.safe_dump(values)


def test_dagster_accepts_the_instance(values: Values) -> None:
    daemon = values["dagsterDaemon"]
    concurrency = {key: item for key, item in values["concurrency"].items() if key != "enabled"}
    instance = snake(
        {
            "runMonitoring": daemon["runMonitoring"],
            "runRetries": daemon["runRetries"],
            "concurrency": concurrency,
            "telemetry": values["telemetry"],
        }
    )

    result = process_config(resolve_to_config_type(dagster_instance_config_schema()), instance)

    assert result.success, result.errors
    assert instance["run_monitoring"]["max_resume_run_attempts"] == 3


def test_logs_go_to_the_bucket_while_a_step_runs(values: Values) -> None:
    logs = snake(values["computeLogManager"]["config"]["s3ComputeLogManager"])

    declared = S3ComputeLogManager.config_type()  # type: ignore[no-untyped-call]  # dagster gives it no types
    result = process_config(resolve_to_config_type(declared), logs)

    assert result.success, result.errors
    assert (logs["bucket"], logs["upload_interval"]) == ("a-bucket", 5)


def test_dagster_accepts_the_run_launcher(values: Values) -> None:
    declared = K8sRunLauncher.config_type()  # type: ignore[no-untyped-call]  # dagster gives it no types
    result = process_config(resolve_to_config_type(declared), run_launcher(values))

    assert result.success, result.errors


def _run_pod(values: Values) -> dict[str, Any]:
    """The Job of a run, as dagster-k8s makes it of the launcher's configuration."""
    config = run_launcher(values)
    of_pods = UserDefinedDagsterK8sConfig.from_dict(config["run_k8s_config"])  # type: ignore[no-untyped-call]  # dagster gives it no types
    job = construct_dagster_k8s_job(
        job_config=DagsterK8sJobConfig(
            job_image="image",
            dagster_home=config["dagster_home"],
            instance_config_map=config["instance_config_map"],
            postgres_password_secret=config["postgres_password_secret"],
            service_account_name=config["service_account_name"],
        ),
        args=["dagster", "api", "execute_run"],
        job_name="dagster-run-1",
        user_defined_k8s_config=of_pods,
        component="run_worker",
    )
    return dict(ApiClient().sanitize_for_serialization(job))


def test_a_run_s_pod_is_valid_and_restricted(values: Values) -> None:
    job = _run_pod(values)

    kubernetes_validate.validate({"apiVersion": "batch/v1", "kind": "Job", **job}, "1.34.0", strict=True)
    pod = job["spec"]["template"]["spec"]
    assert breaks_restricted(pod) == []
    assert pod["serviceAccountName"] == "fine-tune-orchestration"
    container = pod["containers"][0]
    assert {"name": "scratch", "mountPath": "/tmp"} in container["volumeMounts"]
    assert "hugging-face" not in str(job)


def test_a_run_s_pod_may_reach_the_code_location(values: Values, render: Callable[[str], Objects]) -> None:
    labels = _run_pod(values)["spec"]["template"]["metadata"]["labels"]
    policies = of_kind(render("minimal"), "NetworkPolicy")
    location = values["dagster-user-deployments"]["deployments"][0]

    allowed = find(policies, "NetworkPolicy", "allow-to-code-location")["spec"]["podSelector"]["matchLabels"]
    ingress = find(policies, "NetworkPolicy", "allow-code-location")["spec"]["ingress"][0]

    assert allowed.items() <= labels.items()
    assert ingress["from"][0]["podSelector"]["matchLabels"].items() <= labels.items()
    assert ingress["ports"][0]["port"] == location["port"]


def test_the_code_location_is_this_project_s(values: Values) -> None:
    location = values["dagster-user-deployments"]["deployments"][0]

    assert location["dagsterApiGrpcArgs"] == ["-m", PROJECT["tool"]["dagster"]["module_name"]]
    assert location["includeConfigInLaunchedRuns"] == {"enabled": True}


@pytest.mark.parametrize("overlay", ["minimal", "eks"])
def test_what_the_values_name_is_in_the_manifests(
    overlay: str, values: Values, render: Callable[[str], Objects]
) -> None:
    objects = render(overlay)
    names = {(item["kind"], item["metadata"]["name"]) for item in objects}
    location = values["dagster-user-deployments"]["deployments"][0]

    assert ("ServiceAccount", values["global"]["serviceAccountName"]) in names
    assert ("Service", values["postgresql"]["postgresqlHost"]) in names
    assert {("ConfigMap", item["name"]) for item in location["envConfigMaps"]} <= names
    secret = ("ExternalSecret" if overlay == "eks" else "StatefulSet", values["global"]["postgresqlSecretName"])
    assert secret in names
    assert values["serviceAccount"] == {"create": False}
    assert values["rbacEnabled"] is values["dagster-user-deployments"]["rbacEnabled"] is False


def test_the_web_server_listens_where_a_user_that_is_not_root_may(values: Values) -> None:
    server = values["dagsterWebserver"]

    assert server["service"]["port"] == server["readinessProbe"]["httpGet"]["port"] == 3000


def test_dagster_s_own_pods_are_restricted(values: Values) -> None:
    for part in (
        values["dagsterWebserver"],
        values["dagsterDaemon"],
        *values["dagster-user-deployments"]["deployments"],
    ):
        container = {"name": "dagster", "securityContext": part["securityContext"]}
        assert breaks_restricted({"securityContext": part["podSecurityContext"], "containers": [container]}) == []
