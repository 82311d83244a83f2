"""The records about an artifact: its address, its manifest, and what decided both.

The records and the comparison of two of them belong here; this module opens no file. Finding, publishing and removing
artifacts belong to artifacts.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Address:
    """Where one artifact lives, relative to the store."""

    artifact: str
    fingerprint: str
    dataset_version: str | None = None
    part: str | None = None
    """A finished piece of an unfinished artifact, such as one checkpoint; the piece is an artifact itself."""

    def __str__(self) -> str:
        parts = (self.artifact, self.dataset_version, self.fingerprint, self.part)
        return "/".join(part for part in parts if part is not None)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRecord(_Record):
    """One file of an artifact."""

    name: str
    bytes: int
    digest: str
    """xxh3_128, hexadecimal."""


class InputRecord(_Record):
    """What a step read: the address of an artifact and the digest of the files that mattered."""

    address: str
    digest: str


class CheckRecord(_Record):
    """One property that the step established, shown as an asset check."""

    name: str
    passed: bool
    description: str
    blocking: bool = True
    """Whether failing stops everything that would be built on the artifact."""
    values: dict[str, Scalar] = {}


class Manifest(_Record):
    """Everything known about a finished artifact."""

    artifact: str
    step: str
    dataset_version: str | None
    fingerprint: str
    reads: dict[str, Any]  # Any: a step's own recipe sections, kept to explain a fingerprint that differs
    inputs: dict[str, InputRecord]
    data: str
    """Folder of the files, relative to the address."""
    files: tuple[FileRecord, ...]
    metrics: dict[str, Scalar]
    checks: tuple[CheckRecord, ...] = ()
    toolchain: dict[str, str] = {}
    finished_at: str
    """UTC, ISO 8601."""

    @property
    def digest(self) -> str:
        """Digest of the content: names and digests of all files, and nothing that differs between two equal runs."""
        return self.digest_of(None)

    def digest_of(self, names: tuple[str, ...] | None) -> str:
        """Digest of the named files that are there; None for all of them."""
        return fingerprint({file.name: file.digest for file in self.files if names is None or file.name in names})

    @property
    def total_bytes(self) -> int:
        """Bytes of all files, without the manifest."""
        return sum(file.bytes for file in self.files)


def fingerprint(value: object) -> str:
    """First 16 hexadecimal digits of SHA-256 over canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def explain_difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The fields that differ between the inputs of two fingerprints: `["graph.sequence_length: 256 -> 512"]`."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += explain_difference(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return lines


@dataclass(frozen=True, slots=True)
class Provenance:
    """What an artifact is made from, and the address that follows from it."""

    address: Address
    reads: dict[str, Any]  # Any: plain JSON of recipe fields
    inputs: dict[str, InputRecord]
