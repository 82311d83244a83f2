"""Which rows a step trains on: a pure function of (seed, step, rank), so the data position is the step number.

Rows come in a fresh random order every epoch. Which rows make up a global batch does not depend on how the batch is
split over ranks and micro-batches, so runs of different layouts stay comparable.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, load_from_disk

COLUMNS = ("input_ids", "labels", "position_ids")

Batch = dict[str, torch.Tensor]
"""input_ids, labels (-100: not in the loss) and position_ids, each int64, shape (micro batch, sequence length)."""


class Rows:
    """The fixed-length sequences of one split, on the host."""

    def __init__(self, folder: Path) -> None:
        dataset = load_from_disk(str(folder))
        assert isinstance(dataset, Dataset), f"{folder} holds one split"
        self._dataset = dataset.with_format("numpy")
        # The model shifts labels by one, so the first position of a sequence is never predicted.
        labels = np.asarray(self._dataset["labels"])
        self.supervised = (labels[:, 1:] != -100).sum(axis=1)
        """Tokens in the loss of each row, shape (rows,)."""

    def __len__(self) -> int:
        return len(self.supervised)

    def first(self, count: int) -> Batch:
        """The first rows of the split, at most `count`."""
        return self.take(np.arange(min(count, len(self))))

    def take(self, indices: np.ndarray, weights: np.ndarray | None = None) -> Batch:
        """Rows as tensors; a row of weight 0 keeps its shape and leaves the loss."""
        columns = self._dataset[indices]
        batch = {name: torch.from_numpy(np.asarray(columns[name], dtype=np.int64)) for name in COLUMNS}
        if weights is not None:
            batch["labels"][torch.from_numpy(weights == 0)] = -100
        return batch


class Schedule:
    """Rows of each training step and each evaluation for one data-parallel rank."""

    def __init__(self, seed: int, micro_batch: int, accumulation: int, ranks: int, rank: int) -> None:
        self._seed, self._micro_batch, self._accumulation = seed, micro_batch, accumulation
        self._ranks, self._rank = ranks, rank

    @property
    def rows_per_step(self) -> int:
        """Rows of a global batch, over all ranks and micro-batches."""
        return self._micro_batch * self._accumulation * self._ranks

    def train(self, rows: Rows, step: int) -> tuple[list[Batch], int]:
        """This rank's micro-batches of step `step` (from 0), and the tokens in the loss over all ranks."""
        first = step * self.rows_per_step
        positions = np.arange(first, first + self.rows_per_step)
        indices = np.array(
            [_order(self._seed, epoch, len(rows))[at] for epoch, at in zip(*divmod(positions, len(rows)), strict=True)]
        )
        mine = indices.reshape(self._accumulation, self._ranks, self._micro_batch)[:, self._rank]
        return [rows.take(micro) for micro in mine], int(rows.supervised[indices].sum())

    def evaluation(self, rows: Rows) -> Iterator[Batch]:
        """This rank's batches of the whole split, the last filled up with rows that do not count."""
        size = self._micro_batch * self._ranks
        for first in range(0, len(rows), size):
            start = first + self._rank * self._micro_batch
            positions = np.arange(start, start + self._micro_batch)
            yield rows.take(np.minimum(positions, len(rows) - 1), weights=positions < len(rows))


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, rows: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(rows)
