"""The scheduler: binds each pending pod to the first node where it fits, and says why where there is none.

A real control plane has its own; this one is for the stand-in. It neither scores nodes nor preempts pods.
"""

from tests.cluster.client import Client
from tests.cluster.errors import ignored
from tests.cluster.fitting import booked, in_words, obstacles, requests_of, without_claim
from tests.cluster.informer import Reconciler
from tests.cluster.kinds import CLAIMS, NODES, PODS
from tests.cluster.objects import Object, condition, dig, find_condition, name_of, namespace_of, uid_of, with_conditions

SOURCE = "default-scheduler"


class Scheduler:
    """Looks at all pending pods whenever a pod, a node or a claim changes."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._bound: dict[str, Object] = {}
        """Pods that were bound and that the watch may not have shown yet, by uid, with their node."""

    async def run(self) -> None:
        informers = [await self._client.informer(kind) for kind in (PODS, NODES, CLAIMS)]
        self._pods, self._nodes, self._claims = informers
        await Reconciler(self._reconcile, informers).run()

    async def _reconcile(self) -> None:
        # One look at all nodes for all pods: a node that came while a pod is being refused would go to the next in
        # turn, past the more important one that has just been told that there is none.
        nodes = list(self._nodes.items.values())
        pods = self._seen_pods()
        used = booked(pods)
        for pod in sorted(filter(_is_pending, pods), key=_turn):
            found = {name_of(node): obstacles(pod, node, used[name_of(node)]) for node in nodes}
            fitting = next((name for name, reasons in found.items() if not reasons), None)
            if claim := self._missing_claim(pod):
                await self._refuse(pod, without_claim(claim, len(found)))
            elif fitting is None:
                await self._refuse(pod, in_words(found))
            else:
                for name, amount in requests_of(pod).items():
                    used[fitting][name] += amount
                await self._bind(pod, fitting)

    def _seen_pods(self) -> list[Object]:
        """All pods, those on their node already that were bound since the watch last showed them."""
        shown = {uid_of(pod): pod for pod in self._pods.items.values()}
        self._bound = {uid: pod for uid, pod in self._bound.items() if uid in shown and _is_pending(shown[uid])}
        return list((shown | self._bound).values())

    def _missing_claim(self, pod: Object) -> str:
        """The first claim among the pod's volumes that does not exist."""
        claims = [dig(volume, "persistentVolumeClaim.claimName") for volume in dig(pod, "spec.volumes", [])]
        return next((c for c in claims if c and (namespace_of(pod), c) not in self._claims.items), "")

    async def _bind(self, pod: Object, node: str) -> None:
        binding = {"metadata": {"name": name_of(pod)}, "target": {"apiVersion": "v1", "kind": "Node", "name": node}}
        with ignored(404, 409):
            await self._client.post(PODS, namespace_of(pod), name_of(pod), "binding", binding)
            self._bound[uid_of(pod)] = {**pod, "spec": {**pod["spec"], "nodeName": node}}
            where = f"Successfully assigned {namespace_of(pod)}/{name_of(pod)} to {node}"
            await self._client.event(pod, "Normal", "Scheduled", where, SOURCE)

    async def _refuse(self, pod: Object, message: str) -> None:
        old = find_condition(pod, "PodScheduled")
        if old is not None and old.get("message") == message:
            return
        waiting = condition("PodScheduled", "False", "Unschedulable", message)
        with ignored(404, 409):
            await self._client.patch_status(PODS, pod, {"conditions": with_conditions(pod, waiting)})
            await self._client.event(pod, "Warning", "FailedScheduling", message, SOURCE)


def _is_pending(pod: Object) -> bool:
    waits = dig(pod, "spec.schedulingGates") or pod["metadata"].get("deletionTimestamp")
    return not dig(pod, "spec.nodeName") and not waits and dig(pod, "status.phase", "Pending") == "Pending"


def _turn(pod: Object) -> tuple[int, str]:
    """Higher priority first, then who came first."""
    return -dig(pod, "spec.priority", 0), pod["metadata"]["creationTimestamp"]
