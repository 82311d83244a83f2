"""The metadata that the UI shows beside an asset, made from its artifact's manifest.

The step computes the numbers; showing a check belongs to checks.
"""

import base64
from collections.abc import Mapping

from dagster import MetadataValue

from neuron_ops.store.artifacts import Artifact
from neuron_ops.store.manifest import Scalar

MAX_EMBEDDED_BYTES = 700_000
"""Larger reports and pictures stay files: the event log holds metadata as text."""


Shown = MetadataValue | str | int | float | bool | None


def metadata(artifact: Artifact, reused: bool) -> Mapping[str, Shown]:
    """Pictures and report first, then numbers, then bookkeeping. Only `reused` differs between a fresh and a reused
    artifact."""
    manifest = artifact.manifest
    location = artifact.location
    return {
        "reused": reused,
        **_to_look_at(artifact),
        **{name: readable(value) for name, value in manifest.metrics.items()},
        "address": str(artifact.address),
        "location": MetadataValue.url(location) if "://" in location else MetadataValue.path(location),
        "files": len(manifest.files),
        "bytes": manifest.total_bytes,
        "inputs": MetadataValue.json({name: record.model_dump() for name, record in manifest.inputs.items()}),
        "toolchain": MetadataValue.json(dict(manifest.toolchain)),
    }


def _to_look_at(artifact: Artifact) -> dict[str, Shown]:
    shown: dict[str, Shown] = {}
    for file in artifact.manifest.files:
        if file.bytes <= MAX_EMBEDDED_BYTES and file.name == "report.md":
            shown["report"] = MetadataValue.md(artifact.read(file.name).decode())
        elif file.bytes <= MAX_EMBEDDED_BYTES and file.name.endswith(".png"):
            picture = base64.b64encode(artifact.read(file.name)).decode()
            name = file.name.removesuffix(".png")
            shown[name] = MetadataValue.md(f"![{name}](data:image/png;base64,{picture})")
    return shown


def readable(value: Scalar) -> Scalar:
    """A number with six significant digits: the manifest keeps all 17 of a loss, but nobody reads them in a table."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
