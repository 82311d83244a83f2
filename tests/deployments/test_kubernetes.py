"""The manifests: each overlay renders, is valid on every supported Kubernetes, and agrees with the code."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from neuron_ops.backends.instances import INSTANCES
from neuron_ops.recipe.file import load_recipe, shipped_recipes
from tests.deployments.conftest import DEPLOYMENTS, OVERLAYS, ROOT, Objects, breaks_restricted, find, kustomize, of_kind

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
def test_every_component_is_part_of_an_overlay_or_says_why_not(component: str) -> None:
    texts = [(DEPLOYMENTS / "kubernetes" / "overlays" / name / "kustomization.yaml").read_text() for name in OVERLAYS]
    own = (DEPLOYMENTS / "kubernetes" / "components" / component / "kustomization.yaml").read_text()

    assert any(f"components/{component}\n" in text for text in texts) != ("# No overlay has it:" in own)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_holds_differences_only(overlay: str) -> None:
    folder = DEPLOYMENTS / "kubernetes" / "overlays" / overlay

    kinds = [
        item["kind"]
        for path in folder.glob("*.yaml")
        if path.name not in ("pods.yaml", "recipe.yaml")
        for item in yaml.safe_load_all(path.read_text())
    ]

    assert set(kinds) <= {"Kustomization", "ConfigMap"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_are_what_the_programs_read(overlay: str, render: Render) -> None:
    settings = find(render(overlay), "ConfigMap", "fine-tune-settings")["data"]
    source = (ROOT / "fine_tune_assets" / "settings.py").read_text()

    assert {name for name in settings if not name.startswith("AWS_")} <= set(re.findall(r'"(FINE_TUNE_\w+)"', source))
    assert load_recipe(settings["FINE_TUNE_RECIPE"]).name in shipped_recipes()


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


def test_karpenter_takes_no_node_from_under_a_training(render: Render) -> None:
    pool = find(render("eks"), "NodePool", "fine-tune-trn1")["spec"]

    assert pool["template"]["spec"]["expireAfter"] == "Never"
    assert pool["disruption"]["consolidationPolicy"] == "WhenEmpty"
    # Karpenter's own default lets one node in ten drift, of two that is one: each newer AMI of the alias would do it.
    assert pool["disruption"]["budgets"] == [{"nodes": "0", "reasons": ["Drifted"]}]


def test_hyperpod_s_instances_have_their_own_names(render: Render) -> None:
    flavor = find(render("hyperpod"), "ResourceFlavor", "fine-tune-trn1")["spec"]

    recipe = load_recipe(find(render("hyperpod"), "ConfigMap", "fine-tune-settings")["data"]["FINE_TUNE_RECIPE"])

    assert flavor["nodeLabels"] == {"node.kubernetes.io/instance-type": "ml.trn1.32xlarge"}
    assert recipe == load_recipe("llama3_8b_lora_trn1", {"hardware.instance_type": "ml.trn1.32xlarge"})


def test_the_device_plugin_runs_on_every_known_instance() -> None:
    values = yaml.safe_load((DEPLOYMENTS / "helm" / "neuron.yaml").read_text())

    assert {name.removeprefix("ml.") for name in values["neuronInstances"]} == set(INSTANCES)


def test_both_kinds_of_file_system_are_the_same_claim(render: Render, tmp_path: Path) -> None:
    shutil.copytree(DEPLOYMENTS / "kubernetes", tmp_path, dirs_exist_ok=True)
    mine = tmp_path / "overlays" / "eks"
    text = (mine / "kustomization.yaml").read_text()
    (mine / "kustomization.yaml").write_text(
        text.replace("components:\n", "components:\n  - ../../components/fsx-dynamic\n")
    )
    with (mine / "settings.yaml").open("a") as settings:
        settings.write("  fsx-subnet-id: subnet-1\n  fsx-security-group-id: sg-1\n")

    dynamic, static = kustomize(mine), render("hyperpod")

    claims = [find(objects, "PersistentVolumeClaim", "fine-tune-fsx")["spec"] for objects in (dynamic, static)]
    assert [claim["accessModes"] for claim in claims] == [["ReadWriteMany"]] * 2
    made = find(dynamic, "StorageClass", "fine-tune-fsx")
    assert (made["reclaimPolicy"], made["parameters"]["subnetId"]) == ("Retain", "subnet-1")
    for item in (made, find(dynamic, "PersistentVolumeClaim", "fine-tune-fsx")):
        for version in KUBERNETES:
            kubernetes_validate.validate(item, version, strict=True)
    assert find(static, "PersistentVolume", "fine-tune-fsx")["spec"]["persistentVolumeReclaimPolicy"] == "Retain"


def test_no_secret_is_in_a_file() -> None:
    files = [path for path in DEPLOYMENTS.rglob("*") if path.is_file()]
    secret = re.compile(r"kind: Secret$|hf_[A-Za-z0-9]{8}|AKIA[0-9A-Z]{12}|stringData", re.MULTILINE)

    assert [path.name for path in files if secret.search(Path(path).read_text())] == []
