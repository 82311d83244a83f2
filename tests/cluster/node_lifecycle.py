"""The node controllers: what happens to nodes whose kubelet is silent, and to the pods on them.

A real control plane has its own (40 s of grace, 300 s of toleration); the stand-in's times can be set.
"""

from dataclasses import dataclass

from tests.cluster.client import Client
from tests.cluster.errors import ignored
from tests.cluster.fitting import tolerates
from tests.cluster.informer import Reconciler
from tests.cluster.kinds import NODES, PODS
from tests.cluster.objects import (
    Object,
    condition,
    dig,
    find_condition,
    is_true,
    name_of,
    seconds_since,
    with_conditions,
)

SOURCE = "node-controller"
UNREACHABLE = "node.kubernetes.io/unreachable"


@dataclass(frozen=True, slots=True)
class NodeTimes:
    """When a silent node is given up."""

    grace: float = 600.0
    """Seconds without a heartbeat until a node is not ready. More than a real one's 40: a busy machine may be late, and
    no test waits for them, for `Cluster.lose_node` makes them pass."""
    toleration: float = 1.0
    """Seconds that pods stay on a node that is not ready, unless they tolerate it for longer or for ever."""
    gone: float = 2.0
    """Seconds until the cloud reports that the instance is gone, which deletes the node."""


class NodeLifecycle:
    """Taints silent nodes, deletes the pods on them, deletes the nodes, and forgets pods of nodes that are gone."""

    def __init__(self, client: Client, times: NodeTimes) -> None:
        self._client, self._times = client, times

    async def run(self) -> None:
        self._pods, self._nodes = await self._client.informer(PODS), await self._client.informer(NODES)
        await Reconciler(self._reconcile, (self._nodes, self._pods)).run()

    async def _reconcile(self) -> float | None:
        for node in list(self._nodes.items.values()):
            with ignored(404, 409):
                await self._look_at(node)
        for pod in list(self._pods.items.values()):
            node = dig(pod, "spec.nodeName")
            if node and ("", node) not in self._nodes.items:
                with ignored(404, 409):
                    await self._forget(pod, "PodGC: node no longer exists")
        # Often enough to see a node silent, its pods evicted, and the node gone, one after another.
        return min(self._times.grace / 4, 0.7 * self._times.toleration) if self._nodes.items else None

    async def _look_at(self, node: Object) -> None:
        ready = find_condition(node, "Ready")
        if ready is None:
            return
        if ready["status"] != "Unknown":
            if seconds_since(ready["lastHeartbeatTime"]) > self._times.grace:
                await self._mark_silent(node, ready)
            return
        silent_for = seconds_since(ready["lastTransitionTime"])
        for pod in self._pods_on(node):
            if silent_for > self._tolerated(pod):
                await self._evict(pod)
        if silent_for > self._times.gone:
            await self._client.delete(NODES, node)

    def _pods_on(self, node: Object) -> list[Object]:
        return [pod for pod in self._pods.items.values() if dig(pod, "spec.nodeName") == name_of(node)]

    async def _mark_silent(self, node: Object, ready: Object) -> None:
        message = "Kubelet stopped posting node status."
        unknown = condition("Ready", "Unknown", "NodeStatusUnknown", message)
        unknown["lastHeartbeatTime"] = ready["lastHeartbeatTime"]
        await self._client.patch_status(NODES, node, {"conditions": with_conditions(node, unknown)})
        taints = [{"key": UNREACHABLE, "effect": effect} for effect in ("NoSchedule", "NoExecute")]
        await self._client.patch(NODES, node, {"spec": {"taints": [*dig(node, "spec.taints", []), *taints]}})
        for pod in self._pods_on(node):
            if is_true(pod, "Ready"):
                unready = condition("Ready", "False", "NodeNotReady")
                await self._client.patch_status(PODS, pod, {"conditions": with_conditions(pod, unready)})
            await self._client.event(pod, "Warning", "NodeNotReady", "Node is not ready", SOURCE)

    def _tolerated(self, pod: Object) -> float:
        taint = {"key": UNREACHABLE, "effect": "NoExecute"}
        times = [t.get("tolerationSeconds") for t in dig(pod, "spec.tolerations", []) if tolerates(t, taint)]
        if not times:
            return self._times.toleration
        return min((float(t) for t in times if t is not None), default=float("inf"))

    async def _evict(self, pod: Object) -> None:
        if pod["metadata"].get("deletionTimestamp") or dig(pod, "status.phase") in ("Succeeded", "Failed"):
            return
        why = "Taint manager: deleting due to NoExecute taint"
        marked = condition("DisruptionTarget", "True", "DeletionByTaintManager", why)
        await self._client.patch_status(PODS, pod, {"conditions": with_conditions(pod, marked)})
        await self._client.delete(PODS, pod)

    async def _forget(self, pod: Object, why: str) -> None:
        if dig(pod, "status.phase") not in ("Succeeded", "Failed"):
            marked = condition("DisruptionTarget", "True", "DeletionByPodGC", why)
            status = {"phase": "Failed", "conditions": with_conditions(pod, marked)}
            await self._client.patch_status(PODS, pod, status)
        await self._client.delete(PODS, pod, grace_seconds=0)
