"""What `kubectl get` prints: the columns that the API server computes for it."""

from collections.abc import Callable
from datetime import timedelta

from tests.cluster.kinds import EVENTS, JOBS, NODES, PODS, Kind
from tests.cluster.objects import Object, dig, is_true, name_of, seconds_since

Row = Callable[[Object], list[str]]


def as_table(kind: Kind, items: list[Object], metadata: Object) -> Object:
    """The objects as a meta.k8s.io/v1 Table."""
    names, row = COLUMNS.get(kind, (("Name", "Age"), lambda thing: [name_of(thing), _age(thing)]))
    columns = [{"name": name, "type": "string", "format": "", "description": "", "priority": 0} for name in names]
    rows = [{"cells": row(item), "object": item} for item in items]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": metadata.get("resourceVersion", "")},
        "columnDefinitions": columns,
        "rows": rows,
    }


def _age(thing: Object) -> str:
    seconds = int(seconds_since(thing["metadata"]["creationTimestamp"]))
    return f"{seconds}s" if seconds < 120 else str(timedelta(seconds=seconds))


def pod_status(pod: Object) -> str:
    """The STATUS column: the first container that has a reason speaks for the pod."""
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    if reason := dig(pod, "status.reason"):
        return str(reason)
    for status in dig(pod, "status.initContainerStatuses", []) + dig(pod, "status.containerStatuses", []):
        if reason := dig(status, "state.waiting.reason") or dig(status, "state.terminated.reason"):
            return str(reason)
    return str(dig(pod, "status.phase", "Unknown"))


def _pod(pod: Object) -> list[str]:
    statuses = dig(pod, "status.containerStatuses", [])
    ready = f"{sum(s['ready'] for s in statuses)}/{len(pod['spec']['containers'])}"
    return [name_of(pod), ready, pod_status(pod), str(sum(s["restartCount"] for s in statuses)), _age(pod)]


def _job(job: Object) -> list[str]:
    status = "Complete" if is_true(job, "Complete") else "Failed" if is_true(job, "Failed") else "Running"
    done = f"{dig(job, 'status.succeeded', 0)}/{dig(job, 'spec.completions', 1)}"
    return [name_of(job), "Suspended" if dig(job, "spec.suspend") else status, done, _age(job)]


def _node(node: Object) -> list[str]:
    status = "Ready" if is_true(node, "Ready") else "NotReady"
    return [name_of(node), status + (",SchedulingDisabled" if dig(node, "spec.unschedulable") else ""), _age(node)]


def _event(event: Object) -> list[str]:
    about = f"{dig(event, 'involvedObject.kind', '').lower()}/{dig(event, 'involvedObject.name')}"
    return [_age(event), event.get("type", ""), event.get("reason", ""), about, event.get("message", "")]


COLUMNS: dict[Kind, tuple[tuple[str, ...], Row]] = {
    PODS: (("Name", "Ready", "Status", "Restarts", "Age"), _pod),
    JOBS: (("Name", "Status", "Completions", "Age"), _job),
    NODES: (("Name", "Status", "Age"), _node),
    EVENTS: (("Last Seen", "Type", "Reason", "Object", "Message"), _event),
}
