"""What a backend compiles with, seen from outside: how it is started, told its cache, and how that cache is read."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from neuron_ops.compilers.graph import Graph, OnMiss


class Compiler(Protocol):
    """One compiler; a backend chooses it."""

    name: str
    """As a person would say it."""
    needs_every_node: bool
    """Whether a graph depends on how many nodes there are, so that one node cannot warm up for several."""

    def require(self) -> None:
        """Refuse a machine that cannot compile, where that shows without torch.

        Raises:
            InvalidInput: what is missing, and where it would be there.
        """
        ...

    def warmup(self, argv: list[str]) -> list[str]:
        """The command that runs a program and compiles the graphs it makes."""
        ...

    def trace_only(self, argv: list[str]) -> list[str]:
        """The command that runs a program for the ranks that it adds, on a node whose graphs nobody keeps."""
        ...

    def retry(self, argv: list[str]) -> list[str] | None:
        """The command that compiles what an earlier `warmup` extracted; None where there is no such thing."""
        ...

    def environment(self, cache: Path) -> dict[str, str]:
        """Variables by which a process and its children find the cache."""
        ...

    def point_at(self, cache: Path) -> None:
        """Make this very process use the cache; before anything that compiles is imported."""
        ...

    def scan(self, cache: Path, output: str = "") -> list[Graph]:
        """Every graph of the cache, with what `output` of the compiler says about each."""
        ...

    def files(self, cache: Path) -> list[Path]:
        """What of the cache belongs into an artifact, relative to it: nothing of a graph that is not complete."""
        ...

    def reset(self, cache: Path, graph: Graph) -> None:
        """Make a graph that is not complete look as if it had never been compiled."""
        ...

    def counting(self, cache: Path, on_miss: OnMiss) -> AbstractContextManager[Callable[[], int]]:
        """While it lasts, notice every graph that is compiled; what it gives tells how many were.

        `on_miss` is called, from another thread, where a graph costs so much that training should not go on.
        """
        ...

    def machine(self) -> str:
        """What the processor must be for the cache to work; empty where the recipe says it."""
        ...
