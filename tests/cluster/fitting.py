"""Whether a pod fits on a node, and if not, why: in the words of the real scheduler."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from tests.cluster.objects import Object, dig, quantity

Amounts = dict[str, float]


def requests_of(pod: Object) -> Amounts:
    """What a pod books: the sum of its containers, or its largest init container where that is more."""
    total: Amounts = defaultdict(float, {"pods": 1.0})
    for container in pod["spec"]["containers"]:
        for name, amount in _booked(container).items():
            total[name] += amount
    for container in dig(pod, "spec.initContainers", []):
        for name, amount in _booked(container).items():
            total[name] = max(total[name], amount)
    return dict(total)


def _booked(container: Object) -> Amounts:
    """Requests; a limit stands for a request that is not given."""
    asked = {**dig(container, "resources.limits", {}), **dig(container, "resources.requests", {})}
    return {name: quantity(amount) for name, amount in asked.items()}


def is_booking(pod: Object) -> bool:
    return bool(dig(pod, "spec.nodeName")) and dig(pod, "status.phase") not in ("Succeeded", "Failed")


def booked(pods: Iterable[Object]) -> dict[str, Amounts]:
    """What is booked on each node."""
    nodes: dict[str, Amounts] = defaultdict(lambda: defaultdict(float))
    for pod in filter(is_booking, pods):
        for name, amount in requests_of(pod).items():
            nodes[pod["spec"]["nodeName"]][name] += amount
    return nodes


def obstacles(pod: Object, node: Object, used: Amounts) -> list[str]:
    """Why the pod cannot run on this node; the first kind of obstacle only, as the real filters stop there."""
    if dig(node, "spec.unschedulable"):
        return ["node(s) were unschedulable"]
    if (taint := _untolerated(pod, node)) is not None:
        return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"]
    if not _selects(pod, node):
        return ["node(s) didn't match Pod's node affinity/selector"]
    free = {name: quantity(amount) for name, amount in dig(node, "status.allocatable", {}).items()}
    lacking = [n for n, asked in requests_of(pod).items() if asked > 0 and asked + used.get(n, 0) > free.get(n, 0)]
    return ["Too many pods" if name == "pods" else f"Insufficient {name}" for name in lacking]


def _untolerated(pod: Object, node: Object) -> Object | None:
    tolerations = dig(pod, "spec.tolerations", [])
    for taint in dig(node, "spec.taints", []):
        hard = taint["effect"] in ("NoSchedule", "NoExecute")
        if hard and not any(tolerates(toleration, taint) for toleration in tolerations):
            return dict(taint)
    return None


def tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if toleration.get("operator") == "Exists":
        return not toleration.get("key") or bool(toleration["key"] == taint["key"])
    same_key = toleration.get("key") == taint["key"]
    return same_key and bool(toleration.get("value", "") == taint.get("value", ""))


def _selects(pod: Object, node: Object) -> bool:
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in dig(pod, "spec.nodeSelector", {}).items()):
        return False
    required = dig(pod, "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms")
    return not required or any(_term_matches(term, labels, node) for term in required)


def _term_matches(term: Object, labels: dict[str, str], node: Object) -> bool:
    fields = {"metadata.name": node["metadata"]["name"]}
    return all(_expression_matches(e, labels) for e in term.get("matchExpressions") or []) and all(
        _expression_matches(e, fields) for e in term.get("matchFields") or []
    )


def _expression_matches(expression: Object, labels: dict[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or []
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and int(value) > int(values[0])
        case _:
            return value is not None and int(value) < int(values[0])


def in_words(found: dict[str, list[str]]) -> str:
    """`0/3 nodes are available: …` from the obstacles on each node."""
    if not found:
        return "no nodes available to schedule pods"
    counts = Counter(reason for reasons in found.values() for reason in reasons)
    reasons = ", ".join(sorted(f"{count} {reason}" for reason, count in counts.items()))
    preemptible = sum(_is_lack(reasons) for reasons in found.values())
    head = f"0/{len(found)} nodes are available"
    return f"{head}: {reasons}. preemption: {head}: {_preemption(preemptible, len(found) - preemptible)}."


def without_claim(claim: str, num_nodes: int) -> str:
    head = f"0/{num_nodes} nodes are available"
    problem = f'persistentvolumeclaim "{claim}" not found'
    return f"{head}: {problem}. preemption: {head}: {_preemption(0, num_nodes)}."


def _is_lack(reasons: list[str]) -> bool:
    return all(reason.startswith(("Insufficient", "Too many")) for reason in reasons)


def _preemption(lacking: int, hopeless: int) -> str:
    parts = [f"{lacking} No preemption victims found for incoming pod"] if lacking else []
    parts += [f"{hopeless} Preemption is not helpful for scheduling"] if hopeless else []
    return ", ".join(parts)
