"""Kubernetes objects as plain JSON: times, conditions, owners, quantities, selectors and patches.

What an object means belongs to the controllers; where it is kept belongs to the store.
"""

import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, overload

Object = dict[str, Any]
"""A Kubernetes object or a part of one, as JSON."""

# The lists that a strategic merge patch merges item by item, and what identifies an item. All others are replaced.
MERGE_KEYS = {
    "addresses": "type",
    "conditions": "type",
    "containers": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "taints": "key",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
UNITS = {
    "": 1.0,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_since(stamp: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds()


def random_suffix() -> str:
    """Five characters as `generateName` and controllers append them."""
    return "".join(secrets.choice("bcdfghjklmnpqrstvwxz2456789") for _ in range(5))


def dig(tree: Any, path: str, default: Any = None) -> Any:
    """The value at a dotted path, `default` where something on the way is missing or null."""
    for part in path.split("."):
        if not isinstance(tree, Mapping) or tree.get(part) is None:
            return default
        tree = tree[part]
    return tree


def name_of(thing: Object) -> str:
    return str(thing["metadata"]["name"])


def namespace_of(thing: Object) -> str:
    return str(thing["metadata"].get("namespace", ""))


def uid_of(thing: Object) -> str:
    return str(thing["metadata"]["uid"])


def condition(kind: str, status: str = "True", reason: str = "", message: str = "") -> Object:
    made = {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": now()}
    return made | ({"reason": reason} if reason else {}) | ({"message": message} if message else {})


def find_condition(thing: Object, kind: str) -> Object | None:
    return next((c for c in dig(thing, "status.conditions", []) if c["type"] == kind), None)


def is_true(thing: Object, kind: str) -> bool:
    found = find_condition(thing, kind)
    return found is not None and found["status"] == "True"


def with_conditions(thing: Object, *changed: Object) -> list[Object]:
    """The object's conditions with these in them; one that keeps its status keeps its time of transition."""
    merged = {c["type"]: c for c in dig(thing, "status.conditions", [])}
    for new in changed:
        old = merged.get(new["type"])
        if old and old["status"] == new["status"]:
            new = new | {"lastTransitionTime": old.get("lastTransitionTime")}
        merged[new["type"]] = new
    return list(merged.values())


def owner_reference(owner: Object) -> Object:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name_of(owner),
        "uid": uid_of(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def quantity(text: str | int | float) -> float:
    """`250m`, `16Gi` or `1e3` as a number."""
    found = re.fullmatch(r"([0-9.]+(?:[eE][0-9]+)?)([A-Za-z]*)", str(text))
    if found is None or found[2] not in UNITS:
        raise ValueError(f"{text!r} is not a quantity, such as 500m, 2 or 16Gi.")
    return float(found[1]) * UNITS[found[2]]


def labels_match(selector: str, labels: Mapping[str, str]) -> bool:
    """Whether labels satisfy a selector such as `app=x,tier in (a, b),!old`."""
    return all(_requirement(part.strip(), labels) for part in re.split(r",(?![^(]*\))", selector) if part.strip())


def _requirement(text: str, labels: Mapping[str, str]) -> bool:
    if found := re.fullmatch(r"(\S+)\s+(in|notin)\s+\((.*)\)", text):
        values = [value.strip() for value in found[3].split(",")]
        return (labels.get(found[1]) in values) == (found[2] == "in")
    if found := re.fullmatch(r"([^\s=!]+)\s*(==|=|!=)\s*(\S*)", text):
        return (labels.get(found[1]) == found[3]) == (found[2] != "!=")
    return text[1:] not in labels if text.startswith("!") else text in labels


def fields_match(selector: str, thing: Object) -> bool:
    """Whether an object satisfies a selector such as `spec.nodeName=a,status.phase!=Failed`."""
    for part in filter(None, selector.split(",")):
        found = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", part)
        if found is None:
            return False
        if (str(dig(thing, found[1], "")) == found[3]) == (found[2] == "!="):
            return False
    return True


@overload
def merge_patch(target: Any, patch: Object) -> Object: ...


@overload
def merge_patch(target: Any, patch: Any) -> Any: ...


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: dictionaries merge, null deletes, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def strategic_patch(target: Any, patch: Any) -> Any:
    """What kubectl sends: a merge patch in which known lists merge by the key of their items."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if key.startswith("$"):  # $setElementOrder, $retainKeys: orders and unions that nothing here depends on
            continue
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, list) and key in MERGE_KEYS:
            merged[key] = _merge_items(merged.get(key) or [], value, MERGE_KEYS[key])
        else:
            merged[key] = strategic_patch(merged.get(key), value)
    return merged


def _merge_items(target: list[Object], patch: list[Object], key: str) -> list[Object]:
    if any(item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if "$patch" not in item]
    items = {item.get(key): item for item in target}
    for item in patch:
        if item.get("$patch") == "delete":
            items.pop(item.get(key), None)
        else:
            items[item.get(key)] = strategic_patch(items.get(item.get(key)), item)
    return list(items.values())


def json_patch(target: Object, operations: list[Object]) -> Object:
    """RFC 6902: add, replace, remove and test."""
    root: Any = {"": target}
    for operation in operations:
        path = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")]
        holder = root
        for part in path[:-1]:
            holder = holder[int(part)] if isinstance(holder, list) else holder[part]
        _apply(holder, path[-1], operation)
    return dict(root[""])


def _apply(holder: Any, last: str, operation: Object) -> None:
    kind, value = operation["op"], operation.get("value")
    if kind == "test":
        if holder[int(last) if isinstance(holder, list) else last] != value:
            raise ValueError(f"test failed at {operation['path']}")
    elif kind == "remove":
        del holder[int(last) if isinstance(holder, list) else last]
    elif isinstance(holder, list) and kind == "add":
        holder.insert(len(holder) if last == "-" else int(last), value)
    else:
        holder[int(last) if isinstance(holder, list) else last] = value
