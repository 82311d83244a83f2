"""Versioned objects in memory, with what the API server promises about them.

Identity, revisions, conflicts, graceful deletion, finalizers, owners and the history that watches read belong here.
HTTP belongs to the API server; which objects are refused or completed belongs to admission.
"""

import asyncio
import uuid
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass

from tests.cluster.errors import ApiError, not_found
from tests.cluster.kinds import NAMESPACES, PODS, Kind
from tests.cluster.objects import Object, dig, merge_patch, name_of, now, random_suffix, uid_of

Key = tuple[str, str]
"""Namespace (empty for cluster-wide objects) and name."""
HISTORY = 5_000


@dataclass(frozen=True, slots=True)
class Change:
    """What a revision did to one object; both sides, so that a watch can tell what entered or left its selection."""

    revision: int
    old: Object | None
    new: Object | None


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    grace_seconds: int | None = None
    propagation: str = "Background"
    uid: str = ""


class Store:
    """All objects of a cluster. Objects are never changed in place: whoever was given one keeps what it saw."""

    def __init__(self, admit: Callable[["Store", Kind, Object], Object]) -> None:
        self.revision = 0
        self._admit = admit
        self._objects: dict[Kind, dict[Key, Object]] = defaultdict(dict)
        self._owned: dict[str, set[tuple[Kind, Key]]] = defaultdict(set)
        self._alive: set[str] = set()
        self._history: dict[Kind, deque[Change]] = defaultdict(lambda: deque(maxlen=HISTORY))
        self._watchers: dict[Kind, set[asyncio.Queue[Change]]] = defaultdict(set)

    def objects(self, kind: Kind, namespace: str = "") -> list[Object]:
        return [thing for (at, _), thing in self._objects[kind].items() if not namespace or at == namespace]

    def find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        return self._objects[kind].get((namespace, name))

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        if (found := self.find(kind, namespace, name)) is None:
            raise not_found(kind, name)
        return found

    def versions(self, kind: Kind, name: str) -> list[Object]:
        """All that an object of this name has been, the oldest first, the last also where it was deleted."""
        changes = list(self._history[kind])  # in one go, for whoever asks from another thread
        things = [change.new or change.old for change in changes]
        return [thing for thing in things if thing is not None and name_of(thing) == name]

    def create(self, kind: Kind, namespace: str, body: Object) -> Object:
        metadata = dict(body.get("metadata") or {})
        if not metadata.get("name"):
            if not metadata.get("generateName"):
                raise ApiError(422, "Invalid", f"{kind.name} is invalid: metadata.name or generateName is required")
            metadata["name"] = metadata["generateName"][:58] + random_suffix()
        key = (namespace, metadata["name"])
        if key in self._objects[kind]:
            raise ApiError(409, "AlreadyExists", f"{kind.in_words(metadata['name'])} already exists")
        if namespace and self.find(NAMESPACES, "", namespace) is None:
            raise not_found(NAMESPACES, namespace)
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
        metadata |= {"namespace": namespace} if namespace else {}
        thing = self._admit(
            self, kind, {"apiVersion": kind.api_version, "kind": kind.name, **body, "metadata": metadata}
        )
        self._alive.add(metadata["uid"])
        made = self._commit(kind, key, None, thing)
        if self._is_orphan(made):
            self.delete(kind, *key, DeleteOptions())
        return made

    def replace(self, kind: Kind, namespace: str, name: str, body: Object, *, status_only: bool = False) -> Object:
        """Store a new body; where a kind has a status of its own, only that or all but that is taken from it."""
        old = self.get(kind, namespace, name)
        self._demand_same(kind, old, body)
        kept = old if status_only else body
        status = body if status_only or not kind.has_status else old
        new = {**kept, "apiVersion": kind.api_version, "kind": kind.name}
        new["metadata"] = self._metadata(old, kept["metadata"])
        new.pop("status", None)
        if status.get("status") is not None:
            new["status"] = status["status"]
        if new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] = old["metadata"].get("generation", 1) + 1
        if new == old:
            return old
        if new["metadata"].get("deletionTimestamp") and not new["metadata"].get("finalizers") and kind != PODS:
            return self._remove(kind, (namespace, name), new)
        return self._commit(kind, (namespace, name), old, new)

    def delete(self, kind: Kind, namespace: str, name: str, options: DeleteOptions) -> Object:
        old = self.get(kind, namespace, name)
        if options.uid and options.uid != uid_of(old):
            raise ApiError(409, "Conflict", f"the UID in the precondition ({options.uid}) is not {uid_of(old)}")
        if options.propagation == "Orphan":
            self._release_dependents(uid_of(old))
        grace = grace_of(old, options.grace_seconds) if kind == PODS else 0
        if not grace and not old["metadata"].get("finalizers"):
            return self._remove(kind, (namespace, name), old)
        if old["metadata"].get("deletionTimestamp"):
            return old
        marked = {"metadata": {"deletionTimestamp": now(), "deletionGracePeriodSeconds": grace}}
        return self._commit(kind, (namespace, name), old, merge_patch(old, marked))

    async def changes(self, kind: Kind, since: int) -> AsyncGenerator[Change, None]:
        """Every change after a revision, for ever."""
        queue: asyncio.Queue[Change] = asyncio.Queue()
        history = self._history[kind]
        if len(history) == HISTORY and history[0].revision > since + 1:
            raise ApiError(410, "Expired", f"too old resource version: {since} ({history[0].revision})")
        for change in history:
            if change.revision > since:
                queue.put_nowait(change)
        self._watchers[kind].add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers[kind].discard(queue)

    def _metadata(self, old: Object, new: Object) -> Object:
        fixed = ("uid", "name", "namespace", "creationTimestamp", "generation", "deletionTimestamp", "resourceVersion")
        return {**new, **{key: old["metadata"][key] for key in fixed if key in old["metadata"]}}

    def _demand_same(self, kind: Kind, old: Object, body: Object) -> None:
        """Optimistic concurrency: a writer that names a revision or a UID means that one and no other."""
        for field in ("resourceVersion", "uid"):
            wanted = dig(body, f"metadata.{field}")
            if wanted and wanted != old["metadata"][field]:
                raise ApiError(
                    409,
                    "Conflict",
                    f"Operation cannot be fulfilled on {kind.in_words(name_of(old))}: the object has been modified; "
                    "please apply your changes to the latest version and try again",
                )

    def _commit(self, kind: Kind, key: Key, old: Object | None, new: Object) -> Object:
        self.revision += 1
        new = {**new, "metadata": {**new["metadata"], "resourceVersion": str(self.revision)}}
        self._objects[kind][key] = new
        self._index(kind, key, old, new)
        self._tell(kind, Change(self.revision, old, new))
        return new

    def _remove(self, kind: Kind, key: Key, old: Object) -> Object:
        del self._objects[kind][key]
        self.revision += 1
        self._index(kind, key, old, None)
        self._alive.discard(uid_of(old))
        last = {**old, "metadata": {**old["metadata"], "resourceVersion": str(self.revision)}}
        self._tell(kind, Change(self.revision, last, None))
        self._collect(self._owned.pop(uid_of(old), set()))
        return last

    def _tell(self, kind: Kind, change: Change) -> None:
        self._history[kind].append(change)
        for queue in self._watchers[kind]:
            queue.put_nowait(change)

    def _index(self, kind: Kind, key: Key, old: Object | None, new: Object | None) -> None:
        for owner in _owners(old):
            self._owned[owner].discard((kind, key))
        for owner in _owners(new):
            self._owned[owner].add((kind, key))

    def _is_orphan(self, thing: Object) -> bool:
        """Whether it has owners and all of them are gone: the garbage collector takes it then."""
        owners = _owners(thing)
        return bool(owners) and not any(owner in self._alive for owner in owners)

    def _collect(self, dependents: Iterable[tuple[Kind, Key]]) -> None:
        for kind, key in list(dependents):
            found = self.find(kind, *key)
            if found is not None and self._is_orphan(found):
                self.delete(kind, *key, DeleteOptions())

    def _release_dependents(self, uid: str) -> None:
        for kind, key in list(self._owned.get(uid, ())):
            old = self.get(kind, *key)
            kept = [r for r in old["metadata"]["ownerReferences"] if r["uid"] != uid]
            self._commit(kind, key, old, merge_patch(old, {"metadata": {"ownerReferences": kept}}))


def _owners(thing: Object | None) -> list[str]:
    return [reference["uid"] for reference in dig(thing, "metadata.ownerReferences", [])]


def grace_of(pod: Object, asked: int | None) -> int:
    """How long a pod may take to end: nothing where no kubelet is to be asked."""
    if not dig(pod, "spec.nodeName") or dig(pod, "status.phase") in ("Succeeded", "Failed"):
        return 0
    return int(dig(pod, "spec.terminationGracePeriodSeconds", 30) if asked is None else asked)
