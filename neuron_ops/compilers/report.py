"""What a person reads about a compilation: each graph with its size and its seconds."""

from neuron_ops.compilers.graph import Graph
from neuron_ops.steps.warmup_launcher import WarmupResult


def to_markdown(compiler: str, rehearsed: WarmupResult) -> str:
    """A sentence and a table; the longest compilation first."""
    graphs = sorted(rehearsed.graphs, key=lambda graph: (-(graph.seconds or 0.0), -graph.bytes, graph.name))
    lines = [
        f"{len(graphs)} graphs, compiled by {compiler} while training was rehearsed. Training takes them from here.",
        "",
        "| graph | bytes | seconds | tries |",
        "|---|---:|---:|---:|",
        *(_row(graph) for graph in graphs),
    ]
    return "\n".join(lines) + "\n"


def _row(graph: Graph) -> str:
    seconds = "" if graph.seconds is None else f"{graph.seconds:.1f}"
    return f"| `{graph.name}` | {graph.bytes:,} | {seconds} | {graph.retries + 1} |"
