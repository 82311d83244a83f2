"""What the ranks of a training tell one another on the host: never through the accelerator.

An accelerator's collectives are compiled and made for gradients. Which folder a checkpoint goes to, which one a
training resumes from and whether a step failed are words; they go through a gloo group of all ranks.
"""

from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

from neuron_ops.errors import OpsError


class Ranks:
    """All ranks of a training, this one's place among them; made by every rank, after its backend."""

    def __init__(self) -> None:
        several = dist.is_initialized() and dist.get_world_size() > 1
        self.rank: int = dist.get_rank() if several else 0
        # Not the default group: on an accelerator that one takes no host tensors. How long to wait is the watchdog's.
        self._group = dist.new_group(backend="gloo", timeout=timedelta(weeks=1)) if several else None

    def barrier(self) -> None:
        """Wait for every rank."""
        if self._group is not None:
            dist.barrier(self._group)

    def from_first(self, decide: Callable[[], str]) -> str:
        """What the first rank decides, on every rank; it alone calls `decide`, while the others wait.

        When that fails, the first rank raises the error and the others end with the same status, in silence.
        """
        if self._group is None:
            return decide()
        return self._decide(decide) if self.rank == 0 else self._listen()

    def _decide(self, decide: Callable[[], str]) -> str:
        try:
            word = decide()
        except BaseException as error:
            self._send(error.exit_code if isinstance(error, OpsError) else 1, b"")
            raise
        self._send(0, word.encode())
        return word

    def _send(self, status: int, word: bytes) -> None:
        dist.broadcast(torch.tensor([status, len(word)]), src=0, group=self._group)
        if word:
            dist.broadcast(torch.frombuffer(bytearray(word), dtype=torch.uint8), src=0, group=self._group)

    def _listen(self) -> str:
        header = torch.zeros(2, dtype=torch.int64)
        dist.broadcast(header, src=0, group=self._group)
        status, length = header.tolist()
        if status != 0:
            raise SystemExit(status)
        word = torch.zeros(length, dtype=torch.uint8)
        if length:
            dist.broadcast(word, src=0, group=self._group)
        return bytes(word.tolist()).decode()
