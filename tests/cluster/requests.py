"""What a request to the API server names and selects, and what may happen to it on the way."""

from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from tests.cluster.kinds import Kind
from tests.cluster.objects import Object, dig, fields_match, labels_match
from tests.cluster.store import Change, DeleteOptions
from tests.cluster.tables import as_table


@dataclass(slots=True)
class Fault:
    """What the next requests that match get instead of an answer."""

    requests: str
    """A regular expression that is searched in `VERB /path`."""
    times: int = 1
    status: int = 0
    """The HTTP status to answer with; 0 answers as usual (after the delay), unless the connection is to break."""
    delay: float = 0.0
    reset: bool = False
    """Close the connection without an answer."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL names."""

    kind: Kind
    namespace: str
    name: str
    part: str


def wants_table(request: web.Request) -> bool:
    return "as=Table" in request.headers.get("Accept", "")


def selects(request: web.Request, target: Target, thing: Object) -> bool:
    """Whether a list or a watch of this URL holds the object."""
    metadata, query = thing["metadata"], request.query
    return (
        (not target.namespace or metadata.get("namespace") == target.namespace)
        and (not target.name or metadata["name"] == target.name)
        and labels_match(query.get("labelSelector", ""), metadata.get("labels") or {})
        and fields_match(query.get("fieldSelector", ""), thing)
    )


def event_of(request: web.Request, target: Target, change: Change) -> Object | None:
    """A change as a watch of this URL sees it: what leaves the selection is deleted there, what enters it is added."""
    before = change.old is not None and selects(request, target, change.old)
    after = change.new is not None and selects(request, target, change.new)
    if not before and not after:
        return None
    kind = "MODIFIED" if before and after else "ADDED" if after else "DELETED"
    thing = change.new if after else change.old
    if wants_table(request) and thing is not None:
        thing = as_table(target.kind, [thing], {})
    return {"type": kind, "object": thing}


def delete_options(query: Mapping[str, str], body: Object) -> DeleteOptions:
    grace = query.get("gracePeriodSeconds", body.get("gracePeriodSeconds"))
    return DeleteOptions(
        grace_seconds=None if grace is None else int(grace),
        propagation=query.get("propagationPolicy") or body.get("propagationPolicy") or "Background",
        uid=dig(body, "preconditions.uid", ""),
    )
