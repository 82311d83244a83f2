"""What the training loop asks of a backend; torch's types appear here for the type checker only."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from neuron_ops.recipe.schema import Recipe

if TYPE_CHECKING:
    import torch
    from torch import nn


class BackendProcess(Protocol):
    """One process of a training, on one kind of device."""

    rank: int
    """Global rank of this process."""
    data_parallel_rank: int
    """Which share of each global batch this process takes."""
    data_parallel_size: int
    """How many shares there are."""
    shard: int
    """Which part of the adapter this process holds: 0 where each process holds all of it."""
    saves: bool
    """Whether this process's part goes into checkpoints; other processes hold copies of it."""
    device: "torch.device"
    """Where batches go."""
    summed_loss: dict[str, Any]  # Any: keyword arguments of a model's forward
    """Arguments that make the model return the loss summed over tokens, not averaged."""

    def load_model(self, folder: Path, recipe: Recipe) -> "nn.Module":
        """The base model with a fresh adapter, on the device, ready for the loop."""
        ...

    def trainable(self, model: "nn.Module") -> dict[str, "nn.Parameter"]:
        """The adapter's parameters by name, in a fixed order."""
        ...

    def prepare_optimizer(self, optimizer: "torch.optim.Optimizer") -> "torch.optim.Optimizer":
        """The optimizer of the trainable parameters, as `clip_and_step` wants it."""
        ...

    def accumulate(self, model: "nn.Module", last: bool) -> AbstractContextManager[None]:
        """Around each micro-batch: gradients are exchanged at the last one only."""
        ...

    def backward(self, loss: "torch.Tensor") -> None:
        """Add the gradients of `loss`."""
        ...

    def clip_and_step(
        self, optimizer: "torch.optim.Optimizer", parameters: Iterable["nn.Parameter"], max_norm: float
    ) -> "torch.Tensor":
        """Clip to the global 2-norm, update, and return the norm before clipping, shape ()."""
        ...

    def sum_over_ranks(self, value: "torch.Tensor") -> "torch.Tensor":
        """The sum over data-parallel ranks, on every rank."""
        ...

    def sync(self) -> None:
        """End of a stretch of device work; a lazy device executes here."""
        ...

    def seed_generators(self, seed: int) -> None:
        """Set every generator of this process that the loop draws from, on the host and on the device."""
        ...

    def save_adapter(self, model: "nn.Module", folder: Path) -> None:
        """Write the adapter in this backend's format, for `consolidate`. Collective; each process that saves writes."""
        ...
