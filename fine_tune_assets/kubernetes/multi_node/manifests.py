"""The Kubernetes objects of a training on several nodes: a Job with a pod for each node, as JSON from pure functions.

The pods copy image, service account, volumes, environment and tolerations from the pod that launches them, so that
these are configured once. Only what they book comes from the recipe's hardware. The launching pod only waits, so it
books no accelerator. Creating and watching belong to launcher.py. Not run on Trainium.
"""

import sys
import zlib
from dataclasses import dataclass

from fine_tune_assets.kubernetes.api.kinds import Object
from fine_tune_assets.kubernetes.api.labels import COMPONENT_LABEL, QUEUE_LABEL, RUN_LABEL
from fine_tune_assets.kubernetes.pods.resources import booking, node_selector
from neuron_ops.backends import find_backend
from neuron_ops.launch.grace import POD_SECONDS
from neuron_ops.launch.outcome import ERROR_FILE
from neuron_ops.recipe.schema import HardwareSection

TRAINING_LABEL = "fine-tune/training"
COPIED_LABELS = (RUN_LABEL, "dagster/code-location")
ZONE = "topology.kubernetes.io/zone"
INDEX = "$(JOB_COMPLETION_INDEX)"  # the Job controller sets it in each pod, and Kubernetes substitutes it here
RANK = "$(RANK)"  # the same, set by Kubeflow's operator
TERMINATION_LOG = "/dev/termination-log"

# Admission adds these to every pod of the service account; a copied one would be there twice.
INJECTED_VOLUMES = ("kube-api-access-", "aws-iam-token", "eks-pod-identity-token")
INJECTED_VARIABLES = (
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)
COPIED_FROM_POD = (
    "affinity",
    "dnsConfig",
    "dnsPolicy",
    "imagePullSecrets",
    "nodeSelector",
    "priorityClassName",
    "runtimeClassName",
    "schedulerName",
    "securityContext",
    "serviceAccountName",
)
COPIED_FROM_CONTAINER = ("image", "imagePullPolicy", "securityContext", "workingDir", "envFrom")


@dataclass(frozen=True, slots=True)
class Training:
    """One attempt at a training on several nodes."""

    name: str
    """Name of the Job and of everything around it: lower case, digits and dashes, 40 at most."""
    hardware: HardwareSection
    step: tuple[str, ...]
    """The step's verb and flags."""
    launcher: Object
    """The pod that this process runs in, as the API shows it."""

    @property
    def namespace(self) -> str:
        """The namespace of the launching pod, and of everything that it creates."""
        return str(self.launcher["metadata"]["namespace"])

    @property
    def selector(self) -> str:
        """The label selector of the pods."""
        return f"{TRAINING_LABEL}={self.name}"

    @property
    def port(self) -> int:
        """The port of the rendezvous; it differs between trainings, for pods that use their host's network."""
        return 20000 + zlib.crc32(self.name.encode()) % 10000 // 2 * 2  # the next port is left free for the device

    @property
    def metadata(self) -> Object:
        """Metadata of each object; Kubernetes deletes the object with the launching pod, its owner."""
        own = self.launcher["metadata"]
        owner = {"apiVersion": "v1", "kind": "Pod", "name": own["name"], "uid": own["uid"], "blockOwnerDeletion": False}
        return {"name": self.name, "namespace": self.namespace, "labels": self.labels, "ownerReferences": [owner]}

    @property
    def labels(self) -> dict[str, str]:
        """Labels that say which run the pods belong to, for people and for the janitor."""
        own = self.launcher["metadata"].get("labels") or {}
        copied = {name: own[name] for name in COPIED_LABELS if name in own}
        return {COMPONENT_LABEL: "training", TRAINING_LABEL: self.name, **copied}


def manifests(training: Training) -> list[Object]:
    """The objects to create, in this order; the launcher watches the last one."""
    if training.hardware.multi_node == "pytorch_job":
        return [_pytorch_job(training)]
    return [_service(training), _indexed_job(training)]


