"""A manifest as what a person sees beside the asset in the UI."""

import base64
from collections.abc import Mapping

from dagster import MetadataValue

from neuron_ops.artifacts import Artifact

MAX_EMBEDDED_BYTES = 700_000
"""Larger reports and pictures stay files: the event log holds metadata as text."""


def metadata(artifact: Artifact, reused: bool) -> Mapping[str, MetadataValue | str | int | float | bool | None]:
    """Numbers, address, report and pictures; the same for a fresh and for a reused artifact but for `reused`."""
    manifest = artifact.manifest
    location = artifact.location
    shown: dict[str, MetadataValue | str | int | float | bool | None] = {
        "reused": reused,
        "address": str(artifact.address),
        "location": MetadataValue.url(location) if "://" in location else MetadataValue.path(location),
        "files": len(manifest.files),
        "bytes": manifest.total_bytes,
        **manifest.metrics,
        "inputs": MetadataValue.json({name: record.model_dump() for name, record in manifest.inputs.items()}),
        "toolchain": MetadataValue.json(dict(manifest.toolchain)),
    }
    for file in manifest.files:
        if file.bytes <= MAX_EMBEDDED_BYTES and file.name == "report.md":
            shown["report"] = MetadataValue.md(artifact.read(file.name).decode())
        elif file.bytes <= MAX_EMBEDDED_BYTES and file.name.endswith(".png"):
            picture = base64.b64encode(artifact.read(file.name)).decode()
            name = file.name.removesuffix(".png")
            shown[name] = MetadataValue.md(f"![{name}](data:image/png;base64,{picture})")
    return shown
