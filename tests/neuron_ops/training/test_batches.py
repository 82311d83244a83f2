"""Which rows a step sees: a function of seed, step and rank that no layout changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.neuron_ops.training.workbench import SEQUENCE_LENGTH, make_rows

if TYPE_CHECKING:
    from neuron_ops.training.batches import Rows, Schedule


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder, number=23, seed=3)
    return folder


@pytest.fixture
def rows(folder: Path) -> Rows:
    from neuron_ops.training.batches import Rows

    return Rows(folder)


def schedule(micro_batch: int = 2, accumulation: int = 1, ranks: int = 1, rank: int = 0, seed: int = 0) -> Schedule:
    from neuron_ops.training.batches import Schedule

    return Schedule(seed, micro_batch, accumulation, ranks, rank)


def test_rows_are_what_the_datasets_library_reads(folder: Path, rows: Rows) -> None:
    import datasets
    import torch

    from neuron_ops.training.batches import COLUMNS

    expected = datasets.load_from_disk(str(folder)).with_format("numpy")

    taken = rows.take(np.arange(len(rows)))

    assert len(rows) == len(expected) > 5, "more than one batch of the file"
    for name in COLUMNS:
        assert taken[name].dtype == torch.int64
        assert np.array_equal(taken[name].numpy(), expected[name])


def test_rows_come_in_the_order_in_which_they_are_asked_for(rows: Rows) -> None:
    import torch

    everything = rows.take(np.arange(len(rows)))["input_ids"]
    last = len(rows) - 1

    taken = rows.take(np.array([last, 0, 5, 5]))["input_ids"]

    assert torch.equal(taken, everything[[last, 0, 5, 5]])


def test_only_predicted_tokens_count(rows: Rows) -> None:
    labels = rows.take(np.arange(len(rows)))["labels"]

    assert rows.supervised.tolist() == (labels[:, 1:] != -100).sum(dim=1).tolist()


def test_every_row_is_seen_once_in_an_epoch_and_in_another_order_in_the_next(rows: Rows) -> None:
    import torch

    plan = schedule(micro_batch=1)

    epochs = [
        [plan.train(rows, step)[0][0]["input_ids"] for step in range(first, first + len(rows))]
        for first in (0, len(rows))
    ]

    seen = [sorted(str(row.tolist()) for row in epoch) for epoch in epochs]
    assert seen[0] == seen[1] == sorted(str([row.tolist()]) for row in rows.take(np.arange(len(rows)))["input_ids"])
    assert any(not torch.equal(one, other) for one, other in zip(*epochs, strict=True))


def test_a_global_batch_may_reach_over_the_end_of_an_epoch(rows: Rows) -> None:
    (batch,), _ = schedule(micro_batch=len(rows) + 3).train(rows, 0)

    assert batch["input_ids"].shape == (len(rows) + 3, SEQUENCE_LENGTH)


@pytest.mark.parametrize(("micro_batch", "accumulation", "ranks"), [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_a_global_batch_holds_the_same_rows_however_it_is_split(
    micro_batch: int, accumulation: int, ranks: int, rows: Rows
) -> None:
    import torch

    (whole,), tokens = schedule(micro_batch=8).train(rows, 1)

    parts = [schedule(micro_batch, accumulation, ranks, rank).train(rows, 1) for rank in range(ranks)]

    ids = torch.cat([batch["input_ids"] for batches, _ in parts for batch in batches])
    assert sorted(ids.tolist()) == sorted(whole["input_ids"].tolist())
    assert {counted for _, counted in parts} == {tokens}, "every rank divides by the tokens of all"


def test_another_seed_is_another_order(rows: Rows) -> None:
    import torch

    (one,), _ = schedule(seed=1, micro_batch=8).train(rows, 0)
    (other,), _ = schedule(seed=2, micro_batch=8).train(rows, 0)

    assert not torch.equal(one["input_ids"], other["input_ids"])


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_evaluation_fills_up_with_rows_that_do_not_count(ranks: int, rows: Rows) -> None:
    batches = [list(schedule(micro_batch=4, ranks=ranks, rank=rank).evaluation(rows)) for rank in range(ranks)]

    assert len(rows) % 4, "the test needs a last batch that is not full"
    assert len({len(of_rank) for of_rank in batches}) == 1, "ranks that wait for each other need as many batches"
    every = [batch for of_rank in batches for batch in of_rank]
    assert {tuple(batch["labels"].shape) for batch in every} == {(4, SEQUENCE_LENGTH)}
    counted = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in every)
    assert counted == rows.supervised.sum()
