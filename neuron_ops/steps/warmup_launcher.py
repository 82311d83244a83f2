"""Starting the warm-up of a compiler and reading what it leaves; the warm-up itself is the program warmup.

The program runs as training will: as many processes, in the same environment. Where a graph depends on how many nodes
there are, each of them runs this at the same time and their processes meet; the graphs of the first are kept.
"""

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from neuron_ops.backends import environment, warmup_layout
from neuron_ops.compilers.compiler import Compiler
from neuron_ops.compilers.graph import CACHE, Graph
from neuron_ops.errors import Unavailable
from neuron_ops.launch import process, torchrun
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.manifest import Scalar

log = logging.getLogger(__name__)

RESULT = "warmup.json"
ROUNDS = 3
"""Compilations of a graph that fails, each with the compiler's own tries: a bound on hours."""


@dataclass(frozen=True, slots=True)
class WarmupResult:
    """What a warm-up left."""

    graphs: list[Graph]
    measured: dict[str, Scalar]
    """Seconds of its first evaluation and steps, with everything compiled on the way."""


def warm_up(lineage: Lineage, compiler: Compiler, scratch: Path, node: int, meet: str) -> WarmupResult | None:
    """Run the fewest steps that visit every graph, and compile until nothing is left or ROUNDS are over.

    The cache is `scratch / CACHE`. Only the first node compiles and returns; the others are there for their ranks.

    Raises:
        OpsError: what the program ended with.
    """
    cache, out = scratch / CACHE, scratch / "out"
    for folder in (cache, out):
        folder.mkdir()
    argv = _command(lineage, scratch, out, node, meet)
    if node > 0:
        _run(compiler.trace_only(argv), lineage, compiler, cache)
        return None
    output = _run(compiler.warmup(argv), lineage, compiler, cache)
    graphs = compiler.scan(cache, output)
    retry = compiler.retry(argv)
    for _ in range(ROUNDS - 1):
        incomplete = [graph for graph in graphs if graph.state != "complete"]
        if retry is None or not incomplete:
            break
        for graph in incomplete:
            log.warning("compiling %s again: %s", graph.name, graph.reason)
            compiler.reset(cache, graph)
        output += _run(retry, lineage, compiler, cache)
        graphs = compiler.scan(cache, output)
    result = out / RESULT
    return WarmupResult(graphs, json.loads(result.read_text()) if result.exists() else {})


def _command(lineage: Lineage, scratch: Path, out: Path, node: int, meet: str) -> list[str]:
    recipe_file = scratch / "recipe.json"
    recipe_file.write_text(lineage.recipe.to_json())
    places = ["--recipe", str(recipe_file), "--store", lineage.store.url, "--raw", lineage.raw.url, "--out", str(out)]
    program = ["-m", "neuron_ops.steps.warmup", *places]
    world = warmup_layout(lineage.recipe)
    if world.world_size == 1:
        return [sys.executable, *program]
    return torchrun.command(world, node, torchrun.Rendezvous.parse(meet), program)


def _run(argv: list[str], lineage: Lineage, compiler: Compiler, cache: Path) -> str:
    lines: list[str] = []
    # torchrun's --log-dir: else it leaves a folder in TMPDIR each time.
    variables = {**environment(lineage.recipe), **compiler.environment(cache), "PET_LOG_DIR": str(cache.parent)}
    if warmup_layout(lineage.recipe).nodes > 1:
        # Its ranks report to whoever started the nodes, as in training: this node's end may be another's consequence.
        status = process.execute(argv, variables, _show_and_keep(lines))
        if status != 0:
            raise SystemExit(status if status > 0 else 128 - status)
        return "".join(lines)
    ended = process.run(argv, variables, _show_and_keep(lines))
    if ended.error is not None:
        raise ended.error
    if ended.status != 0:
        how = f"was killed by signal {-ended.status}" if ended.status < 0 else f"ended with status {ended.status}"
        raise Unavailable(f"The warm-up of the compiler {how}. Its output is in this step's stderr.")
    return "".join(lines)


def _show_and_keep(lines: list[str]) -> Callable[[str], None]:
    def on_line(line: str) -> None:
        sys.stderr.write(f"warm-up: {line}")
        lines.append(line)

    return on_line
