"""A whole cluster for tests: the parts put together, nodes on demand, faults on demand, and what is in it.

By default everything is the stand-in's. Given the kubeconfig of a real control plane, only the kubelets are ours.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from kubernetes import client as kubernetes
from kubernetes.config import new_client_from_config

from tests.cluster.apiserver import ApiServer
from tests.cluster.client import Client
from tests.cluster.jobs import JobController
from tests.cluster.kinds import EVENTS, JOBS, NAMESPACES, NODES, PODS, Kind
from tests.cluster.kubeconfig import write_kubeconfig
from tests.cluster.kubelet import Kubelet, NodeSpec
from tests.cluster.node_lifecycle import NodeLifecycle, NodeTimes
from tests.cluster.objects import Object, condition, dig, name_of, uid_of, with_conditions
from tests.cluster.pod_setup import Image
from tests.cluster.pod_worker import KubeletSettings, PodWorker
from tests.cluster.requests import Fault
from tests.cluster.scheduler import Scheduler
from tests.cluster.tasks import cancel_all, spawn

T = TypeVar("T")
LONG_AGO = "2000-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Times:
    """How long the cluster waits; short for tests, the order of magnitude of a real one in the comments."""

    backoff: float = 0.5
    """Between two tries to pull, to restart or to replace a pod that failed (10 s and more)."""
    node: NodeTimes = field(default_factory=NodeTimes)
    """Until the pods of a silent node are given up (300 s), and it itself."""


class Cluster:
    """Lives as long as the `with` block. Its loop runs in a thread of its own; its methods are for other threads."""

    def __init__(
        self,
        root: Path,
        *,
        images: Mapping[str, Image] | None = None,
        times: Times = Times(),
        kubeconfig: Path | None = None,
        namespace: str = "default",
    ) -> None:
        self.root, self.namespace = root, namespace
        self.images: dict[str, Image] = dict(images if images is not None else {"local/*": Image()})
        """What can be pulled. May be changed at any time."""
        self.kubeconfig = kubeconfig or root / "kubeconfig"
        self.server = None if kubeconfig else ApiServer()
        self._times, self._kubelets = times, dict[str, Kubelet]()
        self._errors: list[BaseException] = []
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True, exist_ok=True)
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, context: self._note(context))
        self._thread = threading.Thread(target=self._run, name="cluster", daemon=True)
        self._thread.start()
        self._ready.wait()
        self.raise_errors()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if error is None:
            self.raise_errors()

    def _note(self, context: dict[str, Any]) -> None:
        """Keep an error of this loop, unless it is a foreign one.

        s3fs closes a client that is collected as garbage in whatever loop runs then, which may be this one.
        """
        if "aiobotocore" not in repr(context.get("future") or context.get("task")):
            self._errors.append(_error_of(context))

    def raise_errors(self) -> None:
        """Raise what went wrong inside the cluster itself: always a mistake of ours."""
        if self._errors:
            raise RuntimeError("a part of the test cluster failed") from self._errors[0]

    # What tests look at

    @property
    def api(self) -> kubernetes.CoreV1Api:
        return kubernetes.CoreV1Api(new_client_from_config(str(self.kubeconfig)))

    @property
    def batch(self) -> kubernetes.BatchV1Api:
        return kubernetes.BatchV1Api(new_client_from_config(str(self.kubeconfig)))

    def objects(self, kind: Kind, labels: str = "") -> list[Object]:
        namespace = self.namespace if kind.namespaced else ""
        return self.call(self._client.objects(kind, namespace, labels))

    def pods(self, labels: str = "") -> list[Object]:
        return self.objects(PODS, labels)

    def jobs(self, labels: str = "") -> list[Object]:
        return self.objects(JOBS, labels)

    def events(self, reason: str = "") -> list[Object]:
        return [event for event in self.objects(EVENTS) if reason in ("", event["reason"])]

    def pod(self, name: str) -> Object:
        return self.call(self._client.get(PODS, self.namespace, name))

    def create(self, kind: Kind, body: Object) -> Object:
        return self.call(self._client.create(kind, self.namespace if kind.namespaced else "", body))

    def patch(self, kind: Kind, thing: Object, change: Object) -> Object:
        return self.call(self._client.patch(kind, thing, change))

    def delete(self, kind: Kind, thing: Object, grace_seconds: int | None = None) -> None:
        self.call(self._client.delete(kind, thing, grace_seconds))

    def versions(self, kind: Kind, name: str) -> list[Object]:
        """All that an object has been: also what did not last until somebody looked."""
        if self.server is None:
            raise RuntimeError("A real API server does not tell what an object has been.")
        return self.server.store.versions(kind, name)

    def log(self, pod: str) -> str:
        """The log of a pod's first container, as `kubectl logs` shows it."""
        response = self.api.read_namespaced_pod_log(pod, self.namespace, _preload_content=False)
        return str(response.data.decode())

    def wait_for(self, look: Callable[[], T | None], what: str = "it", seconds: float = 60.0) -> T:
        """The first true thing that `look` returns."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.raise_errors()
            if found := look():
                return found
            time.sleep(0.05)
        states = {name_of(pod): dig(pod, "status.phase") for pod in self.pods()}
        raise TimeoutError(f"waited {seconds:g} s for {what}; the pods are {states}")

    def wait_for_phase(self, pod: str, phase: str) -> Object:
        """The pod once it is there; an error as soon as it has ended otherwise."""

        def look() -> Object | None:
            found = self.pod(pod)
            reached = dig(found, "status.phase")
            if reached != phase and reached in ("Succeeded", "Failed"):
                raise RuntimeError(f"{pod} is {reached}, not {phase}: {found['status']}\n{self.log(pod)}")
            return found if reached == phase else None

        return self.wait_for(look, f"pod {pod} to be {phase}")

    # What tests do to it

    def add_node(
        self,
        name: str,
        resources: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        taints: tuple[Object, ...] = (),
    ) -> None:
        """A machine with 32 CPUs and 256 GiB, and these resources on top or instead."""
        if name in self._kubelets:
            raise ValueError(f"{name} is a node already.")
        self.call(self._add_node(NodeSpec(name, resources or {}, labels or {}, taints)))

    def fault(self, requests: str, *, times: int = 1, status: int = 0, delay: float = 0.0, reset: bool = False) -> None:
        """What the next requests suffer whose `VERB /path` holds this regular expression."""
        if self.server is None:
            raise RuntimeError("A real API server has no faults on demand.")
        self.server.faults.append(Fault(requests, times, status, delay, reset))

    def oom_kill(self, pod: str) -> None:
        """Kill the pod's first container as the kernel does when it takes more memory than its limit."""
        self._on_worker(pod, lambda worker: worker.kill(next(iter(worker.slots)), "OOMKilled"))

    def evict(self, pod: str, grace_seconds: float = 0.0) -> None:
        """What a kubelet does to a pod when its node runs low on memory."""
        message = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 52Mi. "
        self._on_worker(pod, lambda worker: worker.evict(message, grace_seconds))

    def lose_node(self, name: str) -> None:
        """The machine is gone, nobody has been told, and the time passes after which it is missed."""
        self.call(self._lose(name))

    def reclaim_node(self, name: str, grace_seconds: int = 2) -> None:
        """A spot interruption with a termination handler: cordon, evict every pod, then the machine is gone."""
        self.call(self._reclaim(name, grace_seconds))

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run this in the cluster's loop and wait for what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def _on_worker(self, pod: str, do: Callable[[PodWorker], None]) -> None:
        found = self.pod(pod)
        worker = self._kubelets[found["spec"]["nodeName"]].workers[uid_of(found)]
        self._loop.call_soon_threadsafe(do, worker)

    async def _add_node(self, spec: NodeSpec) -> None:
        settings = KubeletSettings(self.root, self.images, self._times.backoff)
        kubelet = Kubelet(self._client, spec, settings, heartbeat=self._times.node.grace / 3)
        self._kubelets[spec.name] = kubelet
        await kubelet.start()

    async def _lose(self, name: str) -> None:
        await self._kubelets.pop(name).lose()
        if self.server is not None:  # a real control plane has its own clock
            node = await self._client.get(NODES, "", name)
            old = with_conditions(node, condition("Ready") | {"lastHeartbeatTime": LONG_AGO})
            await self._client.patch_status(NODES, node, {"conditions": old})

    async def _reclaim(self, name: str, grace_seconds: int) -> None:
        node = await self._client.get(NODES, "", name)
        await self._client.patch(NODES, node, {"spec": {"unschedulable": True}})
        body = {"deleteOptions": {"gracePeriodSeconds": grace_seconds}}
        mine = [p for p in await self._client.objects(PODS) if dig(p, "spec.nodeName") == name]
        for pod in mine:
            await self._client.post(PODS, pod["metadata"]["namespace"], name_of(pod), "eviction", body)
        await asyncio.sleep(grace_seconds + 0.2 if mine else 0)
        await self._kubelets.pop(name).lose()
        await self._client.delete(NODES, node)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        except BaseException as error:  # noqa: BLE001 (a thread's only way to tell)
            self._errors.append(error)
            self._ready.set()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        async with AsyncExitStack() as stack:
            if self.server is not None:
                write_kubeconfig(self.kubeconfig, await stack.enter_async_context(self.server.serve()), self.namespace)
            self._client = await stack.enter_async_context(Client(self.kubeconfig))
            tasks = await self._start_control_plane() if self.server is not None else []
            self._ready.set()
            await self._stop.wait()
            await asyncio.gather(*(kubelet.lose() for kubelet in self._kubelets.values()))
            await cancel_all(tasks)
        for _ in range(
            20
        ):  # connections that were told to close need some more turns of the loop, however long each is
            await asyncio.sleep(0.001)

    async def _start_control_plane(self) -> list[asyncio.Task[None]]:
        await self._client.create(NAMESPACES, "", {"metadata": {"name": self.namespace}})
        parts = (
            JobController(self._client, self._times.backoff),
            Scheduler(self._client),
            NodeLifecycle(self._client, self._times.node),
        )
        return [spawn(part.run()) for part in parts]


def _error_of(context: dict[str, Any]) -> BaseException:
    error = context.get("exception")
    return error if isinstance(error, BaseException) else RuntimeError(context["message"])
