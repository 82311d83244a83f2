"""The manifests: each overlay renders, is valid on every supported Kubernetes, and agrees with the code."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster_k8s.client
import dagster_k8s.executor
import dagster_k8s.launcher
import kubernetes_validate
import pytest
import yaml

from fine_tune_assets.kubernetes.multi_node_manifests import Training, manifests
from fine_tune_assets.kubernetes.pod_config import pod_config
from fine_tune_assets.kubernetes.pods import load_pods
from neuron_ops.backends.neuron import INSTANCES
from neuron_ops.recipe import HardwareSection
from neuron_ops.recipe_file import load_recipe, shipped_recipes
from neuron_ops.steps import STEPS
from tests.deployments.conftest import DEPLOYMENTS, OVERLAYS, ROOT, Objects, breaks_restricted, find, of_kind

Render = Callable[[str], Objects]

COMPONENTS = sorted(path.name for path in (DEPLOYMENTS / "kubernetes" / "components").iterdir())
KUBERNETES = ("1.31.0", "1.34.0", "1.37.0")
# Kinds of operators; their schemas are theirs to publish. `kubectl apply --dry-run=server` asks the cluster.
CUSTOM = ("karpenter.sh", "karpenter.k8s.aws", "kueue.x-k8s.io", "external-secrets.io")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_valid_on_every_supported_kubernetes(overlay: str, render: Render) -> None:
    objects = render(overlay)
    builtin = [item for item in objects if item["apiVersion"].partition("/")[0] not in CUSTOM]

    for item in builtin:
        for version in KUBERNETES:
            kubernetes_validate.validate(item, version, strict=True)

    assert len(builtin) >= 18


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_of_a_cluster_comes_from_its_settings(overlay: str, render: Render) -> None:
    text = yaml.safe_dump_all(render(overlay))

    assert "replaced" not in text
    assert "name: cluster\n" not in text  # the settings for the manifests stay on this side


def test_the_base_names_nothing_of_a_cluster() -> None:
    cluster = re.compile(r"s3://|arn:aws|subnet-[0-9]|sg-[0-9]|fs-[0-9]|us-(east|west)-|dkr\.ecr|\bm[li]\.trn")
    parts = [
        *(DEPLOYMENTS / "kubernetes" / "base").glob("*"),
        *(DEPLOYMENTS / "kubernetes" / "components").rglob("*.yaml"),
    ]

    assert [path.name for path in parts if cluster.search(path.read_text())] == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_is_part_of_an_overlay(component: str) -> None:
    texts = [(DEPLOYMENTS / "kubernetes" / "overlays" / name / "kustomization.yaml").read_text() for name in OVERLAYS]

    assert any(f"components/{component}\n" in text for text in texts)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_holds_differences_only(overlay: str) -> None:
    folder = DEPLOYMENTS / "kubernetes" / "overlays" / overlay

    kinds = [item["kind"] for path in folder.glob("*.yaml") for item in yaml.safe_load_all(path.read_text())]

    assert set(kinds) <= {"Kustomization", "ConfigMap"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_assets_pods_name_what_the_overlay_has(overlay: str, render: Render) -> None:
    objects = render(overlay)
    environment = find(objects, "ConfigMap", "fine-tune-settings")["data"]
    recipe, pods = load_recipe(environment["FINE_TUNE_RECIPE"]), load_pods(environment["FINE_TUNE_PODS"])

    for step in STEPS:
        config = pod_config(step, recipe, pods)
        spec, settings = config["pod_spec_config"], pods.settings(step.artifact, for_hardware=step.needs_accelerator)
        assert find(objects, "ServiceAccount", spec["serviceAccountName"])
        for kind, name in (("PriorityClass", settings.priority_class), ("LocalQueue", settings.queue)):
            assert name is None or find(objects, kind, name)
        for volume in settings.volumes or ():
            assert find(objects, "PersistentVolumeClaim", volume.claim)
        assert breaks_restricted({**spec, "containers": [{"name": "dagster", **config["container_config"]}]}) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_are_what_the_programs_read(overlay: str, render: Render) -> None:
    settings = find(render(overlay), "ConfigMap", "fine-tune-settings")["data"]
    source = (ROOT / "fine_tune_assets" / "settings.py").read_text()

    assert {name for name in settings if not name.startswith("AWS_")} <= set(re.findall(r'"(FINE_TUNE_\w+)"', source))
    assert settings["FINE_TUNE_RECIPE"] in shipped_recipes()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_of_the_manifests_needs_more_than_restricted(overlay: str, render: Render) -> None:
    objects = render(overlay)
    pods = [
        item["spec"]["template"]["spec"] for kind in ("StatefulSet", "Deployment") for item in of_kind(objects, kind)
    ]

    assert (
        find(objects, "Namespace", "fine-tune")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        == "restricted"
    )
    assert [problem for pod in pods for problem in breaks_restricted(pod)] == []


def _sent_by(*modules: Any) -> set[tuple[str, str]]:
    """(verb, resource) of each call to the Kubernetes API in these modules."""
    calls = re.findall(
        r"api\.(create|read|list|delete)_namespaced_(\w+?)(?:_with_retries)?\(",
        "".join(inspect.getsource(module) for module in modules),
    )
    names = {"job": "jobs", "pod": "pods", "event": "events", "job_status": "jobs/status", "pod_log": "pods/log"}
    return {("get" if verb == "read" else verb, names[resource]) for verb, resource in calls}


def _granted(role: dict[str, Any]) -> set[tuple[str, str]]:
    return {(verb, name) for rule in role["rules"] for name in rule["resources"] for verb in rule["verbs"]}


def test_dagster_may_do_what_it_sends_and_hardly_more(render: Render) -> None:
    sent = _sent_by(dagster_k8s.client, dagster_k8s.executor, dagster_k8s.launcher)

    granted = _granted(find(render("minimal"), "Role", "fine-tune-orchestration"))

    assert sent <= granted
    # The object itself beside its status.
    assert granted - sent == {("get", "jobs")}


@pytest.mark.parametrize("kind", ["indexed_job", "pytorch_job"])
def test_the_training_step_may_make_its_nodes_and_they_reach_each_other(kind: str, render: Render) -> None:
    hardware = HardwareSection(backend="neuron", instance_type="trn1.32xlarge", nodes=2, multi_node=kind)
    launcher = {
        "metadata": {"name": "step", "namespace": "fine-tune", "uid": "1"},
        "spec": {"containers": [{"name": "dagster", "image": "image"}]},
    }
    made = manifests(Training("training-1", hardware, ("train",), launcher))
    granted = _granted(find(render("minimal"), "Role", "fine-tune-training"))
    peers = find(render("minimal"), "NetworkPolicy", "allow-training-peers")["spec"]["podSelector"]["matchLabels"]

    resources = {f"{item['kind'].lower()}s" for item in made}
    assert {(verb, name) for verb in ("create", "delete") for name in resources} <= granted
    assert ("get", f"{made[-1]['kind'].lower()}s") in granted  # it is watched
    assert {("get", "pods"), ("list", "pods"), ("get", "pods/log")} <= granted
    assert {name for _, name in granted} == {"jobs", "pytorchjobs", "services", "pods", "pods/log"}
    assert peers.items() <= made[-1]["metadata"]["labels"].items()


def test_steps_may_ask_the_kubernetes_api_nothing(render: Render) -> None:
    objects = render("minimal")
    bound = {subject["name"] for item in of_kind(objects, "RoleBinding") for subject in item["subjects"]}

    assert find(objects, "ServiceAccount", "fine-tune-steps")["automountServiceAccountToken"] is False
    assert bound == {"fine-tune-orchestration", "fine-tune-training"}
    assert of_kind(objects, "ClusterRoleBinding") == []


def test_no_role_has_a_wildcard_or_sees_secrets(render: Render) -> None:
    rules = [rule for item in of_kind(render("eks"), "Role") for rule in item["rules"]]

    assert [rule for rule in rules if "*" in rule["verbs"] + rule["resources"]] == []
    assert [rule for rule in rules if {"secrets", "pods/exec"} & set(rule["resources"])] == []


def test_nothing_is_reachable_that_is_not_allowed(render: Render) -> None:
    policies = of_kind(render("eks"), "NetworkPolicy")
    deny = find(policies, "NetworkPolicy", "deny-everything")["spec"]
    ports = {
        port["port"]
        for policy in policies
        for rule in policy["spec"].get("egress", [])
        for port in rule.get("ports", [])
        if not any("podSelector" in to for to in rule.get("to", []))
    }

    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert ports == {53, 443, 80, 5432}
    pod_identity = find(policies, "NetworkPolicy", "allow-pod-identity")["spec"]["egress"][0]["to"]
    assert pod_identity == [{"ipBlock": {"cidr": "169.254.170.23/32"}}]  # port 80 there only, not the metadata service


def test_queue_and_nodes_are_of_known_instances(render: Render) -> None:
    objects = render("eks")
    flavor = find(objects, "ResourceFlavor", "fine-tune-trn1")["spec"]
    pool = find(objects, "NodePool", "fine-tune-trn1")["spec"]
    quota = {
        item["name"]: item["nominalQuota"]
        for item in find(objects, "ClusterQueue", "fine-tune")["spec"]["resourceGroups"][0]["flavors"][0]["resources"]
    }
    machine = INSTANCES[flavor["nodeLabels"]["node.kubernetes.io/instance-type"]]

    assert [r["values"] for r in pool["template"]["spec"]["requirements"] if r["key"].endswith("instance-type")] == [
        ["trn1.32xlarge"]
    ]
    assert quota["aws.amazon.com/neuron"] == 2 * machine.devices == int(pool["limits"]["aws.amazon.com/neuron"])
    assert quota["vpc.amazonaws.com/efa"] == 2 * machine.efa
    assert pool["template"]["spec"]["taints"][0]["key"] == flavor["tolerations"][0]["key"] == "aws.amazon.com/neuron"


def test_hyperpod_s_instances_have_their_own_names(render: Render) -> None:
    flavor = find(render("hyperpod"), "ResourceFlavor", "fine-tune-trn1")["spec"]

    assert flavor["nodeLabels"] == {"node.kubernetes.io/instance-type": "ml.trn1.32xlarge"}


def test_the_device_plugin_runs_on_every_known_instance() -> None:
    values = yaml.safe_load((DEPLOYMENTS / "helm" / "neuron.yaml").read_text())

    assert {name.removeprefix("ml.") for name in values["neuronInstances"]} == set(INSTANCES)


def test_both_kinds_of_file_system_are_the_same_claim(render: Render) -> None:
    claims = [
        find(render(overlay), "PersistentVolumeClaim", "fine-tune-fsx")["spec"] for overlay in ("eks", "hyperpod")
    ]

    assert [claim["accessModes"] for claim in claims] == [["ReadWriteMany"]] * 2
    assert (
        find(render("hyperpod"), "PersistentVolume", "fine-tune-fsx")["spec"]["persistentVolumeReclaimPolicy"]
        == "Retain"
    )


def test_no_secret_is_in_a_file() -> None:
    files = [path for path in DEPLOYMENTS.rglob("*") if path.is_file()]
    secret = re.compile(r"kind: Secret$|hf_[A-Za-z0-9]{8}|AKIA[0-9A-Z]{12}|stringData", re.MULTILINE)

    assert [path.name for path in files if secret.search(Path(path).read_text())] == []
