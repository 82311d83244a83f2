"""Starting the warm-up of a compiler and reading its result; the warm-up itself is the program warmup.

The program runs like training: with as many processes, in the same environment. If a graph depends on the number of
nodes, each node runs this at the same time and their processes connect; the graphs of the first node are kept.
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
"""How often a failing graph is compiled, each time with the compiler's own retries; this limits the hours."""


@dataclass(frozen=True, slots=True)
class WarmupResult:
    """The result of a warm-up."""

    graphs: list[Graph]
    measured: dict[str, Scalar]
    """Seconds of its first evaluation and its steps, including compilation."""


def warm_up(lineage: Lineage, compiler: Compiler, scratch: Path, node: int, meet: str) -> WarmupResult | None:
    """Run the fewest steps that visit every graph, and compile until every graph is complete or ROUNDS are over.

    The cache is `scratch / CACHE`. Only the first node compiles and returns a result; the others only run their ranks.

    Raises:
        OpsError: the error that the program ended with.
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
    # torchrun's --log-dir: otherwise it leaves a folder in TMPDIR each time.
    variables = {**environment(lineage.recipe), **compiler.environment(cache), "PET_LOG_DIR": str(cache.parent)}
    if warmup_layout(lineage.recipe).nodes > 1:
        # The ranks report to the program that started the nodes, as in training: another node may have failed first.
        status = process.execute(argv, variables, _show_and_keep(lines))
        if status != 0:
            raise SystemExit(status if status > 0 else 128 - status)
        return "".join(lines)
    ended = process.run(argv, variables, _show_and_keep(lines))
    if ended.error is not None:
        raise ended.error
    if ended.status != 0:
        how = f"was killed by signal {-ended.status}" if ended.status < 0 else f"ended with status {ended.status}"
        raise Unavailable(f"The warm-up of the compiler {how}. Read its output in this step's stderr.")
    return "".join(lines)


def _show_and_keep(lines: list[str]) -> Callable[[str], None]:
    def on_line(line: str) -> None:
        sys.stderr.write(f"warm-up: {line}")
        lines.append(line)

    return on_line
