"""What the API server refuses and what it fills in when an object is created.

Only what the programs under test can notice: defaults of Jobs and pods, and references that must exist.
"""

import re

from tests.cluster.errors import ApiError
from tests.cluster.kinds import JOBS, NAMESPACES, NODES, PODS, PRIORITY_CLASSES, SERVICE_ACCOUNTS, Kind
from tests.cluster.objects import (
    Object,
    condition,
    dig,
    merge_patch,
    name_of,
    namespace_of,
    uid_of,
    with_conditions,
)
from tests.cluster.store import DeleteOptions, Store

SYSTEM_PRIORITIES = ("system-cluster-critical", "system-node-critical")
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def admit(store: Store, kind: Kind, thing: Object) -> Object:
    """The object as it is stored; an error where a real API server would refuse it."""
    _demand_valid_names(kind, thing)
    if kind == PODS:
        return _pod(store, thing)
    if kind == JOBS:
        return _job(thing)
    if kind == NAMESPACES:
        return merge_patch(thing, {"status": {"phase": "Active"}})
    if kind == NODES:
        return merge_patch({"spec": {}, "status": {}}, thing)
    return thing


def invalid(kind: Kind, thing: Object, problem: str) -> ApiError:
    group = f".{kind.group}" if kind.group else ""
    return ApiError(422, "Invalid", f'{kind.name}{group} "{name_of(thing)}" is invalid: {problem}')


def _demand_valid_names(kind: Kind, thing: Object) -> None:
    if NAME.fullmatch(name_of(thing)) is None:
        raise invalid(kind, thing, f'metadata.name: Invalid value: "{name_of(thing)}": must be a DNS subdomain')
    for key, value in dig(thing, "metadata.labels", {}).items():
        if LABEL.fullmatch(value) is None:
            raise invalid(kind, thing, f'metadata.labels: Invalid value: "{value}" (label {key})')


def _pod(store: Store, pod: Object) -> Object:
    if not dig(pod, "spec.containers"):
        raise invalid(PODS, pod, "spec.containers: Required value")
    account = dig(pod, "spec.serviceAccountName", "default")
    if store.find(SERVICE_ACCOUNTS, namespace_of(pod), account) is None and account != "default":
        raise _forbidden(
            pod, f'error looking up service account {namespace_of(pod)}/{account}: serviceaccount "{account}" not found'
        )
    defaults = {"restartPolicy": "Always", "terminationGracePeriodSeconds": 30}
    decided = {"spec": {"serviceAccountName": account, "priority": _priority(store, pod)}}
    admitted: Object = merge_patch({"spec": defaults, "status": {"phase": "Pending"}}, merge_patch(pod, decided))
    return admitted


def _priority(store: Store, pod: Object) -> int:
    name = dig(pod, "spec.priorityClassName")
    if not name or name in SYSTEM_PRIORITIES:
        return 2_000_000_000 if name else 0
    if (found := store.find(PRIORITY_CLASSES, "", name)) is None:
        raise _forbidden(pod, f"no PriorityClass with name {name} was found")
    return int(found["value"])


def _forbidden(pod: Object, problem: str) -> ApiError:
    return ApiError(403, "Forbidden", f"{PODS.in_words(name_of(pod))} is forbidden: {problem}")


def _job(job: Object) -> Object:
    policy = dig(job, "spec.template.spec.restartPolicy")
    if policy not in ("Never", "OnFailure"):
        allowed = 'supported values: "OnFailure", "Never"'
        raise invalid(JOBS, job, f"spec.template.spec.restartPolicy: Required value: valid values: {allowed}")
    if dig(job, "spec.podFailurePolicy") and policy != "Never":
        raise invalid(JOBS, job, "spec.template.spec.restartPolicy: must be Never when podFailurePolicy is specified")
    spec = job["spec"]
    defaults = {"parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": False}
    if spec.get("completions") is None and spec.get("parallelism") is None:
        defaults["completions"] = 1
    if spec.get("completionMode") == "Indexed" and spec.get("completions") is None:
        raise invalid(JOBS, job, "spec.completions: Required value: when completion mode is Indexed")
    labels = {"batch.kubernetes.io/controller-uid": uid_of(job), "batch.kubernetes.io/job-name": name_of(job)}
    template = {"metadata": {"labels": labels | {"controller-uid": uid_of(job), "job-name": name_of(job)}}}
    selector = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid_of(job)}}
    filled = merge_patch({"spec": defaults, "status": {}}, job)
    return merge_patch(filled, {"spec": {"template": template, "selector": selector}})


def evict(store: Store, namespace: str, name: str, grace_seconds: int | None) -> None:
    """The eviction API, as node drains use it: the pod is marked as disrupted, then deleted."""
    pod = store.get(PODS, namespace, name)
    mark = condition("DisruptionTarget", "True", "EvictionByEvictionAPI", "Eviction API: evicting")
    body = merge_patch(pod, {"status": {"conditions": with_conditions(pod, mark)}})
    store.replace(PODS, namespace, name, body, status_only=True)
    store.delete(PODS, namespace, name, DeleteOptions(grace_seconds))


def bind(store: Store, namespace: str, name: str, node: str) -> None:
    """What the scheduler posts when it has found a node for a pod."""
    pod = store.get(PODS, namespace, name)
    if dig(pod, "spec.nodeName"):
        raise ApiError(409, "Conflict", f'pod {name} is already assigned to node "{pod["spec"]["nodeName"]}"')
    bound = store.replace(PODS, namespace, name, merge_patch(pod, {"spec": {"nodeName": node}}))
    status = {"conditions": with_conditions(bound, condition("PodScheduled"))}
    store.replace(PODS, namespace, name, merge_patch(bound, {"status": status}), status_only=True)
