"""Trainium's compiler: neuron_parallel_compile runs a program without executing its graphs, then compiles them all.

Commands and variables are those of AWS's page "PyTorch NeuronX neuron_parallel_compile CLI". Not run on Trainium.
"""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from neuron_ops.compilers import neuron_cache
from neuron_ops.compilers.graph import Graph, OnMiss
from neuron_ops.errors import InvalidInput

PROGRAM = "neuron_parallel_compile"
IN_GRAPHS = ("NEURON_CC_FLAGS", "NEURON_FUSE_SOFTMAX", "NEURON_LOGICAL_NC_CONFIG")
"""Variables that change what is traced or how it is compiled; the runtime's others do not."""
LOOK_SECONDS = 2.0
"""Between two looks at the cache: a miss is found long before its compilation would end."""


class NeuronCompiler:
    """neuronx-cc behind its persistent cache."""

    name = "neuron_parallel_compile"
    needs_every_node = True

    def require(self) -> None:
        """It is installed with torch-neuronx."""
        if shutil.which(PROGRAM) is None:
            raise InvalidInput(
                f"hardware.backend is neuron, but {PROGRAM} is not on this machine's PATH, so nothing can be compiled "
                "here. Run compile in a Neuron image (it comes with torch-neuronx), or use backend cpu or cuda."
            )

    def warmup(self, argv: list[str]) -> list[str]:
        """Extract, then compile."""
        return [PROGRAM, *argv]

    def trace_only(self, argv: list[str]) -> list[str]:
        """Extract only."""
        return [PROGRAM, "--command", "collect", *argv]

    def retry(self, argv: list[str]) -> list[str] | None:
        """Compile only."""
        return [PROGRAM, "--command", "compile", *argv]

    def environment(self, cache: Path) -> dict[str, str]:
        """A folder of its own, and one more try for a compilation that failed: memory may have been short."""
        return {"NEURON_COMPILE_CACHE_URL": str(cache), "NEURON_PARALLEL_COMPILE_MAX_RETRIES": "1"}

    def point_at(self, cache: Path) -> None:
        """A --cache_dir among the flags would win over the variable."""
        flags = os.environ.get("NEURON_CC_FLAGS", "").split()
        os.environ["NEURON_CC_FLAGS"] = " ".join(flag for flag in flags if not flag.startswith("--cache_dir"))
        os.environ["NEURON_COMPILE_CACHE_URL"] = str(cache)

    def scan(self, cache: Path, output: str = "") -> list[Graph]:
        """The folder's entries, with seconds and retries from the compiler's report."""
        report = neuron_cache.read_report(output)
        return [
            replace(graph, seconds=report[graph.name].seconds, retries=report[graph.name].retries)
            if graph.name in report
            else graph
            for graph in neuron_cache.scan(cache)
        ]

    def files(self, cache: Path) -> list[Path]:
        """Those of complete entries."""
        complete = [graph for graph in neuron_cache.scan(cache) if graph.state == "complete"]
        return [file for graph in complete for file in neuron_cache.files(cache, graph)]

    def reset(self, cache: Path, graph: Graph) -> None:
        """What --retry_failed_compilation would do, for one entry and without a flag."""
        neuron_cache.reset(cache, graph)

    @contextlib.contextmanager
    def counting(self, cache: Path, on_miss: OnMiss) -> Iterator[Callable[[], int]]:
        """A thread looks for new entries: the one that trains is inside the compiler while it compiles."""
        published = frozenset(neuron_cache.names(cache))
        ended = threading.Event()

        def new() -> list[str]:
            return [name for name in neuron_cache.names(cache) if name not in published]

        def look() -> None:
            while not ended.wait(LOOK_SECONDS):
                for name in new():
                    on_miss(name, neuron_cache.explain_miss(cache, name, published))

        threading.Thread(target=look, name="compile-cache", daemon=True).start()
        try:
            yield lambda: len(new())
        finally:
            ended.set()

    def machine(self) -> str:
        """Nothing: the instance type is in the recipe."""
        return ""
