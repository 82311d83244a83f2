"""Which rows a step trains on: a pure function of (seed, step, rank), so the data position is the step number.

Rows come in a fresh random order every epoch. Which rows make up a global batch does not depend on how the batch is
split over ranks and micro-batches, so runs of different layouts stay comparable.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

COLUMNS = ("input_ids", "labels", "position_ids")

Batch = dict[str, torch.Tensor]
"""input_ids, labels (-100: not in the loss) and position_ids, each int64, shape (micro batch, sequence length)."""


class Rows:
    """The fixed-length sequences of one split, on the host."""

    def __init__(self, folder: Path) -> None:
        # Read as it was written, without `datasets`: importing that costs every rank two CPU seconds.
        files = json.loads((folder / "state.json").read_bytes())["_data_files"]
        self._chunks = [chunk for file in files for chunk in _map_columns(folder / file["filename"])]
        self._starts = np.cumsum([0, *(len(chunk["labels"]) for chunk in self._chunks)])[:-1]
        # The model shifts labels by one, so the first position of a sequence is never predicted.
        self.supervised = np.concatenate([(chunk["labels"][:, 1:] != -100).sum(axis=1) for chunk in self._chunks])
        """Tokens in the loss of each row, shape (rows,)."""

    def __len__(self) -> int:
        return len(self.supervised)

    def first(self, count: int) -> Batch:
        """The first rows of the split, at most `count`."""
        return self.take(np.arange(min(count, len(self))))

    def take(self, indices: np.ndarray, weights: np.ndarray | None = None) -> Batch:
        """Rows as tensors; a row of weight 0 keeps its shape and leaves the loss."""
        places = np.searchsorted(self._starts, indices, side="right") - 1
        found = [(self._chunks[place], at) for place, at in zip(places, indices - self._starts[places], strict=True)]
        batch = {
            name: torch.from_numpy(np.stack([chunk[name][at] for chunk, at in found]).astype(np.int64))
            for name in COLUMNS
        }
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


def _map_columns(file: Path) -> Iterator[dict[str, np.ndarray]]:
    """The batches of an Arrow stream as views of the file, int32: a row is read when it is taken."""
    for batch in pa.ipc.open_stream(pa.memory_map(str(file))):
        yield {name: _to_numpy(batch.column(name)) for name in COLUMNS}


def _to_numpy(column: pa.FixedSizeListArray) -> np.ndarray:
    # Not column.to_numpy(): that imports pandas, 1.3 s of CPU.
    values = column.flatten()
    flat = np.frombuffer(values.buffers()[1], dtype=np.int32)[values.offset :][: len(values)]
    return flat.reshape(len(column), column.type.list_size)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, rows: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(rows)
