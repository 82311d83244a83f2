"""One compiled graph, as a compiler's cache shows it from outside. How a cache is laid out belongs to its reader."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["complete", "extracted", "failed", "locked"]
"""extracted: traced and never compiled. locked: its compilation was killed and would be waited for, for ever."""

CACHE = "cache"
"""Folder within compiled_graph_cache that is a compiler's cache; the rest is for people."""

OnMiss = Callable[[str, str], None]
"""Called with the name of a graph that was not in the cache, and why."""


@dataclass(frozen=True, slots=True)
class Graph:
    """One entry of a cache."""

    name: str
    state: State
    bytes: int
    """Size of the compiler's result; 0 unless complete."""
    reason: str = ""
    """Why it is not complete, in the compiler's words where it has any."""
    seconds: float | None = None
    """What its compilation took, where the compiler says so."""
    retries: int = 0
    """How often the compiler tried again."""
