"""Local copies of lists that watches keep up to date, and functions that run when they change."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from aiohttp import ClientError, ClientResponse

from tests.cluster.errors import ApiError
from tests.cluster.kinds import Kind
from tests.cluster.objects import Object, name_of, namespace_of, uid_of

log = logging.getLogger(__name__)

Key = tuple[str, str]
Listener = Callable[[Object | None, Object | None], None]
"""Called with an object before and after a change; None where there is none."""
Stream = Callable[[Kind, dict[str, str]], Awaitable[ClientResponse]]
"""A GET of all objects of a kind, with a query."""


class Informer:
    """A list that is kept up to date by a watch."""

    def __init__(self, stream: Stream, kind: Kind, fields: str) -> None:
        self.items: dict[Key, Object] = {}
        self.filled = asyncio.Event()
        self._listeners: list[Listener] = []
        self._stream, self._kind, self._fields = stream, kind, fields

    def listen(self, listener: Listener) -> None:
        """Call it with what there is now, and with every change from now on."""
        for thing in self.items.values():
            listener(None, thing)
        self._listeners.append(listener)

    async def run(self) -> None:
        while True:
            try:
                await self._follow(await self._fill())
            except (ClientError, ApiError, TimeoutError, OSError) as error:
                log.debug("watching %s again: %s", self._kind.plural, error)
                await asyncio.sleep(0.2)

    async def _fill(self) -> str:
        async with await self._stream(self._kind, self._query()) as response:
            listed = await response.json()
        items = {
            _key(item): {"apiVersion": self._kind.api_version, "kind": self._kind.name, **item}
            for item in listed["items"]
        }
        for key in self.items.keys() - items.keys():
            self._change(key, None)
        for key, item in items.items():
            self._change(key, item)
        self.filled.set()
        return str(listed["metadata"]["resourceVersion"])

    async def _follow(self, revision: str) -> None:
        query = self._query() | {"watch": "true", "resourceVersion": revision}
        async with await self._stream(self._kind, query) as response:
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._take(json.loads(line))

    def _take(self, event: Object) -> None:
        if event["type"] == "ERROR":
            raise ApiError(event["object"].get("code", 500), "Expired", event["object"].get("message", ""))
        if event["type"] != "BOOKMARK":
            thing = event["object"]
            self._change(_key(thing), None if event["type"] == "DELETED" else thing, last=thing)

    def _change(self, key: Key, new: Object | None, last: Object | None = None) -> None:
        old = self.items.get(key)
        if old == new:
            return
        if old is not None and new is not None and uid_of(old) != uid_of(new):
            self._change(key, None)  # one that went while the watch was broken; this is another of its name
            old = None
        if new is None:
            self.items.pop(key, None)
        else:
            self.items[key] = new
        for listener in self._listeners:
            listener(last if new is None and last else old, new)

    def _query(self) -> dict[str, str]:
        return {"fieldSelector": self._fields} if self._fields else {}


class Reconciler:
    """Runs a function after every change of some lists, and when it said that it wants to be run again."""

    def __init__(self, reconcile: Callable[[], Awaitable[float | None]], informers: Iterable[Informer]) -> None:
        self._reconcile, self._due = reconcile, asyncio.Event()
        self._due.set()
        for informer in informers:
            informer.listen(lambda old, new: self._due.set())

    async def run(self) -> None:
        """`reconcile` returns after how many seconds it has something to do even if nothing changes, or None."""
        wait: float | None = None
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), wait)
            await asyncio.sleep(0.005)  # what changes together is looked at together
            self._due.clear()
            try:
                wait = await self._reconcile()
            except (ClientError, ApiError, TimeoutError, OSError) as error:
                log.debug("trying again: %s", error)
                wait = 0.1


def _key(thing: Object) -> Key:
    return namespace_of(thing), name_of(thing)
