"""How the processes of a training share the work: numbers only. Which numbers belongs to each backend."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Layout:
    """How the processes of a training share the work."""

    backend: str
    nodes: int
    processes_per_node: int
    data_parallel_size: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    threads: int | None
    """CPU threads of each process; None where their number decides nothing."""

    @property
    def world_size(self) -> int:
        """Processes over all nodes."""
        return self.nodes * self.processes_per_node

    def as_json(self) -> dict[str, Any]:  # Any: ints and one string
        """What of the layout decides graphs, checkpoints and, by the order of sums, results."""
        return {
            "backend": self.backend,
            "data_parallel_size": self.data_parallel_size,
            "tensor_parallel_size": self.tensor_parallel_size,
            "pipeline_parallel_size": self.pipeline_parallel_size,
            **({} if self.threads is None else {"threads": self.threads}),
        }
