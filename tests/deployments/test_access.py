"""Who may ask the Kubernetes API what: exactly what the programs send, which their sources say."""

import inspect
import re
from collections.abc import Callable
from typing import Any, Literal

import dagster_k8s.client
import dagster_k8s.executor
import dagster_k8s.launcher
import pytest

from fine_tune_assets.kubernetes import janitor
from fine_tune_assets.kubernetes.diagnosis import observer
from fine_tune_assets.kubernetes.executor import step_handler
from fine_tune_assets.kubernetes.multi_node.manifests import Training, manifests
from fine_tune_assets.kubernetes.preflight import NEEDED
from neuron_ops.recipe.schema import HardwareSection
from tests.deployments.conftest import Objects, find, of_kind

MultiNode = Literal["indexed_job", "pytorch_job"]
KINDS: tuple[MultiNode, ...] = ("indexed_job", "pytorch_job")

Render = Callable[[str], Objects]
ORCHESTRATION = (observer, janitor, step_handler)


VERBS = {"find": "get", "find_all": "list", "delete": "delete", "create": "create"}
"""What our client's methods send; its own tests say so."""
WITHOUT_KIND = {"warnings": ("list", "events"), "last_lines": ("get", "pods/log")}


def _sent_by_us(*modules: Any) -> set[tuple[str, str]]:
    """(verb, resource) of each method of our client that these modules call."""
    source = "".join(inspect.getsource(module) for module in modules)
    calls = re.findall(r"\b(?:client\.(\w+)\(|partial\(self\.client\.(\w+), )(?:\"(\w+)\")?", source)
    sent = set()
    for called, deferred, kind in calls:
        method = called or deferred
        if method in WITHOUT_KIND:
            sent.add(WITHOUT_KIND[method])
        elif method != "wait_until_gone":  # finds
            sent.add((VERBS[method], f"{kind.lower()}s"))
    return sent


def _sent_by_dagster(*modules: Any) -> set[tuple[str, str]]:
    """(verb, resource) of each method of the Kubernetes client library that these modules name."""
    calls = re.findall(
        r"api\.(create|read|list|delete)_namespaced_(\w+?)(?:_with_retries)?\b",
        "".join(inspect.getsource(module) for module in modules),
    )
    names = {"job": "jobs", "pod": "pods", "event": "events", "job_status": "jobs/status", "pod_log": "pods/log"}
    return {("get" if verb == "read" else verb, names[resource]) for verb, resource in calls}


def _granted(role: dict[str, Any]) -> set[tuple[str, str]]:
    return {(verb, name) for rule in role["rules"] for name in rule["resources"] for verb in rule["verbs"]}


def test_dagster_may_do_what_it_and_our_code_send_and_no_more(render: Render) -> None:
    ours = _sent_by_us(*ORCHESTRATION)
    dagsters = _sent_by_dagster(dagster_k8s.client, dagster_k8s.executor, dagster_k8s.launcher)

    assert _granted(find(render("minimal"), "Role", "fine-tune-orchestration")) == ours | dagsters
    assert ours == {("get", "jobs"), ("list", "jobs"), ("delete", "jobs")} | {
        ("list", "pods"),
        ("list", "events"),
        ("get", "pods/log"),
    }


def test_a_plan_asks_for_the_permissions_of_a_run(render: Render) -> None:
    rules = find(render("minimal"), "Role", "fine-tune-orchestration")["rules"]
    granted = {
        (verb, rule["apiGroups"][0], name) for rule in rules for name in rule["resources"] for verb in rule["verbs"]
    }

    assert set(NEEDED) <= granted
    assert _sent_by_us(*ORCHESTRATION) | {("create", "jobs")} == {(verb, name) for verb, _, name in NEEDED}


def _made_by_a_training(kind: MultiNode) -> list[dict[str, Any]]:
    hardware = HardwareSection(backend="neuron", instance_type="trn1.32xlarge", nodes=2, multi_node=kind)
    launcher = {
        "metadata": {"name": "step", "namespace": "fine-tune", "uid": "1"},
        "spec": {"containers": [{"name": "dagster", "image": "image"}]},
    }
    return manifests(Training("training-1", hardware, ("train",), launcher))


def test_the_training_step_may_make_and_follow_its_nodes_and_no_more(render: Render) -> None:
    ways = [_made_by_a_training(kind) for kind in KINDS]
    made = {f"{item['kind'].lower()}s" for way in ways for item in way}
    followed = {f"{way[-1]['kind'].lower()}s" for way in ways}
    # Its own pod, those of the nodes, their logs and what is warned about them.
    looked_at = {("get", "pods"), ("list", "pods"), ("get", "pods/log"), ("list", "events")}

    granted = _granted(find(render("minimal"), "Role", "fine-tune-training"))

    makes = {(verb, name) for verb in ("create", "delete") for name in made}
    assert granted == makes | {("get", name) for name in followed} | looked_at


@pytest.mark.parametrize("kind", KINDS)
def test_the_nodes_of_a_training_reach_each_other(kind: MultiNode, render: Render) -> None:
    peers = find(render("minimal"), "NetworkPolicy", "allow-training-peers")["spec"]["podSelector"]["matchLabels"]

    assert peers.items() <= _made_by_a_training(kind)[-1]["metadata"]["labels"].items()


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
