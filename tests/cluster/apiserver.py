"""The Kubernetes API over HTTP: routes, verbs, watches, discovery, pod logs, and faults on demand.

What a request does to objects belongs to the store. Nobody is authenticated: it listens on the loopback interface.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from aiohttp import ClientError, ClientSession, TCPConnector, web

from tests.cluster import admission
from tests.cluster.errors import ApiError, not_found
from tests.cluster.kinds import ACCESS_REVIEWS, KINDS, NODES, PODS, api_groups, api_resources
from tests.cluster.objects import Object, dig, json_patch, merge_patch, strategic_patch
from tests.cluster.requests import Fault, Target, delete_options, event_of, selects, wants_table
from tests.cluster.store import Store
from tests.cluster.tables import as_table

PATCHES: dict[str, Callable[[Any, Any], Any]] = {
    "application/json-patch+json": json_patch,
    "application/merge-patch+json": merge_patch,
    "application/strategic-merge-patch+json": strategic_patch,
}
VERSION = {"major": "1", "minor": "32", "gitVersion": "v1.32.0-stand-in", "platform": "linux/amd64"}


class ApiServer:
    """Serves one store. `faults` may be appended to at any time; `requests` counts what was asked, by verb and path;
    `denied` is what an access review says no to (verb, resource), and nothing else minds."""

    def __init__(self) -> None:
        self.kinds = list(KINDS)
        self.store = Store(admission.admit)
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.denied: set[tuple[str, str]] = set()

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[str]:
        """Listen, and give the URL."""
        application = web.Application(client_max_size=16 * 2**20)
        application.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        async with ClientSession(connector=TCPConnector(ssl=False)) as self._kubelets:
            try:
                yield f"http://127.0.0.1:{runner.addresses[0][1]}"
            finally:
                await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        asked = f"{request.method} {request.path}"
        self.requests.append(asked)
        try:
            await self._suffer(request, asked)
            return await self._answer(request)
        except ApiError as error:
            return _status(error)

    async def _suffer(self, request: web.Request, asked: str) -> None:
        fault = next((f for f in self.faults if f.times > 0 and re.search(f.requests, asked)), None)
        if fault is None:
            return
        fault.times -= 1
        await asyncio.sleep(fault.delay)
        if fault.reset and request.transport is not None:
            request.transport.abort()
            raise ApiError(500, "InternalError", "the connection was reset on purpose")
        if fault.status:
            raise ApiError(fault.status, "Injected", f"{asked} failed on purpose")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        target = self._target(request.path)
        if target is None:
            return self._discover(request.path.rstrip("/"))
        if target.part == "log":
            return await self._log(request, target)
        if request.method == "GET" and request.query.get("watch", "").lower() in ("true", "1"):
            return await self._watch(request, target)
        body = await self._body(request)
        return web.json_response(self._act(request, target, body))

    def _target(self, path: str) -> Target | None:
        for kind in self.kinds:
            if path.startswith(f"{kind.path}/"):
                parts = path.removeprefix(f"{kind.path}/").strip("/").split("/")
                namespace = ""
                if parts[0] == "namespaces" and len(parts) > 2 and parts[2] != "status":
                    _, namespace, *parts = parts
                if parts[0] == kind.plural:
                    name, part = [*parts[1:3], "", ""][:2]
                    return Target(kind, namespace, name, part)
        return None

    def _discover(self, path: str) -> web.Response:
        fixed = {
            "/version": VERSION,
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": api_groups(self.kinds),
        }
        if path in ("/healthz", "/livez", "/readyz"):
            return web.Response(text="ok")
        if found := fixed.get(path) or api_resources(self.kinds, path):
            return web.json_response(found)
        raise ApiError(404, "NotFound", "the server could not find the requested resource")

    async def _body(self, request: web.Request) -> Object:
        if "protobuf" in request.content_type:  # what a client that prefers it is told by servers without it
            raise ApiError(415, "UnsupportedMediaType", "the body must be JSON")
        text = await request.text()
        try:
            return json.loads(text) if text else {}
        except ValueError as error:
            raise ApiError(400, "BadRequest", f"the body is not JSON: {error}") from error

    def _act(self, request: web.Request, target: Target, body: Object) -> Object:
        match request.method, bool(target.name):
            case "GET", False:
                return self._list(request, target)
            case "GET", True:
                found = self.store.get(target.kind, target.namespace, target.name)
                return as_table(target.kind, [found], found["metadata"]) if wants_table(request) else found
            case "POST", False if target.kind == ACCESS_REVIEWS:
                asked = dig(body, "spec.resourceAttributes", {})
                return body | {"status": {"allowed": (asked["verb"], asked["resource"]) not in self.denied}}
            case "POST", False:
                return self.store.create(target.kind, target.namespace, body)
            case "POST", True:
                return self._post_part(target, body)
            case "PUT", True:
                return self._replace(target, body)
            case "PATCH", True:
                return self._replace(target, self._patched(request.content_type, target, body))
            case "DELETE", True:
                options = delete_options(request.query, body)
                return self.store.delete(target.kind, target.namespace, target.name, options)
            case "DELETE", False:
                return self._delete_all(request, target, body)
        raise ApiError(405, "MethodNotAllowed", f"{request.method} is not supported on this path")

    def _selected(self, request: web.Request, target: Target) -> list[Object]:
        return [thing for thing in self.store.objects(target.kind, target.namespace) if selects(request, target, thing)]

    def _list(self, request: web.Request, target: Target) -> Object:
        items, metadata = self._selected(request, target), {"resourceVersion": str(self.store.revision)}
        if wants_table(request):
            return as_table(target.kind, items, metadata)
        kind = f"{target.kind.name}List"
        return {"kind": kind, "apiVersion": target.kind.api_version, "metadata": metadata, "items": items}

    def _delete_all(self, request: web.Request, target: Target, body: Object) -> Object:
        options = delete_options(request.query, body)
        for thing in self._selected(request, target):
            self.store.delete(target.kind, target.namespace, thing["metadata"]["name"], options)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _post_part(self, target: Target, body: Object) -> Object:
        if target.kind != PODS or target.part not in ("binding", "eviction"):
            raise ApiError(405, "MethodNotAllowed", f"POST to {target.part or 'an object'} is not supported")
        if target.part == "binding":
            admission.bind(self.store, target.namespace, target.name, body["target"]["name"])
        else:
            grace = dig(body, "deleteOptions.gracePeriodSeconds")
            admission.evict(self.store, target.namespace, target.name, grace)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _patched(self, content_type: str, target: Target, patch: Object) -> Object:
        if content_type not in PATCHES:
            raise ApiError(415, "UnsupportedMediaType", f"{content_type} is not a patch; use one of {sorted(PATCHES)}")
        old = self.store.get(target.kind, target.namespace, target.name)
        try:
            return dict(PATCHES[content_type](old, patch))
        except (KeyError, IndexError, ValueError) as error:
            raise ApiError(422, "Invalid", f"the patch does not apply: {error}") from error

    def _replace(self, target: Target, body: Object) -> Object:
        only = target.part == "status"
        return self.store.replace(target.kind, target.namespace, target.name, body, status_only=only)

    async def _watch(self, request: web.Request, target: Target) -> web.StreamResponse:
        since = int(request.query.get("resourceVersion") or 0)
        limit = float(request.query.get("timeoutSeconds") or 3600)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if not since:  # begin with what there is
            since = self.store.revision
            for thing in self._selected(request, target):
                await response.write(json.dumps({"type": "ADDED", "object": thing}).encode() + b"\n")
        try:
            async with asyncio.timeout(limit), aclosing(self.store.changes(target.kind, since)) as changes:
                async for change in changes:
                    if event := event_of(request, target, change):
                        await response.write(json.dumps(event).encode() + b"\n")
        except TimeoutError:
            await response.write_eof()
        except ApiError as error:
            line = {"type": "ERROR", "object": _status_body(error)}
            await response.write(json.dumps(line).encode() + b"\n")
        return response

    async def _log(self, request: web.Request, target: Target) -> web.StreamResponse:
        """Ask the kubelet of the pod's node, as the real API server does, and pass on what it says as it comes."""
        pod = self.store.get(PODS, target.namespace, target.name)
        container = request.query.get("container") or pod["spec"]["containers"][0]["name"]
        url = f"{self._kubelet_of(pod, container)}/containerLogs/{target.namespace}/{target.name}/{container}"
        try:
            async with self._kubelets.get(url, params=dict(request.query), timeout=None) as upstream:
                if upstream.status != 200:
                    raise ApiError(upstream.status, "BadRequest", await upstream.text())
                response = web.StreamResponse(headers={"Content-Type": "text/plain"})
                await response.prepare(request)
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
                return response
        except ClientError as error:
            raise ApiError(500, "InternalError", f'Get "{url}": {error}') from error

    def _kubelet_of(self, pod: Object, container: str) -> str:
        name = dig(pod, "spec.nodeName")
        if not name:
            where = f'container "{container}" in pod "{pod["metadata"]["name"]}"'
            raise ApiError(400, "BadRequest", f"{where} is waiting to start: pod not scheduled")
        if (node := self.store.find(NODES, "", name)) is None:
            raise not_found(NODES, name)
        address = next(a["address"] for a in dig(node, "status.addresses", []) if a["type"] == "InternalIP")
        return f"https://{address}:{node['status']['daemonEndpoints']['kubeletEndpoint']['Port']}"


def _status_body(error: ApiError) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": error.message,
        "reason": error.reason,
        "code": error.code,
    }


def _status(error: ApiError) -> web.Response:
    return web.json_response(_status_body(error), status=error.code)
