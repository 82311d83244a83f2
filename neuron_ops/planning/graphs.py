"""Whether training will find its compiled graphs, and if not, what changed since the last compilation.

Compiling and the contents of a compiled artifact belong to `compile`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from neuron_ops.errors import MissingArtifact
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.artifacts import Artifact
from neuron_ops.store.manifest import Scalar

ARTIFACT = "compiled_graph_cache"
SHOWN_FACTS = ("graphs", "compiler", "compile_seconds", "longest_compile_seconds", "graph_bytes", "reason")
EXECUTABLE = ".neff"
"""The file that a device runs: one in the folder of each compiled module."""


@dataclass(frozen=True, slots=True)
class GraphCacheForecast:
    """The address of the compiled graphs, and what the store has at it."""

    address: str | None
    """None until the base model is fetched, because its config is part of the address."""
    is_hit: bool = False
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    """On a hit: metrics of the artifact, such as the number of graphs and their compile seconds."""
    modules: Mapping[str, int] = field(default_factory=dict)
    """On a hit: bytes of each compiled module in it."""
    nearest: str | None = None
    """On a miss: the most similar finished artifact."""
    differences: tuple[str, ...] = ()
    """On a miss: the fields in which `nearest` differs, such as `graph.sequence_length: 512 -> 1024`."""


def forecast_graph_cache(lineage: Lineage) -> GraphCacheForecast:
    """Look up the address.

    Raises:
        InvalidInput: the recipe's hardware section is inconsistent, so there is no address.
    """
    try:
        found = lineage.find(ARTIFACT)
        address = str(lineage.provenance(ARTIFACT).address)
    except MissingArtifact:
        return GraphCacheForecast(None)
    if found is not None:
        facts = {name: value for name, value in found.manifest.metrics.items() if name in SHOWN_FACTS}
        return GraphCacheForecast(address, is_hit=True, facts=facts, modules=_modules(found))
    nearest = lineage.nearest(ARTIFACT)
    if nearest is None:
        return GraphCacheForecast(address)
    other, differences = nearest
    return GraphCacheForecast(address, nearest=str(other), differences=tuple(differences))


def _modules(found: Artifact) -> dict[str, int]:
    files = ((PurePosixPath(file.name), file.bytes) for file in found.manifest.files)
    return {path.parent.name: size for path, size in files if path.suffix == EXECUTABLE}
