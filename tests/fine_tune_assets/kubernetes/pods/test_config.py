"""Each asset's pod, from the recipe and the team's settings."""

import json
from typing import Any

import kubernetes_validate
import pytest

from fine_tune_assets.kubernetes.pods.config import pod_config, refuse_accelerator
from fine_tune_assets.kubernetes.pods.settings import Pods
from neuron_ops.backends import accelerator_resources
from neuron_ops.errors import InvalidInput
from neuron_ops.launch.grace import POD_SECONDS
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps.table import BY_ARTIFACT, STEPS

PODS = Pods.model_validate(
    {
        "user": 1000,
        "default": {
            "image": "slim:1",
            "service_account": "steps",
            "cpu": "2",
            "memory": "8Gi",
            "scratch": "50Gi",
            "volumes": [{"claim": "fsx", "mount": "/fsx"}],
        },
        "training": {
            "image": "neuron:1",
            "service_account": "training",
            "memory": "400Gi",
            "shared_memory": "64Gi",
            "priority_class": "high",
            "queue": "trainium",
            "tolerations": [{"key": "team", "value": "ml", "effect": "NoSchedule"}],
            "node_selector": {"karpenter.sh/capacity-type": "spot"},
        },
        "assets": {"lora_checkpoints": {"deadline_minutes": 600}},
    }
)
TRAIN = BY_ARTIFACT["lora_checkpoints"]


def _recipe(**hardware: Any) -> Recipe:
    return load_recipe("llama3_8b_lora_trn1").model_copy(
        update={"hardware": load_recipe("llama3_8b_lora_trn1").hardware.model_copy(update=hardware)}
    )


def _limits(config: dict[str, Any]) -> dict[str, str]:
    limits: dict[str, str] = config["container_config"]["resources"]["limits"]
    return limits


