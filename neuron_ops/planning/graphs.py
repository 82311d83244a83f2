"""Whether training will find its graphs compiled, and if not, what changed since they were.

Compiling, and what a compiled artifact holds, belong to `compile`.
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
"""What a device runs: one in the folder of each compiled module."""


@dataclass(frozen=True, slots=True)
class GraphCacheForecast:
    """One address, and what is there."""

    address: str | None
    """None while the base model, whose config is part of the address, has not been fetched."""
    is_hit: bool = False
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    """On a hit: what the artifact says about itself, such as how many graphs and how many seconds they took."""
    modules: Mapping[str, int] = field(default_factory=dict)
    """On a hit: the compiled modules that it lists, with their bytes."""
    nearest: str | None = None
    """On a miss: the finished artifact that is most like it."""
    differences: tuple[str, ...] = ()
    """On a miss: the fields in which that one differs, such as `graph.sequence_length: 512 -> 1024`."""


def forecast_graph_cache(lineage: Lineage) -> GraphCacheForecast:
    """Look the address up.

    Raises:
        InvalidInput: the recipe's hardware does not work out, so there is no address.
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
