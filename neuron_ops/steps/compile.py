"""`compile` makes `compiled_graph_cache`: what training would otherwise compile in its first minutes.

It warms up the backend's compiler with training's own loop and publishes the compiled graphs; if this takes several
nodes, this program runs on each of them, and the first one publishes. If training runs eagerly there is no graph to
keep, and the artifact says so. The layout of a cache belongs to compilers/, its use in training to graph_cache_use.
"""

import logging
import shutil
from pathlib import Path

from neuron_ops.backends import compiler, warmup_layout
from neuron_ops.compilers.compiler import Compiler
from neuron_ops.compilers.graph import CACHE, Graph
from neuron_ops.compilers.report import to_markdown
from neuron_ops.errors import InvalidInput
from neuron_ops.steps import program
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.warmup_launcher import WarmupResult, warm_up
from neuron_ops.store.manifest import Scalar
from neuron_ops.store.node_local import node_local_folder

log = logging.getLogger(__name__)


def build(lineage: Lineage, out: Path) -> program.StepResult:
    """Fill `out` with the graphs that training with this recipe needs."""
    chosen = compiler(lineage.recipe)
    if chosen is None:
        return _nothing(out, f"backend {lineage.recipe.hardware.backend} runs eagerly: training compiles no graph")
    return _compile(lineage, out, chosen)


def _compile(lineage: Lineage, out: Path, chosen: Compiler) -> program.StepResult:
    chosen.require()
    _log_why(lineage)
    # Not a temporary directory: a killed compilation would leave it behind forever, with gigabytes in it.
    with node_local_folder(f"compile-{program.launch_name()}", fill=lambda folder: None) as scratch:
        world = warmup_layout(lineage.recipe)
        log.info("warming up training in %d processes with %s", world.world_size, chosen.name)
        warmed_up = warm_up(lineage, chosen, scratch, *program.node())
        if warmed_up is None:
            return program.StepResult(metrics={})  # the first node publishes for all of them
        log.info("%d graphs, %d bytes", len(warmed_up.graphs), sum(graph.bytes for graph in warmed_up.graphs))
        _refuse_incomplete(warmed_up.graphs, chosen.name)
        for file in chosen.files(scratch / CACHE):
            target = out / CACHE / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(scratch / CACHE / file, target)
    (out / "report.md").write_text(to_markdown(chosen.name, warmed_up.graphs))
    return program.StepResult(metrics=_metrics(chosen.name, warmed_up))


def _nothing(out: Path, reason: str) -> program.StepResult:
    (out / "report.md").write_text(f"No compiled graphs: {reason}. Set graph.torch_compile to compile them.\n")
    log.info("%s", reason)
    return program.StepResult(metrics={"graphs": 0, "reason": reason})


def _log_why(lineage: Lineage) -> None:
    nearest = lineage.nearest("compiled_graph_cache")
    if nearest is None:
        log.info("compiling, because this store has no compiled graphs yet")
        return
    address, changes = nearest
    log.info("compiling, because the most similar artifact, %s, differs in: %s", address, ", ".join(changes))


def _refuse_incomplete(graphs: list[Graph], name: str) -> None:
    """Refuse a cache that lacks a graph: every training would compile that graph while every core waits.

    Raises:
        InvalidInput: there is no graph at all, or one could not be compiled.
    """
    if not graphs:
        raise InvalidInput(
            f"{name} succeeded, but it left no graph in the cache folder that it was given. Look for another cache "
            "folder in the step's stderr: a flag of the environment may name one."
        )
    bad = [graph for graph in graphs if graph.state != "complete"]
    if bad:
        listed = "; ".join(f"{graph.name} {graph.state} ({graph.reason})" for graph in bad)
        raise InvalidInput(
            f"{len(bad)} of {len(graphs)} graphs could not be compiled: {listed}. Change the graph section, or the "
            "compiler's version, and materialize compiled_graph_cache again."
        )


def _metrics(name: str, warmed_up: WarmupResult) -> dict[str, Scalar]:
    seconds = [graph.seconds for graph in warmed_up.graphs if graph.seconds is not None]
    return {
        "graphs": len(warmed_up.graphs),
        "compiler": name,
        "graph_bytes": sum(graph.bytes for graph in warmed_up.graphs),
        **({"compile_seconds": round(sum(seconds), 3), "longest_compile_seconds": max(seconds)} if seconds else {}),
        **warmed_up.measured,
    }


if __name__ == "__main__":
    program.main("compile", build)