def test_training_books_the_whole_machine_of_the_recipe() -> None:
    config = pod_config(TRAIN, _recipe(), PODS)

    assert _limits(config) == {
        "cpu": "2",
        "memory": "400Gi",
        "ephemeral-storage": "50Gi",
        "aws.amazon.com/neuron": "16",
    }
    assert config["container_config"]["resources"]["requests"] == _limits(config)
    assert config["container_config"]["image"] == "neuron:1"
    spec = config["pod_spec_config"]
    assert spec["nodeSelector"] == {
        "karpenter.sh/capacity-type": "spot",
        "node.kubernetes.io/instance-type": "trn1.32xlarge",
    }
    assert spec["tolerations"] == [
        {"operator": "Equal", "key": "team", "value": "ml", "effect": "NoSchedule"},
        {"key": "aws.amazon.com/neuron", "operator": "Exists"},
    ]
    assert (spec["serviceAccountName"], spec["priorityClassName"]) == ("training", "high")
    assert config["job_metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "trainium"}
    assert config["job_spec_config"]["activeDeadlineSeconds"] == 36000


def test_a_pod_sees_its_volumes_its_scratch_and_its_shared_memory() -> None:
    config = pod_config(TRAIN, _recipe(), PODS)

    assert config["pod_spec_config"]["volumes"] == [
        {"name": "fsx", "persistentVolumeClaim": {"claimName": "fsx"}},
        {"name": "step-scratch", "emptyDir": {"sizeLimit": "50Gi"}},
        {"name": "step-shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}},
    ]
    assert config["container_config"]["volumeMounts"] == [
        {"name": "fsx", "mountPath": "/fsx", "readOnly": False},
        {"name": "step-scratch", "mountPath": "/scratch"},
        {"name": "step-shared-memory", "mountPath": "/dev/shm"},
    ]
    assert config["container_config"]["env"] == [{"name": "TMPDIR", "value": "/scratch"}]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.artifact)
def test_only_the_assets_of_the_hardware_book_it(step: Any) -> None:
    limits = _limits(pod_config(step, _recipe(), PODS))

    assert (set(limits) & set(accelerator_resources()) != set()) == (
        step.artifact in ("compiled_graph_cache", "lora_checkpoints")
    )


@pytest.mark.parametrize("artifact", ["compiled_graph_cache", "lora_checkpoints"])
def test_a_finished_artifact_books_nothing_and_waits_in_no_queue(artifact: str) -> None:
    config = pod_config(BY_ARTIFACT[artifact], _recipe(), PODS, finished=True)

    assert _limits(config) == {"cpu": "2", "memory": "8Gi", "ephemeral-storage": "50Gi"}
    assert "nodeSelector" not in config["pod_spec_config"]
    assert "tolerations" not in config["pod_spec_config"]
    assert "priorityClassName" not in config["pod_spec_config"]
    assert config["job_metadata"] == {}
    assert config["container_config"]["image"] == "slim:1"


@pytest.mark.parametrize("artifact", ["compiled_graph_cache", "lora_checkpoints"])
def test_the_pod_that_waits_for_several_nodes_books_none_of_them(artifact: str) -> None:
    config = pod_config(BY_ARTIFACT[artifact], _recipe(nodes=2), PODS)

    assert _limits(config) == {"cpu": "2", "memory": "8Gi", "ephemeral-storage": "50Gi"}
    assert config["container_config"]["image"] == "neuron:1"
    # It may run where its nodes' pods may, for they copy its node selector; they wait in the queue, it does not.
    assert "node.kubernetes.io/instance-type" not in config["pod_spec_config"]["nodeSelector"]
    assert {"key": "aws.amazon.com/neuron", "operator": "Exists"} in config["pod_spec_config"]["tolerations"]
    assert config["pod_template_spec_metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "trainium"}
    assert config["job_metadata"] == {}


def test_where_one_node_warms_up_for_all_its_pod_books_that_node() -> None:
    recipe = load_recipe("tiny_llama_cpu", {"graph.torch_compile": True, "hardware.backend": "cuda"})
    two_nodes = recipe.model_copy(update={"hardware": recipe.hardware.model_copy(update={"nodes": 2})})

    config = pod_config(BY_ARTIFACT["compiled_graph_cache"], two_nodes, PODS)

    assert _limits(config)["nvidia.com/gpu"] == "1"
    assert config["pod_spec_config"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize(
    ("hardware", "booked", "selector"),
    [
        ({"instance_type": "trn1.2xlarge"}, {"aws.amazon.com/neuron": "1"}, "trn1.2xlarge"),
        ({"instance_type": "ml.trn1.32xlarge"}, {"aws.amazon.com/neuron": "16"}, "ml.trn1.32xlarge"),
        ({"instance_type": "trn2.48xlarge"}, {"aws.amazon.com/neuron": "16"}, "trn2.48xlarge"),
        ({"backend": "cuda", "instance_type": None, "processes": 8}, {"nvidia.com/gpu": "8"}, None),
        ({"backend": "cpu", "instance_type": None}, {}, None),
    ],
)
def test_the_hardware_section_alone_decides_what_is_booked(
    hardware: dict[str, Any], booked: dict[str, str], selector: str | None
) -> None:
    config = pod_config(TRAIN, _recipe(**hardware), PODS)

    assert {name: count for name, count in _limits(config).items() if name in accelerator_resources()} == booked
    assert config["pod_spec_config"]["nodeSelector"].get("node.kubernetes.io/instance-type") == selector


def test_an_unknown_instance_type_is_one_clear_error() -> None:
    with pytest.raises(InvalidInput, match="needs one of trn1"):
        pod_config(TRAIN, _recipe(instance_type="trn9.huge"), PODS)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.artifact)
def test_every_pod_is_one_that_pod_security_restricted_admits(step: Any) -> None:
    config = pod_config(step, _recipe(), PODS)

    assert config["pod_spec_config"]["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "fsGroup": 1000,
    }
    assert config["container_config"]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_pod_has_as_long_to_end_as_its_processes_need() -> None:
    assert pod_config(TRAIN, _recipe(), PODS)["pod_spec_config"]["terminationGracePeriodSeconds"] == POD_SECONDS


def test_a_pod_gets_a_token_for_the_api_only_where_its_process_needs_one() -> None:
    alone = pod_config(TRAIN, _recipe(), PODS)
    several = pod_config(TRAIN, _recipe(nodes=2), PODS)
    resumes = pod_config(TRAIN, _recipe(), PODS, resumes=True)

    tokens = [config["pod_spec_config"]["automountServiceAccountToken"] for config in (alone, several, resumes)]
    assert tokens == [False, True, True]


def test_only_a_disrupted_pod_is_replaced_by_kubernetes() -> None:
    job = pod_config(TRAIN, _recipe(), PODS)["job_spec_config"]

    assert job["backoffLimit"] == 0
    assert job["podReplacementPolicy"] == "Failed"
    assert job["podFailurePolicy"]["rules"] == [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    ]


@pytest.mark.parametrize("resource", ["aws.amazon.com/neuron", "vpc.amazonaws.com/efa", "nvidia.com/gpu"])
def test_an_asset_without_accelerator_cannot_ask_for_one(resource: str) -> None:
    with pytest.raises(InvalidInput, match=f"merged_model asks for {resource}, but merge runs without"):
        refuse_accelerator(BY_ARTIFACT["merged_model"], {"cpu": "1", resource: "1"})

    refuse_accelerator(TRAIN, {resource: "1"})


def test_a_pod_is_a_pure_function_of_recipe_and_settings() -> None:
    pod_config(TRAIN, _recipe(nodes=4), PODS)

    first, second = (json.dumps(pod_config(TRAIN, _recipe(), PODS)) for _ in range(2))

    assert first == second


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.artifact)
def test_dagster_makes_a_kubernetes_job_of_it(step: Any) -> None:
    from dagster_k8s import job as job_module  # a second of CPU that the other tests here do not need
    from kubernetes.client import ApiClient, Configuration

    asked = pod_config(step, _recipe(), PODS)
    config = job_module.UserDefinedDagsterK8sConfig.from_dict(asked)  # type: ignore[no-untyped-call]  # dagster gives it no types
    made = job_module.construct_dagster_k8s_job(
        job_module.DagsterK8sJobConfig(job_image="run:1", dagster_home="/home"), ["true"], "a-job", config
    )
    job = made.to_dict()
    sent = ApiClient(Configuration()).sanitize_for_serialization(made)
    for version in ("1.31.0", "1.34.0", "1.37.0"):
        kubernetes_validate.validate(sent, version, strict=True)

    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] in ("slim:1", "neuron:1")
    assert container["resources"]["limits"]["memory"] in ("8Gi", "400Gi")
    assert job["spec"]["pod_failure_policy"]["rules"][0]["action"] == "Ignore"
    assert job["spec"]["template"]["spec"]["restart_policy"] == "Never"
