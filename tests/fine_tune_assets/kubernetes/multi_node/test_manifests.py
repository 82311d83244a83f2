"""What a training on several nodes is to Kubernetes, valid by the schemas of its releases."""

from typing import Any

import kubernetes_validate
import pytest

from fine_tune_assets.kubernetes.api.kinds import Object
from fine_tune_assets.kubernetes.multi_node.manifests import Training, manifests
from neuron_ops.launch.grace import POD_SECONDS
from neuron_ops.recipe.schema import HardwareSection

TRN1 = HardwareSection(backend="neuron", instance_type="trn1.32xlarge", tensor_parallel_size=8, nodes=4)
CPU = HardwareSection(nodes=2, processes=2)
SCHEMAS = ("1.30", "1.33", "1.36")

LAUNCHER: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "dagster-step-1",
        "namespace": "fine-tune",
        "uid": "8d1f",
        "labels": {"dagster/run-id": "4f1c", "dagster/op": "lora_checkpoints", "kueue.x-k8s.io/queue-name": "trn"},
    },
    "spec": {
        "serviceAccountName": "fine-tune-training",
        "nodeSelector": {"karpenter.sh/nodepool": "cpu"},
        "tolerations": [{"key": "team", "operator": "Exists"}],
        "securityContext": {"runAsNonRoot": True, "fsGroup": 1000},
        "volumes": [
            {"name": "fsx", "persistentVolumeClaim": {"claimName": "fsx"}},
            {"name": "kube-api-access-x2x4", "emptyDir": {}},
            {"name": "aws-iam-token", "emptyDir": {}},
        ],
        "containers": [
            {"name": "sidecar", "image": "proxy:1"},
            {
                "name": "dagster",
                "image": "123.dkr.ecr.us-east-1.amazonaws.com/fine-tune-neuron:1",
                "securityContext": {"allowPrivilegeEscalation": False},
                "resources": {"limits": {"memory": "2Gi", "cpu": "1"}},
                "env": [
                    {"name": "AWS_REGION", "value": "us-east-1"},
                    {"name": "AWS_ROLE_ARN", "value": "arn:aws:iam::123:role/x"},
                    {"name": "DAGSTER_PG_PASSWORD", "value": "secret"},
                ],
                "envFrom": [{"secretRef": {"name": "hugging-face"}}],
                "volumeMounts": [
                    {"name": "fsx", "mountPath": "/fsx"},
                    {"name": "kube-api-access-x2x4", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
                ],
            },
        ],
    },
}


def training(hardware: HardwareSection, **changes: Any) -> Training:
    launcher = {**LAUNCHER, "spec": {**LAUNCHER["spec"], **changes}}
    return Training("fine-tune-train-4f1c-0-0", hardware, ("train", "--recipe", '{"name": "$(x)"}'), launcher)


def job_of(hardware: HardwareSection, **changes: Any) -> Object:
    return manifests(training(hardware, **changes))[-1]


