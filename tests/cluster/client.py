"""A small client of the plain Kubernetes API.

It reads any kubeconfig, so that a kubelet of ours can serve a real API server. Nothing in it knows the stand-in.
"""

import asyncio
import json
import ssl
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

from aiohttp import ClientResponse, ClientSession, ClientTimeout, TCPConnector
from kubernetes.client import Configuration
from kubernetes.config import load_kube_config

from tests.cluster.errors import UNANSWERED, ApiError, ignored
from tests.cluster.informer import Informer
from tests.cluster.kinds import EVENTS, Kind
from tests.cluster.objects import Object, name_of, namespace_of, now, random_suffix, uid_of
from tests.cluster.tasks import cancel_all, spawn


class Client:
    """Requests to one API server; an `ApiError` is what it refuses."""

    def __init__(self, kubeconfig: Path) -> None:
        self._settings = Configuration()
        load_kube_config(str(kubeconfig), client_configuration=self._settings)
        self._informers: dict[tuple[Kind, str], Informer] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        connector = TCPConnector(ssl=_tls(self._settings), limit=0)
        timeout = ClientTimeout(total=None, sock_connect=10)
        self._session = ClientSession(self._settings.host, connector=connector, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await cancel_all(self._tasks)
        await self._session.close()

    async def informer(self, kind: Kind, fields: str = "") -> Informer:
        """The shared copy of a list, filled; all who ask for the same share one watch."""
        if (kind, fields) not in self._informers:
            made = self._informers[kind, fields] = Informer(self._stream, kind, fields)
            self._tasks.append(spawn(made.run()))
        found = self._informers[kind, fields]
        await found.filled.wait()
        return found

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        return await self._request("GET", self._url(kind, namespace, name))

    async def objects(self, kind: Kind, namespace: str = "", labels: str = "") -> list[Object]:
        url = f"{self._url(kind, namespace)}?{urlencode({'labelSelector': labels})}"
        items = (await self._request("GET", url))["items"]  # which do not say what they are
        return [{"apiVersion": kind.api_version, "kind": kind.name, **item} for item in items]

    async def create(self, kind: Kind, namespace: str, body: Object) -> Object:
        return await self._request("POST", self._url(kind, namespace), body)

    async def post(self, kind: Kind, namespace: str, name: str, part: str, body: Object) -> Object:
        return await self._request("POST", self._url(kind, namespace, name, part), body)

    async def patch(self, kind: Kind, thing: Object, change: Object, part: str = "") -> Object:
        """Merge a change into this very object: another one of the same name is left alone."""
        metadata = {**change.get("metadata", {}), "uid": uid_of(thing)}
        url = self._url(kind, namespace_of(thing), name_of(thing), part)
        # Conditions have several writers. A strategic patch adds to the list where a merge patch would replace it.
        style = "strategic-merge-patch" if part == "status" else "merge-patch"
        return await self._request("PATCH", url, {**change, "metadata": metadata}, f"application/{style}+json")

    async def patch_status(self, kind: Kind, thing: Object, status: Object) -> Object:
        return await self.patch(kind, thing, {"status": status}, "status")

    async def delete(self, kind: Kind, thing: Object, grace_seconds: int | None = None) -> None:
        """Delete this very object; that it is gone already is no error."""
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        body |= {"preconditions": {"uid": uid_of(thing)}}
        body |= {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        with ignored(404, 409):
            await self._request("DELETE", self._url(kind, namespace_of(thing), name_of(thing)), body)

    async def event(self, about: Object, kind: str, reason: str, message: str, source: str) -> None:
        """Write an Event, as `kubectl describe` shows it."""
        metadata = about["metadata"]
        namespace = metadata.get("namespace", "default")
        involved = {"kind": about["kind"], "name": metadata["name"], "uid": metadata["uid"]}
        body = {
            "metadata": {"name": f"{metadata['name'][:200]}.{random_suffix()}", "namespace": namespace},
            "involvedObject": involved | {"namespace": namespace, "apiVersion": about["apiVersion"]},
            "type": kind,
            "reason": reason,
            "message": message[:1024],
            "source": {"component": source},
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "count": 1,
        }
        with suppress(ApiError, *UNANSWERED):  # an event that cannot be written is lost, as everywhere
            await self.create(EVENTS, namespace, body)

    async def _stream(self, kind: Kind, query: dict[str, str]) -> ClientResponse:
        response = await self._session.get(self._url(kind, ""), params=query, headers=self._headers())
        await _demand_success(response)
        return response

    async def _request(
        self, method: str, url: str, body: Object | None = None, content_type: str = "application/json"
    ) -> Object:
        data = None if body is None else json.dumps(body)
        headers = self._headers() | {"Content-Type": content_type}
        async with self._session.request(method, url, data=data, headers=headers) as response:
            await _demand_success(response)
            return dict(await response.json())

    def _headers(self) -> dict[str, str]:
        token = self._settings.get_api_key_with_prefix("authorization")
        return {"Authorization": token} if token else {}

    def _url(self, kind: Kind, namespace: str, name: str = "", part: str = "") -> str:
        within = f"namespaces/{namespace}/" if kind.namespaced and namespace else ""
        return "/".join(filter(None, (f"{kind.path}/{within}{kind.plural}", name, part)))


async def _demand_success(response: ClientResponse) -> None:
    if response.status >= 400:
        text = await response.text()
        response.release()
        try:
            status = json.loads(text)
        except ValueError:
            status = {}
        raise ApiError(response.status, status.get("reason", ""), status.get("message", text[:500]))


def _tls(settings: Configuration) -> ssl.SSLContext | bool:
    if not settings.host.startswith("https"):
        return True
    context = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    if not settings.verify_ssl:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    return context
