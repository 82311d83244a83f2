"""Giving a training the published cache of compiled graphs, and counting the graphs that it still compiled.

Making the cache belongs to the step `compile`, finding and counting graphs to compilers/.
"""

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from neuron_ops.backends import compiler
from neuron_ops.compilers.compiler import Compiler
from neuron_ops.compilers.graph import CACHE, OnMiss
from neuron_ops.errors import InvalidInput, OpsError
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.artifacts import Artifact
from neuron_ops.store.manifest import Scalar
from neuron_ops.store.node_local import node_local_folder

log = logging.getLogger(__name__)

EndProcess = Callable[[OpsError], None]


@dataclass(slots=True)
class GraphCacheUse:
    """The compiled graphs of one training."""

    address: str
    compiler: Compiler | None
    compiled: int = 0
    """Graphs that this training compiled; known when its `with` block ends."""

    def metrics(self) -> dict[str, Scalar]:
        """Metrics for the manifest of lora_checkpoints."""
        return {"graphs_compiled": self.compiled, "graphs_from": self.address if self.compiler else None}


@contextlib.contextmanager
def compiled_graphs(lineage: Lineage, launch_name: str, end_at_once: EndProcess) -> Iterator[GraphCacheUse]:
    """Give the compiler the published cache before any module that compiles is imported, and count misses.

    All processes of this training on this machine pass the same `launch_name`. `end_at_once` ends this process from any
    thread.
    """
    artifact, chosen = lineage.require("compiled_graph_cache"), compiler(lineage.recipe)
    use = GraphCacheUse(str(artifact.address), chosen)
    if chosen is None:
        yield use
        return
    name = f"{artifact.address.fingerprint}-{launch_name}"
    with node_local_folder(name, lambda folder: _fill(folder, artifact, chosen)) as cache:
        chosen.point_at(cache)
        with chosen.counting(cache, _on_miss(artifact, end_at_once)) as count:
            yield use
            use.compiled = count()
    if use.compiled:
        log.warning("training compiled %d graphs that %s does not hold", use.compiled, use.address)


def _on_miss(artifact: Artifact, end_at_once: EndProcess) -> OnMiss:
    """End a training that would compile on every core, unless the artifact has no graphs and it must compile."""

    def on_miss(graph: str, why: str) -> None:
        if artifact.manifest.metrics["graphs"]:
            end_at_once(_miss(artifact, graph, why))

    return on_miss


def _fill(folder: Path, artifact: Artifact, chosen: Compiler) -> None:
    if not artifact.manifest.metrics["graphs"]:
        log.info("%s holds no graph, so training compiles", artifact.address)
        return
    made_for = artifact.manifest.metrics.get("machine") or ""
    if made_for != chosen.machine():
        log.warning(
            "%s was compiled on another kind of processor, so training compiles every graph itself", artifact.address
        )
        return
    with artifact.local() as published:
        shutil.copytree(published / CACHE, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
    log.info("every compiled graph of %s is ready: %d bytes", artifact.address, artifact.manifest.total_bytes)


def _miss(artifact: Artifact, graph: str, why: str) -> OpsError:
    return InvalidInput(
        f"Training needs the graph {graph}, which {artifact.address} does not hold: {why}. Training ends before it "
        f"compiles for an hour on every core. Remove {artifact.location.rpartition('/')[0]} and materialize "
        "compiled_graph_cache again, in the image that trains."
    )
