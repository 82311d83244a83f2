"""A kubelet that runs pods as local processes: it registers a node, keeps its heartbeat, and serves logs.

It needs nothing but the plain API, so it also serves a real API server. Not here: probes, lifecycle hooks, exec,
port-forward, cgroups (limits are booked by the scheduler and not enforced), and pods that outlive the kubelet.
"""

import asyncio
import ssl
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, partial

from aiohttp import web

from tests.cluster.client import Client
from tests.cluster.container_log import ContainerLog, LogOptions
from tests.cluster.container_slot import Slot
from tests.cluster.errors import UNANSWERED, ApiError, ignored, insist
from tests.cluster.kinds import NODES, PODS
from tests.cluster.objects import Object, condition, dig, name_of, namespace_of, now, uid_of, with_conditions
from tests.cluster.pod_worker import KubeletSettings, PodWorker
from tests.cluster.tasks import cancel_all, spawn

MACHINE = {"cpu": "32", "memory": "256Gi", "ephemeral-storage": "500Gi", "pods": "110"}


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A machine, as its kubelet registers it."""

    name: str
    resources: Mapping[str, str] = field(default_factory=dict)
    """On top of an ordinary machine's: `{"aws.amazon.com/neuron": "16"}`."""
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Object, ...] = ()


class Kubelet:
    """One node."""

    def __init__(self, client: Client, node: NodeSpec, settings: KubeletSettings, heartbeat: float = 10.0) -> None:
        self._client, self._spec, self._settings, self._heartbeat = client, node, settings, heartbeat
        self.workers: dict[str, PodWorker] = {}
        """By the pod's UID."""
        self._by_name: dict[tuple[str, str], PodWorker] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._lost = asyncio.Event()

    async def start(self) -> None:
        application = web.Application()
        application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._serve_log)
        self._server = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._server.setup()
        await web.TCPSite(self._server, "127.0.0.1", 0, ssl_context=_certificate()).start()
        await self._register()
        self._tasks.append(spawn(self._beat()))
        pods = await self._client.informer(PODS, f"spec.nodeName={self._spec.name}")
        pods.listen(self._notice)

    async def lose(self) -> None:
        """The machine is gone, without a word: no heartbeat, no report, no process."""
        self._lost.set()
        await cancel_all(self._tasks)
        await asyncio.gather(*(worker.vanish() for worker in self.workers.values()))
        await self._server.cleanup()

    async def _register(self) -> None:
        labels = {"kubernetes.io/hostname": self._spec.name, "kubernetes.io/os": "linux", **self._spec.labels}
        body = {
            "metadata": {"name": self._spec.name, "labels": labels},
            "spec": {"taints": list(self._spec.taints)},
        }
        with ignored(409):  # it came back
            await self._client.create(NODES, "", body)
        node = await self._client.get(NODES, "", self._spec.name)
        await self._client.patch(NODES, node, {"metadata": {"labels": labels}, "spec": body["spec"]})
        capacity = MACHINE | dict(self._spec.resources)
        # No host name: a real API server would prefer it when it asks for logs, and nobody resolves it.
        addresses = [{"type": "InternalIP", "address": "127.0.0.1"}]
        status = {
            "capacity": capacity,
            "allocatable": capacity,
            "addresses": addresses,
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._server.addresses[0][1]}},
            "nodeInfo": {"kubeletVersion": "v1.32.0", "operatingSystem": "linux", "architecture": "amd64"},
        }
        self._node = await self._client.patch_status(NODES, node, status | {"conditions": [self._ready()]})

    def _ready(self) -> Object:
        return condition("Ready", "True", "KubeletReady", "kubelet is posting ready status") | {
            "lastHeartbeatTime": now()
        }

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat)
            with suppress(ApiError, *UNANSWERED):  # the next one may get through
                conditions = with_conditions(self._node, self._ready())
                await self._client.patch_status(NODES, self._node, {"conditions": conditions[-1:]})

    def _notice(self, old: Object | None, new: Object | None) -> None:
        pod = new or old
        if self._lost.is_set() or pod is None:
            return
        worker = self.workers.get(uid_of(pod))
        if new is None:
            if worker is not None:
                worker.stop(0)
        elif worker is None:
            self._meet(new)
        else:
            worker.update(new)
            if new["metadata"].get("deletionTimestamp") and not dig(old, "metadata.deletionTimestamp"):
                worker.stop(float(dig(new, "metadata.deletionGracePeriodSeconds", 30)))

    def _meet(self, pod: Object) -> None:
        if pod["metadata"].get("deletionTimestamp"):
            self._tasks.append(spawn(insist(partial(self._client.delete, PODS, pod, grace_seconds=0), self._lost)))
        elif dig(pod, "status.phase") not in ("Succeeded", "Failed"):
            worker = PodWorker(self._client, self._settings, pod)
            self.workers[uid_of(pod)] = self._by_name[namespace_of(pod), name_of(pod)] = worker

    async def _serve_log(self, request: web.Request) -> web.StreamResponse:
        try:
            log = self._log(request.match_info, previous=request.query.get("previous", "").lower() == "true")
        except ApiError as error:
            return web.Response(status=error.code, text=error.message)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        async for chunk in log.read(_log_options(request.query)):
            if chunk:
                await response.write(chunk)
        return response

    def _log(self, names: Mapping[str, str], *, previous: bool) -> ContainerLog:
        slot = self._slot(names["namespace"], names["pod"], names["container"])
        container = slot.previous if previous else slot.container
        if container is not None:
            return container.log
        where = f'container "{names["container"]}" in pod "{names["pod"]}"'
        if previous:
            raise ApiError(400, "BadRequest", f"previous terminated {where} not found")
        reason = slot.waiting.get("reason", "")
        reason = "trying and failing to pull image" if "Image" in reason else reason
        raise ApiError(400, "BadRequest", f"{where} is waiting to start: {reason}")

    def _slot(self, namespace: str, pod: str, container: str) -> Slot:
        worker = self._by_name.get((namespace, pod))
        if worker is None or container not in worker.all_slots():
            raise ApiError(404, "NotFound", f'container "{container}" of pod "{pod}" not found')
        return worker.all_slots()[container]


def _log_options(query: Mapping[str, str]) -> LogOptions:
    since = 0
    if seconds := query.get("sinceSeconds"):
        since = time.time_ns() - int(seconds) * 10**9
    elif stamp := query.get("sinceTime"):
        since = _nanoseconds(stamp)
    return LogOptions(
        follow=query.get("follow", "").lower() == "true",
        timestamps=query.get("timestamps", "").lower() == "true",
        tail=int(query["tailLines"]) if "tailLines" in query else None,
        since_ns=since,
    )


def _nanoseconds(stamp: str) -> int:
    """A time as logs have it, exactly: as a number of seconds with a fraction it would lose lines."""
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(f"{whole}+00:00").timestamp())
    return seconds * 10**9 + int(fraction.ljust(9, "0")[:9] or 0)


@cache
def _certificate() -> ssl.SSLContext:
    """A certificate that nobody signed, as kubelets have; an API server asks them over TLS and does not verify it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubelet")])
    start = datetime.now(UTC) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with tempfile.NamedTemporaryFile() as file:
        file.write(private + certificate.public_bytes(pem))
        file.flush()
        context.load_cert_chain(file.name)
    return context
