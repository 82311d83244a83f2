"""Whether training will find its graphs compiled, and if not, what changed since they were.

Compiling, and what a compiled artifact holds, belong to `compile`.
"""

from dataclasses import dataclass

from neuron_ops.errors import MissingArtifact
from neuron_ops.run import Run

ARTIFACT = "compiled_graph_cache"


@dataclass(frozen=True, slots=True)
class GraphsPlan:
    """One address, and what is there."""

    address: str | None
    """None while the base model, whose config is part of the address, has not been fetched."""
    is_hit: bool
    facts: dict[str, str | int | float | bool | None]
    """What the finished artifact says about itself: how many graphs, how many seconds they took."""
    differs_from: str | None
    """On a miss: the finished artifact that is most like it."""
    differences: tuple[str, ...]
    """On a miss: the fields in which it differs, `graph.sequence_length: 512 -> 1024`."""


def plan_graphs(run: Run) -> GraphsPlan:
    """Look the address up.

    Raises:
        InvalidInput: the recipe's hardware does not work out, so there is no address.
    """
    try:
        found = run.find(ARTIFACT)
        address = str(run.plan(ARTIFACT).address)
    except MissingArtifact:
        return GraphsPlan(None, False, {}, None, ())
    if found is not None:
        return GraphsPlan(address, True, dict(found.manifest.metrics), None, ())
    others = run.differences(ARTIFACT)
    nearest = min(others, key=lambda other: (len(others[other]), str(other)), default=None)
    if nearest is None:
        return GraphsPlan(address, False, {}, None, ())
    return GraphsPlan(address, False, {}, str(nearest), tuple(others[nearest]))
