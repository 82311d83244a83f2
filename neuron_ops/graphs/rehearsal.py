"""Starting a rehearsal of training and reading what it leaves; the rehearsal itself is the program rehearse.

The program runs as training will: as many processes, in the same environment. It runs on one machine.
"""

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from neuron_ops import errors, launch
from neuron_ops.artifacts import Scalar
from neuron_ops.backends import environment, layout
from neuron_ops.backends.compilers import Compiler
from neuron_ops.errors import OpsError, Unavailable
from neuron_ops.graphs.graph import Graph
from neuron_ops.run import Run

log = logging.getLogger(__name__)

RESULT, ERROR = "rehearsal.json", "error.json"
ROUNDS = 3
"""Compilations of a graph that fails, each with the compiler's own tries: a bound on hours."""


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a rehearsal left."""

    graphs: list[Graph]
    measured: dict[str, Scalar]
    """Seconds of its first evaluation and steps, with everything compiled on the way."""


def rehearse(run: Run, compiler: Compiler, scratch: Path) -> Rehearsed:
    """Run the fewest steps that visit every graph, and compile until nothing is left or ROUNDS are over.

    The cache is `scratch / "cache"`.

    Raises:
        OpsError: what the program ended with.
    """
    cache, out = scratch / "cache", scratch / "out"
    for folder in (cache, out):
        folder.mkdir()
    argv = _command(run, scratch, out)
    output = _run(compiler.rehearse(argv), run, compiler, cache, out)
    graphs = compiler.scan(cache, output)
    again = compiler.again(argv)
    for _ in range(ROUNDS - 1):
        incomplete = [graph for graph in graphs if graph.state != "complete"]
        if again is None or not incomplete:
            break
        for graph in incomplete:
            log.warning("compiling %s again: %s", graph.name, graph.reason)
            compiler.reset(cache, graph)
        output += _run(again, run, compiler, cache, out)
        graphs = compiler.scan(cache, output)
    result = out / RESULT
    return Rehearsed(graphs, json.loads(result.read_text()) if result.exists() else {})


def report_error(out: Path, error: OpsError) -> None:
    """Leave the error for the process that started the rehearsal: torchrun makes every exit code 1."""
    (out / ERROR).write_text(json.dumps({"kind": type(error).__name__, "message": str(error)}))


def _command(run: Run, scratch: Path, out: Path) -> list[str]:
    recipe_file = scratch / "recipe.json"
    recipe_file.write_text(run.recipe.to_json())
    places = ["--recipe", str(recipe_file), "--store", run.store.url, "--raw", run.raw.url, "--out", str(out)]
    program = ["-m", "neuron_ops.rehearse", *places]
    processes = layout(run.recipe).processes_per_node
    if processes == 1:
        return [sys.executable, *program]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *torchrun, *program]


def _run(argv: list[str], run: Run, compiler: Compiler, cache: Path, out: Path) -> str:
    lines: list[str] = []
    variables = {**environment(run.recipe), **compiler.environment(cache)}
    status = launch.execute(argv, variables, _show_and_keep(lines))
    if (out / ERROR).exists():
        error = json.loads((out / ERROR).read_text())
        kind: type[OpsError] = getattr(errors, error["kind"])
        raise kind(error["message"])
    if status != 0:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
        raise Unavailable(f"The rehearsal of training {how}. Its output is in this step's stderr.")
    return "".join(lines)


def _show_and_keep(lines: list[str]) -> Callable[[str], None]:
    def on_line(line: str) -> None:
        sys.stderr.write(f"rehearsal: {line}")
        lines.append(line)

    return on_line
