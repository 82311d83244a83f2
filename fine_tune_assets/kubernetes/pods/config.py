"""The pod of an asset's step, made from a recipe and the team's settings, in the form that dagster-k8s takes.

Pure: the same arguments give the same dictionary. Applying it belongs to executor/step_handler.py.
"""

from collections.abc import Mapping
from typing import Any

from fine_tune_assets.kubernetes.api.labels import QUEUE_LABEL
from fine_tune_assets.kubernetes.pods.resources import booking, node_selector
from fine_tune_assets.kubernetes.pods.settings import Pods, PodSettings
from neuron_ops.backends import accelerator_resources
from neuron_ops.backends.booking import NOTHING, Booking
from neuron_ops.errors import InvalidInput
from neuron_ops.launch.grace import POD_SECONDS
from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps.table import Step

SCRATCH = "/scratch"
# Step pods get the run launcher's volumes too; a volume of the same name would make the pod invalid.
SCRATCH_VOLUME, SHARED_MEMORY_VOLUME = "step-scratch", "step-shared-memory"

# What Pod Security "restricted" demands.
POD_SECURITY = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}

# A pod whose node is taken away (spot, drain, preemption) is replaced by Kubernetes without a failure of the Job, and
# only once it has really ended. Any other end of the pod ends the Job, and Dagster decides whether to retry the step.
REPLACED_WHEN_DISRUPTED = {
    "backoffLimit": 0,
    "podReplacementPolicy": "Failed",
    "podFailurePolicy": {
        "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
    },
}

Config = dict[str, Any]  # Any: the JSON of Kubernetes objects


def pod_config(step: Step, recipe: Recipe, pods: Pods, *, finished: bool = False, resumes: bool = False) -> Config:
    """The pod of a step; with `finished`, of a step whose artifact exists already and which therefore books nothing.

    If a run `resumes` in another pod, Dagster creates its run launcher in every process, which needs a token for the
    Kubernetes API. Otherwise a step needs no token, unless it creates pods itself.

    Raises:
        InvalidInput: the recipe's instance type is missing or unknown.
    """
    waits = not finished and step.nodes(recipe) > 1
    books = booking(recipe.hardware) if step.needs_accelerator and not finished else NOTHING
    settings = pods.default if finished else pods.settings(step.artifact, for_hardware=step.needs_accelerator)
    labels = {QUEUE_LABEL: settings.queue} if settings.queue else {}
    if waits:
        # The nodes' own pods book the machines; this one creates them, follows their logs and waits. They copy its
        # labels and wait in the queue; this pod does not, because one training should not queue twice.
        books = Booking(taint=books.taint if settings.node_selector else None)
        settings = PodSettings(cpu=pods.default.cpu, memory=pods.default.memory).over(settings)
    return {
        "container_config": _container(settings, books),
        "pod_spec_config": {"automountServiceAccountToken": waits or resumes} | _pod_spec(settings, books, pods.user),
        "pod_template_spec_metadata": {"labels": labels} if waits and labels else {},
        "job_metadata": {"labels": labels} if labels and not waits else {},
        "job_spec_config": REPLACED_WHEN_DISRUPTED
        | ({"activeDeadlineSeconds": 60 * settings.deadline_minutes} if settings.deadline_minutes else {}),
    }


def refuse_accelerator(step: Step, limits: Mapping[str, object]) -> None:
    """Refuse a pod that asks for an accelerator, in any configuration, although its step runs without one.

    Raises:
        InvalidInput: the pod asks for an accelerator that its step does not use.
    """
    asked = [name for name in accelerator_resources() if name in limits]
    if asked and not step.needs_accelerator:
        raise InvalidInput(
            f"The pod of {step.artifact} asks for {asked[0]}, but {step.verb} runs without an accelerator and would "
            "leave it idle. Remove it from the executor's configuration."
        )


def _container(settings: PodSettings, books: Booking) -> Config:
    amounts = {"cpu": settings.cpu, "memory": settings.memory, "ephemeral-storage": settings.scratch}
    # Requests equal limits: the quality of service is "Guaranteed", which is evicted last.
    resources = {name: amount for name, amount in amounts.items() if amount} | {
        name: str(count) for name, count in books.resources.items()
    }
    return {
        **({"image": settings.image} if settings.image else {}),
        "resources": {"requests": resources, "limits": resources},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [
            *(
                {"name": volume.claim, "mountPath": volume.mount, "readOnly": volume.read_only}
                for volume in settings.volumes or ()
            ),
            *([{"name": SCRATCH_VOLUME, "mountPath": SCRATCH}] if settings.scratch else []),
            *([{"name": SHARED_MEMORY_VOLUME, "mountPath": "/dev/shm"}] if settings.shared_memory else []),
        ],
        "env": [{"name": "TMPDIR", "value": SCRATCH}] if settings.scratch else [],
        "envFrom": [{"secretRef": {"name": name}} for name in settings.secrets or ()],
    }


def _pod_spec(settings: PodSettings, books: Booking, user: int | None) -> Config:
    security = POD_SECURITY | ({"runAsUser": user, "runAsGroup": user, "fsGroup": user} if user else {})
    tolerations = [
        {"operator": "Equal" if taint.value else "Exists", **taint.model_dump(exclude_none=True)}
        for taint in settings.tolerations or ()
    ]
    spec: Config = {
        "securityContext": security,
        "volumes": _volumes(settings),
        "nodeSelector": {**(settings.node_selector or {}), **node_selector(books)},
        "tolerations": [*tolerations, *([{"key": books.taint, "operator": "Exists"}] if books.taint else [])],
        "terminationGracePeriodSeconds": POD_SECONDS,
        "serviceAccountName": settings.service_account,
        "priorityClassName": settings.priority_class,
    }
    return {name: value for name, value in spec.items() if value}


def _volumes(settings: PodSettings) -> list[Config]:
    claims = {volume.claim: volume for volume in settings.volumes or ()}
    return [
        *({"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims),
        *([{"name": SCRATCH_VOLUME, "emptyDir": {"sizeLimit": settings.scratch}}] if settings.scratch else []),
        *(
            [{"name": SHARED_MEMORY_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": settings.shared_memory}}]
            if settings.shared_memory
            else []
        ),
    ]