def pod_of(hardware: HardwareSection, **changes: Any) -> Object:
    spec: Object = job_of(hardware, **changes)["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("version", SCHEMAS)
@pytest.mark.parametrize("hardware", [TRN1, CPU, HardwareSection(backend="cuda", nodes=2, processes=8)])
def test_the_service_and_the_job_are_valid(hardware: HardwareSection, version: str) -> None:
    service, job = manifests(training(hardware))

    kubernetes_validate.validate(service, version, strict=True)
    kubernetes_validate.validate(job, version, strict=True)


@pytest.mark.parametrize("version", SCHEMAS)
def test_the_pods_of_a_pytorch_job_are_valid(version: str) -> None:
    [job] = manifests(training(TRN1.model_copy(update={"multi_node": "pytorch_job"})))

    for replica in job["spec"]["pytorchReplicaSpecs"].values():
        pod = {"apiVersion": "v1", "kind": "Pod", **replica["template"]}
        kubernetes_validate.validate(pod, version, strict=True)


def test_the_job_has_a_pod_for_each_node_and_fails_with_the_first() -> None:
    spec = job_of(TRN1)["spec"]

    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    assert spec["backoffLimit"] == 0
    assert {rule["action"] for rule in spec["podFailurePolicy"]["rules"]} == {"FailJob"}
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_everything_belongs_to_the_launching_pod_and_to_its_run() -> None:
    for manifest in manifests(training(TRN1)):
        [owner] = manifest["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("Pod", "dagster-step-1", "8d1f")
        assert manifest["metadata"]["labels"]["dagster/run-id"] == "4f1c"
        assert "dagster/op" not in manifest["metadata"]["labels"], "it is no step of Dagster's"


def test_each_pod_is_found_by_the_name_that_the_others_look_for() -> None:
    service, job = manifests(training(TRN1))
    container = job["spec"]["template"]["spec"]["containers"][0]

    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert service["spec"]["publishNotReadyAddresses"] is True
    port = service["spec"]["ports"][0]["port"]
    rendezvous = f"fine-tune-train-4f1c-0-0-0.fine-tune-train-4f1c-0-0:{port}"
    assert container["command"][1:] == [
        "-m",
        "neuron_ops.steps.nodes",
        "--node",
        "$(JOB_COMPLETION_INDEX)",
        "--rendezvous",
        rendezvous,
    ]
    assert container["args"] == ["train", "--recipe", '{"name": "$$(x)"}'], "Kubernetes would fill in $(x)"


def test_a_pod_books_a_whole_trainium_node_and_the_fabric() -> None:
    pod = pod_of(TRN1)

    resources = pod["containers"][0]["resources"]
    assert resources["limits"] == {"aws.amazon.com/neuron": "16", "vpc.amazonaws.com/efa": "8"}
    assert resources["requests"] == {"cpu": "96", "memory": str(384 * 2**30)}
    assert pod["nodeSelector"] == {"node.kubernetes.io/instance-type": "trn1.32xlarge"}
    assert {"key": "aws.amazon.com/neuron", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    [term] = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "topology.kubernetes.io/zone"


def test_a_hyperpod_node_is_selected_by_its_own_name() -> None:
    hyperpod = TRN1.model_copy(update={"instance_type": "ml.trn1.32xlarge"})

    assert pod_of(hyperpod)["nodeSelector"] == {"node.kubernetes.io/instance-type": "ml.trn1.32xlarge"}


def test_a_cpu_pod_is_what_its_launcher_is() -> None:
    pod = pod_of(CPU)

    assert pod["nodeSelector"] == {"karpenter.sh/nodepool": "cpu"}
    assert pod["containers"][0]["resources"] == {"limits": {"memory": "2Gi", "cpu": "1"}}


def test_what_the_launcher_has_is_said_nowhere_else() -> None:
    pod = pod_of(TRN1)
    container = pod["containers"][0]

    assert container["image"] == "123.dkr.ecr.us-east-1.amazonaws.com/fine-tune-neuron:1"
    assert pod["serviceAccountName"] == "fine-tune-training"
    assert pod["securityContext"] == {"runAsNonRoot": True, "fsGroup": 1000}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False}
    assert {"key": "team", "operator": "Exists"} in pod["tolerations"]
    assert container["volumeMounts"] == [{"name": "fsx", "mountPath": "/fsx"}]
    assert container["envFrom"] == [{"secretRef": {"name": "hugging-face"}}]


def test_what_admission_adds_and_what_only_dagster_needs_is_left_out() -> None:
    pod = pod_of(TRN1)

    assert [volume["name"] for volume in pod["volumes"]] == ["fsx"]
    assert [entry["name"] for entry in pod["containers"][0]["env"]] == ["AWS_REGION", "FINE_TUNE_ERROR_FILE"]
    assert pod["automountServiceAccountToken"] is False


def test_the_error_of_a_rank_becomes_the_pods_termination_message() -> None:
    container = pod_of(TRN1)["containers"][0]

    assert container["env"][-1] == {"name": "FINE_TUNE_ERROR_FILE", "value": container["terminationMessagePath"]}


def test_a_pod_has_as_long_to_end_as_its_processes_need() -> None:
    assert pod_of(CPU)["terminationGracePeriodSeconds"] == POD_SECONDS


def test_a_queue_of_the_launcher_holds_the_job_too() -> None:
    assert job_of(TRN1)["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "trn"


def test_a_pytorch_job_has_a_master_and_workers_that_know_their_numbers() -> None:
    [job] = manifests(training(TRN1.model_copy(update={"multi_node": "pytorch_job"})))

    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert {name: replica["replicas"] for name, replica in replicas.items()} == {"Master": 1, "Worker": 3}
    commands = {name: item["template"]["spec"]["containers"][0]["command"] for name, item in replicas.items()}
    assert commands["Master"][4] == "0"
    assert commands["Worker"][4] == "$(RANK)"
    assert commands["Master"][6] == commands["Worker"][6]
    assert commands["Master"][6].startswith("fine-tune-train-4f1c-0-0-master-0:")


def test_two_trainings_have_rendezvous_ports_of_their_own() -> None:
    ports = {Training(f"fine-tune-train-{number}", TRN1, (), LAUNCHER).port for number in range(20)}

    assert len(ports) > 15
    assert all(20000 <= port < 30000 for port in ports)
    assert all(port % 2 == 0 for port in ports), "the next one is for the device"
