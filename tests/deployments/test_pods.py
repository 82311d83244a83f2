"""The assets' pods as they reach the cluster: chart, code location, pods.yaml and recipe together.

What comes of them is held against the manifests: everything that they name is there, and they may talk where they must.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml

from fine_tune_assets.kubernetes.api.labels import QUEUE_LABEL
from fine_tune_assets.kubernetes.deployment import check_store
from fine_tune_assets.kubernetes.pods.config import pod_config
from fine_tune_assets.kubernetes.pods.settings import Pods
from neuron_ops.steps.table import BY_ARTIFACT, STEPS
from tests.cluster.objects import quantity
from tests.deployments.conftest import DEPLOYMENTS, OVERLAYS, Objects, breaks_restricted, find, of_kind
from tests.deployments.installed import TRAIN, Installed, nodes_of, pod_of

Render = Callable[[str], Objects]

KUBERNETES = ("1.31.0", "1.34.0", "1.37.0")


@pytest.fixture(params=OVERLAYS)
def installed(request: pytest.FixtureRequest, render: Render) -> Installed:
    return Installed(request.param, render(request.param))


@pytest.fixture
def eks(render: Render) -> Installed:
    return Installed("eks", render("eks"))


def test_each_asset_s_pod_is_valid_and_restricted(installed: Installed) -> None:
    for step in STEPS:
        job = installed.job(step)

        for version in KUBERNETES:
            kubernetes_validate.validate(job, version, strict=True)
        assert breaks_restricted(pod_of(job)) == []


def test_what_a_pod_names_is_in_the_manifests(installed: Installed) -> None:
    charts = {("ConfigMap", "dagster-instance")}
    secrets = {("Secret", item["metadata"]["name"]) for item in of_kind(installed.objects, "ExternalSecret")}
    by_hand = {("Secret", "dagster-postgresql"), ("Secret", "hugging-face")}  # section 4 of the guide
    there = {(item["kind"], item["metadata"]["name"]) for item in installed.objects} | charts | secrets | by_hand

    for job in (installed.run_job(), *(installed.job(step) for step in STEPS)):
        assert set(_named(job)) <= there


def _named(job: dict[str, Any]) -> list[tuple[str, str]]:
    pod = pod_of(job)
    [container] = pod["containers"]
    named = [("ServiceAccount", pod["serviceAccountName"])]
    if "priorityClassName" in pod:
        named.append(("PriorityClass", pod["priorityClassName"]))
    if QUEUE_LABEL in job["metadata"]["labels"]:
        named.append(("LocalQueue", job["metadata"]["labels"][QUEUE_LABEL]))
    for volume in pod["volumes"]:
        if "persistentVolumeClaim" in volume:
            named.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        if "configMap" in volume:
            named.append(("ConfigMap", volume["configMap"]["name"]))
    for source in container.get("envFrom", []):
        kind = "ConfigMap" if "configMapRef" in source else "Secret"
        named.append((kind, source["configMapRef" if kind == "ConfigMap" else "secretRef"]["name"]))
    for variable in container["env"]:
        if "secretKeyRef" in variable.get("valueFrom", {}):
            named.append(("Secret", variable["valueFrom"]["secretKeyRef"]["name"]))
    return named


def test_each_pod_gets_the_settings_and_the_account_of_its_need(installed: Installed) -> None:
    accounts = {step.artifact: pod_of(installed.job(step))["serviceAccountName"] for step in STEPS}
    trains = {"compiled_graph_cache", "lora_checkpoints"} if installed.name != "minimal" else set()

    assert pod_of(installed.run_job())["serviceAccountName"] == "fine-tune-orchestration"
    assert {name for name, account in accounts.items() if account == "fine-tune-training"} == trains
    assert set(accounts.values()) <= {"fine-tune-steps", "fine-tune-training"}
    for step in STEPS:
        [container] = pod_of(installed.job(step))["containers"]
        assert {"configMapRef": {"name": "fine-tune-settings"}} in container["envFrom"]


@pytest.mark.parametrize("overlay", ["eks", "hyperpod"])
def test_the_hub_s_token_reaches_the_pod_that_fetches_and_no_other(overlay: str, render: Render) -> None:
    installed = Installed(overlay, render(overlay))
    named = {step.artifact for step in STEPS if ("Secret", "hugging-face") in _named(installed.job(step))}
    finished = pod_config(BY_ARTIFACT["base_model"], installed.recipe, installed.pods, finished=True)

    assert named == {"base_model"}
    assert ("Secret", "hugging-face") not in _named(installed.run_job())
    assert "hugging-face" not in str([finished, nodes_of(installed)])


def test_the_account_of_plain_steps_may_do_nothing_with_its_token(eks: Installed) -> None:
    """Where runs may be resumed, Dagster wants a token in every pod: so what counts is that it opens nothing."""
    bound = {subject["name"] for item in of_kind(eks.objects, "RoleBinding") for subject in item["subjects"]}
    plain = [pod_of(eks.job(step)) for step in STEPS if not step.needs_accelerator]

    assert {pod["serviceAccountName"] for pod in plain} == {"fine-tune-steps"}
    assert "fine-tune-steps" not in bound
    assert pod_of(eks.run_job())["automountServiceAccountToken"] is True
    assert pod_of(eks.job(TRAIN, nodes=2))["automountServiceAccountToken"] is True


def test_the_training_image_is_the_neuron_image_of_the_registry_that_is_built(installed: Installed) -> None:
    images = {step.artifact: pod_of(installed.job(step))["containers"][0]["image"] for step in STEPS}
    own = {name for name, image in images.items() if image != "registry.example.com/fine-tune-assets:0.1.0-abcdef0"}

    assert own == (set() if installed.name == "minimal" else {"compiled_graph_cache", "lora_checkpoints"})
    for name in own:
        repository, _, tag = images[name].rpartition(":")
        assert (DEPLOYMENTS / "docker" / f"{repository.rpartition('/')[2]}.Dockerfile").exists()
        assert tag != "latest"


def test_the_store_is_one_that_every_pod_sees(installed: Installed) -> None:
    check_store(installed.settings["FINE_TUNE_STORE"], installed.pods)

    for job in (installed.run_job(), *(installed.job(step) for step in STEPS)):
        [container] = pod_of(job)["containers"]
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        names = [volume["name"] for volume in pod_of(job)["volumes"]]
        assert ("/fsx" in mounts) == installed.settings["FINE_TUNE_STORE"].startswith("/fsx/")
        assert sorted(set(mounts)) == sorted(mounts)  # the launcher's volume and the pod's own are one
        assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("overlay", ["eks", "hyperpod"])
def test_a_training_s_pod_waits_for_the_nodes_that_the_overlay_has(overlay: str, render: Render) -> None:
    installed = Installed(overlay, render(overlay))
    flavor = find(installed.objects, "ResourceFlavor", "fine-tune-trn1")["spec"]

    pod = pod_of(installed.job(TRAIN))

    assert pod["nodeSelector"] == flavor["nodeLabels"]
    assert {item["key"] for item in pod["tolerations"]} == {item["key"] for item in flavor["tolerations"]}


def test_the_namespace_is_the_manifests(installed: Installed) -> None:
    assert find(installed.objects, "Namespace", str(installed.pods.namespace))


def _applies(policy: dict[str, Any], labels: dict[str, str]) -> bool:
    selector = policy["spec"]["podSelector"]
    wanted = [*selector.get("matchExpressions", [])]
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(item["key"]) in item["values"] for item in wanted if item["operator"] == "In"
    )


def _leads_to(policies: Objects, labels: dict[str, str]) -> set[str]:
    """The policies that let a pod with these labels out."""
    return {p["metadata"]["name"] for p in policies if p["spec"].get("egress") and _applies(p, labels)}


def test_pods_reach_what_they_must_and_the_nodes_of_a_training_no_database(eks: Installed) -> None:
    policies = of_kind(eks.objects, "NetworkPolicy")
    everywhere = {"allow-dns", "allow-https", "allow-pod-identity"}
    step, run = (job["spec"]["template"]["metadata"]["labels"] for job in (eks.job(TRAIN), eks.run_job()))
    nodes = nodes_of(eks)[-1]["spec"]["template"]["metadata"]["labels"]

    assert _leads_to(policies, step) >= everywhere | {"allow-to-postgresql"}
    assert _leads_to(policies, run) >= everywhere | {"allow-to-postgresql", "allow-to-code-location"}
    assert _leads_to(policies, nodes) == everywhere | {"allow-training-peers"}


def test_the_nodes_of_a_training_are_valid_restricted_and_wait_in_the_queue(eks: Installed) -> None:
    service, job = nodes_of(eks)

    for made in (service, job):
        for version in KUBERNETES:
            kubernetes_validate.validate(made, version, strict=True)
    pod = job["spec"]["template"]["spec"]
    assert breaks_restricted(pod) == []
    assert pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == "fine-tune-training"
    assert find(eks.objects, "LocalQueue", job["metadata"]["labels"][QUEUE_LABEL])
    [pytorch] = nodes_of(eks, multi_node="pytorch_job")
    for replica in pytorch["spec"]["pytorchReplicaSpecs"].values():
        assert breaks_restricted(replica["template"]["spec"]) == []


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_queue_has_room_for_what_is_queued(nodes: int, eks: Installed) -> None:
    """Kueue never admits a Job that asks for a resource its queue does not cover, nor one above the quota."""
    [group] = find(eks.objects, "ClusterQueue", "fine-tune")["spec"]["resourceGroups"]
    quota = {item["name"]: quantity(item["nominalQuota"]) for item in group["flavors"][0]["resources"]}
    queued = nodes_of(eks)[-1] if nodes > 1 else eks.job(TRAIN)

    [container] = pod_of(queued)["containers"]
    asked = {**container["resources"]["limits"], **container["resources"]["requests"]}
    assert QUEUE_LABEL in queued["metadata"]["labels"]
    assert set(asked) <= set(group["coveredResources"])
    assert {name: amount for name, amount in asked.items() if nodes * quantity(amount) > quota[name]} == {}


@cache
def _shipped(overlay: str) -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOYMENTS / "kubernetes" / "overlays" / overlay / "pods.yaml").read_text()))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_find_the_very_file_of_their_overlay(overlay: str, render: Render) -> None:
    assert Installed(overlay, render(overlay)).pods == Pods.model_validate(_shipped(overlay))