def _service(training: Training) -> Object:
    spec = {
        "clusterIP": "None",
        "selector": {TRAINING_LABEL: training.name},
        "publishNotReadyAddresses": True,  # the nodes look for each other before any of them can be ready
        "ports": [{"name": "rendezvous", "port": training.port}],
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": training.metadata, "spec": spec}


def _indexed_job(training: Training) -> Object:
    nodes = training.hardware.nodes
    template = _template(training, INDEX, f"{training.name}-0.{training.name}", "main")
    template["spec"]["subdomain"] = training.name
    spec = {
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        "backoffLimit": 0,
        # Without the rules a pod that is taken away would be replaced, and the new one would wait for a lost training.
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [0]}},
            ]
        },
        "template": template,
    }
    queue = (training.launcher["metadata"].get("labels") or {}).get(QUEUE_LABEL)
    metadata = training.metadata
    if queue is not None:
        metadata["labels"] = {**metadata["labels"], QUEUE_LABEL: queue}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _pytorch_job(training: Training) -> Object:
    """The same for a cluster with Kubeflow's training operator, which makes a service for each pod."""
    rendezvous = f"{training.name}-master-0"
    replicas: Object = {
        "Master": {
            "replicas": 1,
            "restartPolicy": "Never",
            "template": _template(training, "0", rendezvous, "pytorch"),
        },
        "Worker": {
            "replicas": training.hardware.nodes - 1,
            "restartPolicy": "Never",
            "template": _template(training, RANK, rendezvous, "pytorch"),
        },
    }
    port = {"name": "pytorchjob-port", "containerPort": training.port}  # the operator's services use this name
    for replica in replicas.values():
        replica["template"]["spec"]["containers"][0]["ports"] = [port]
    spec = {"runPolicy": {"backoffLimit": 0, "cleanPodPolicy": "None"}, "pytorchReplicaSpecs": replicas}
    return {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": training.metadata, "spec": spec}


def _template(training: Training, node: str, rendezvous: str, container: str) -> Object:
    own = training.launcher["spec"]
    copied = {name: own[name] for name in COPIED_FROM_POD if own.get(name)}
    volumes = [volume for volume in own.get("volumes") or [] if not volume["name"].startswith(INJECTED_VOLUMES)]
    spec = {
        **copied,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": POD_SECONDS,
        "automountServiceAccountToken": False,  # only the launching pod talks to the API
        "tolerations": [*(own.get("tolerations") or []), *_tolerations(training.hardware)],
        "volumes": volumes,
        "containers": [_container(training, node, rendezvous, container)],
        **_placement(training),
    }
    return {"metadata": {"labels": training.labels}, "spec": spec}


def _container(training: Training, node: str, rendezvous: str, name: str) -> Object:
    own = main_container(training.launcher)
    copied = {key: own[key] for key in COPIED_FROM_CONTAINER if own.get(key)}
    mounts = [item for item in own.get("volumeMounts") or [] if not item["name"].startswith(INJECTED_VOLUMES)]
    # Dagster's variables point to its database, which the pods do not need and should not reach.
    inherited = [
        entry
        for entry in own.get("env") or []
        if not entry["name"].startswith("DAGSTER_") and entry["name"] not in INJECTED_VARIABLES
    ]
    return {
        **copied,
        "name": name,
        "command": [
            sys.executable,
            "-m",
            "neuron_ops.steps.nodes",
            "--node",
            node,
            "--rendezvous",
            f"{rendezvous}:{training.port}",
        ],
        "args": [word.replace("$(", "$$(") for word in training.step],  # "$$(" keeps Kubernetes from substituting
        "env": [*inherited, {"name": ERROR_FILE, "value": TERMINATION_LOG}],
        "resources": _resources(training.hardware, own.get("resources") or {}),
        "volumeMounts": mounts,
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def main_container(pod: Object) -> Object:
    """The container that runs our programs; the pod may have sidecars too."""
    containers: list[Object] = pod["spec"]["containers"]
    return next((item for item in containers if item["name"] == "dagster"), containers[0])


def _resources(hardware: HardwareSection, own: Object) -> Object:
    books = {name: str(count) for name, count in booking(hardware).resources.items()}
    instance = find_backend(hardware).instance(hardware)
    if instance is not None:
        # Booking all devices of a node keeps other trainings away. Requests for three quarters of its CPU and memory
        # keep the pod from being evicted first when memory runs low; a quarter stays for the node's other pods.
        requests = {"cpu": str(instance.vcpus * 3 // 4), "memory": str(instance.host_memory * 3 // 4)}
        return {"limits": books, "requests": requests}
    return {**own, "limits": {**(own.get("limits") or {}), **books}} if books else own


def _tolerations(hardware: HardwareSection) -> list[Object]:
    taint = booking(hardware).taint
    return [{"key": taint, "operator": "Exists", "effect": "NoSchedule"}] if taint else []


def _placement(training: Training) -> Object:
    """Nodes of the booked instance type in one zone, because the fabric between them does not leave a zone."""
    books = booking(training.hardware)
    if books.instance_type is None:
        return {}
    term = {"labelSelector": {"matchLabels": {TRAINING_LABEL: training.name}}, "topologyKey": ZONE}
    return {
        "nodeSelector": node_selector(books),
        "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}},
    }
