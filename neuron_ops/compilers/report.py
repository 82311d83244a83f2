"""What a person reads about a compilation: each graph with its size and its seconds."""

from collections.abc import Iterable

from neuron_ops.compilers.graph import Graph


def to_markdown(compiler: str, graphs: Iterable[Graph]) -> str:
    """A sentence and a table; the longest compilation first."""
    ordered = sorted(graphs, key=lambda graph: (-(graph.seconds or 0.0), -graph.bytes, graph.name))
    lines = [
        f"{len(ordered)} graphs, compiled by {compiler} while it was warmed up. Training takes them from here.",
        "",
        "| graph | bytes | seconds | tries |",
        "|---|---:|---:|---:|",
        *(_row(graph) for graph in ordered),
    ]
    return "\n".join(lines) + "\n"


def _row(graph: Graph) -> str:
    seconds = "" if graph.seconds is None else f"{graph.seconds:.1f}"
    return f"| `{graph.name}` | {graph.bytes:,} | {seconds} | {graph.retries + 1} |"
