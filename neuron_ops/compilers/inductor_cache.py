"""The cache folder of torch's compiler (inductor), read from outside: its graphs, and which machine they are for.

What belongs into an artifact is the whole folder, not torch's portable blob of it: on a CPU the blob holds C++ source,
which would be compiled again. It is programs and torch's own records, that is, code: who may write to the store may
run code in a training, as with any compiled graph. Without torch.
"""

import hashlib
import platform
from pathlib import Path

from neuron_ops.compilers.graph import Graph


def scan(cache: Path) -> list[Graph]:
    """Every compiled graph, sorted by name. All are complete: torch renames whole files into place."""
    graphs = [entry for entry in sorted(cache.glob("fxgraph/*/*")) if entry.is_dir()]
    return [Graph(graph.name, "complete", sum(file.stat().st_size for file in graph.iterdir())) for graph in graphs]


def files(cache: Path) -> list[Path]:
    """What belongs into an artifact, relative to the cache: everything but locks. Graphs share their programs."""
    found = [file.relative_to(cache) for file in sorted(cache.rglob("*")) if file.is_file()]
    return [file for file in found if "locks" not in file.parts and file.suffix not in (".lock", ".tmp")]


def machine() -> str:
    """What programs compiled here need: the processor's architecture, and a digest of its instruction sets.

    Torch compiles for the very processor that it runs on, and its cache would hand the result to any other.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    features = sorted({word for line in lines if line.startswith(("flags", "Features")) for word in line.split()})
    return f"{platform.machine()} {hashlib.sha256(' '.join(features).encode()).hexdigest()[:12]}"
