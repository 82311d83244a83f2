"""Finds what would fail in the cluster before a run starts, for `fine-tune plan`.

Without a cluster it checks the settings and the pods. With one it also checks that every object that the pods name
exists, and that this account may do what a run does. It only reads. It cannot know whether a pod will find a node: the
scheduler decides that once the pod exists.
"""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from fine_tune_assets.kubernetes.api.labels import QUEUE_LABEL
from fine_tune_assets.kubernetes.deployment import check_settings, check_store
from fine_tune_assets.kubernetes.pods.config import SHARED_MEMORY_VOLUME, Config, pod_config
from fine_tune_assets.kubernetes.pods.settings import load_pods
from fine_tune_assets.settings import Settings
from neuron_ops.backends import accelerator_resources, find_backend
from neuron_ops.errors import InvalidInput
from neuron_ops.planning.forecast import Problem
from neuron_ops.recipe.schema import HardwareSection, Recipe
from neuron_ops.steps.table import STEPS

if TYPE_CHECKING:
    from fine_tune_assets.kubernetes.api.client import Client

# What a run's pod sends (diagnosis/observer.py, and dagster_k8s when it creates a Job): verb, API group, resource.
NEEDED = (
    ("create", "batch", "jobs"),
    ("delete", "batch", "jobs"),
    ("get", "batch", "jobs"),
    ("list", "batch", "jobs"),
    ("get", "", "pods/log"),
    ("list", "", "pods"),
    ("list", "", "events"),
)
DECIMAL = {"": 1, "m": 0.001, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
UNITS = DECIMAL | {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def preflight(settings: Settings, recipe: Recipe) -> list[Problem]:
    """Every problem that can be found now.

    Raises:
        InvalidInput: the settings themselves cannot be read.
        Unavailable: a cluster is configured and does not answer.
    """
    pods = load_pods(settings.pods)
    try:
        check_store(settings.store, pods)
        if settings.deployment == "kubernetes":  # otherwise DAGSTER_HOME belongs to the user's machine
            check_settings(settings, pods)
        configs = {step.artifact: pod_config(step, recipe, pods) for step in STEPS}
    except InvalidInput as error:
        return [Problem(True, str(error))]
    found = list(_impossible(configs, recipe.hardware))
    if find_spec("kubernetes") is None:
        return [*found, Problem(False, "The cluster was not checked. Install fine-tune-assets[k8s] to check it.")]
    # Only where it is installed: the Kubernetes client, 300 CPU ms.
    from fine_tune_assets.kubernetes.api.client import connect
    from fine_tune_assets.kubernetes.api.errors import NoCluster

    try:
        client = connect(settings.kubeconfig, pods.namespace)
    except NoCluster:
        return [*found, Problem(False, "The cluster was not checked: none is configured. Set KUBECONFIG to check it.")]
    return [*found, *in_cluster(client, configs)]


def in_cluster(client: "Client", configs: Mapping[str, Config]) -> Iterator[Problem]:
    """Objects that the pods name and the cluster lacks, each once, and the verbs that this account lacks."""
    if client.is_missing("Namespace", client.namespace):
        # Everything else in it would be missing too.
        yield Problem(True, f"Namespace {client.namespace} is not in the cluster. Apply deployments/kubernetes first.")
        return
    for (kind, name), assets in _named(configs).items():
        missing = client.is_missing(kind, name)
        if missing:
            pods = f"the pod{'s' * (len(assets) > 1)} of {', '.join(assets)}"
            where = "the cluster" if kind == "PriorityClass" else f"namespace {client.namespace}"
            yield Problem(
                True,
                f"{kind} {name} is not in {where}, and {pods} cannot start without it. "
                "Create it (docs/kubernetes.md), or correct FINE_TUNE_PODS.",
            )
        if missing is None:
            yield Problem(False, f"This account may not read {kind} {name}, so it is unknown whether it exists.")
    for verb, group, resource in NEEDED:
        if not client.may(verb, group, resource):
            yield Problem(
                True,
                f"This account may not {verb} {resource} in namespace {client.namespace}, and a run has to. Plan in "
                "the daemon's pod, or give this account the Role fine-tune-orchestration (deployments/kubernetes).",
            )


def _named(configs: Mapping[str, Config]) -> dict[tuple[str, str], list[str]]:
    """Kind and name of every object that must exist, with the assets whose pods need it."""
    needs: dict[tuple[str, str], list[str]] = {}
    for artifact, config in configs.items():
        for thing in dict.fromkeys(_of_pod(config)):
            needs.setdefault(thing, []).append(artifact)
    return needs


def _of_pod(config: Config) -> Iterator[tuple[str, str]]:
    spec = config["pod_spec_config"]
    for kind, field in (("ServiceAccount", "serviceAccountName"), ("PriorityClass", "priorityClassName")):
        if field in spec:
            yield kind, spec[field]
    for volume in spec.get("volumes", []):
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for source in config["container_config"].get("envFrom", []):
        yield "Secret", source["secretRef"]["name"]
    for metadata in ("job_metadata", "pod_template_spec_metadata"):
        if queue := config[metadata].get("labels", {}).get(QUEUE_LABEL):
            yield "LocalQueue", queue


def _impossible(configs: Mapping[str, Config], hardware: HardwareSection) -> Iterator[Problem]:
    """Amounts that no node of the recipe's instance type has, or that contradict each other."""
    for artifact, config in configs.items():
        limits = config["container_config"]["resources"]["limits"]
        for volume in config["pod_spec_config"].get("volumes", []):
            shared = volume["emptyDir"].get("sizeLimit") if volume["name"] == SHARED_MEMORY_VOLUME else None
            if shared and "memory" in limits and _number(shared) > _number(limits["memory"]):
                less = f"less than its shared_memory of {shared}, which is part of it"
                yield _refusal(artifact, f"has {limits['memory']} of memory, {less}")
        machine = find_backend(hardware).instance(hardware)
        if machine is not None and limits.keys() & set(accelerator_resources()):
            for name, most in (("cpu", str(machine.vcpus)), ("memory", f"{machine.host_memory // 2**30}Gi")):
                if name in limits and _number(limits[name]) > _number(most):
                    has = f"{hardware.instance_type} has {most}, so no node can run it"
                    yield _refusal(artifact, f"asks for {limits[name]} of {name}, but {has}")


def _refusal(artifact: str, why: str) -> Problem:
    return Problem(True, f"The pod of {artifact} {why}. Correct the amounts in FINE_TUNE_PODS.")


def _number(amount: str) -> float:
    number = amount.rstrip("kmMGTi")
    return float(number) * UNITS[amount.removeprefix(number)]
