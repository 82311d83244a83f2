"""torch.compile for cpu and cuda: each decoder layer by itself, so that all layers share one set of graphs.

A layer by itself compiles in a fraction of the time of the model, works below gradient checkpointing and DDP as it is,
and makes graphs that do not depend on the number of layers. torch is imported inside the functions: the launch half
asks for names and folders only.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from neuron_ops.compilers import inductor_cache
from neuron_ops.compilers.graph import Graph, OnMiss
from neuron_ops.errors import InvalidInput

if TYPE_CHECKING:
    from torch import nn


class TorchCompiler:
    """torch's inductor behind its cache folder."""

    name = "torch.compile"
    needs_every_node = False

    def require(self) -> None:
        """Nothing shows without torch: `compile_layers` looks for a C++ compiler, and for Triton on a GPU."""

    def warmup(self, argv: list[str]) -> list[str]:
        """The program compiles by itself."""
        return argv

    def trace_only(self, argv: list[str]) -> list[str]:
        """Never needed: one node warms up for all."""
        return argv

    def retry(self, argv: list[str]) -> list[str] | None:
        """There is nothing in between."""
        return None

    def environment(self, cache: Path) -> dict[str, str]:
        """Triton keeps its part below the same folder."""
        return {"TORCHINDUCTOR_CACHE_DIR": str(cache)}

    def point_at(self, cache: Path) -> None:
        """torch reads the variable when it compiles first."""
        os.environ.update(self.environment(cache))

    def scan(self, cache: Path, output: str = "") -> list[Graph]:
        """Torch says nothing of each."""
        return inductor_cache.scan(cache)

    def files(self, cache: Path) -> list[Path]:
        """The programs, and torch's records of which graph uses which."""
        return inductor_cache.files(cache)

    def reset(self, cache: Path, graph: Graph) -> None:
        """Never needed."""

    @contextlib.contextmanager
    def counting(self, cache: Path, on_miss: OnMiss) -> Iterator[Callable[[], int]]:
        """By torch's own counters; a graph costs seconds, so a miss is counted and training goes on."""
        before = compiled_so_far()
        yield lambda: compiled_so_far() - before

    def machine(self) -> str:
        """Programs for a CPU fit the processor that compiled them."""
        return inductor_cache.machine()


def compile_layers(model: "nn.Module", device: str) -> None:
    """Let every decoder layer compile itself at its first call.

    Raises:
        InvalidInput: torch.compile cannot work on this machine.
    """
    import torch._inductor.config as inductor
    from transformers.modeling_layers import GradientCheckpointingLayer

    _require_toolchain(device)
    # Dropout then draws what it draws eagerly, so that compiling changes the speed of a training and not its course.
    inductor.fallback_random = True
    if device == "cpu":
        # Workers would each import torch to run g++, and outlive a killed training for a moment.
        inductor.compile_threads = 1
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise InvalidInput(
            f"graph.torch_compile is true, but {type(model).__name__} has no decoder layers that transformers marks "
            "as such. Set it to false."
        )
    for layer in layers:
        # fullgraph: whatever cannot be compiled is an error, not a layer that quietly stays eager.
        layer.compile(fullgraph=True, dynamic=False)


def compiled_so_far() -> int:
    """Graphs that this process compiled because no cache had them."""
    from torch._dynamo.utils import counters

    return int(counters["inductor"]["fxgraph_cache_miss"] + counters["inductor"]["fxgraph_cache_bypass"])


def _require_toolchain(device: str) -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise InvalidInput(
            "graph.torch_compile is true, but there is no C++ compiler here (g++ or clang++, or what CXX names). "
            "Install one, or set torch_compile to false."
        ) from None
    if device != "cpu" and not has_triton():
        raise InvalidInput(
            "graph.torch_compile is true, but torch finds no Triton for this GPU. Set torch_compile to false."
        )
