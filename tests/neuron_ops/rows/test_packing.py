"""Rows of many lengths in sequences of one length, and what a real model makes of them."""

from __future__ import annotations

import bisect
import random
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from neuron_ops.rows.packing import Sequences, build_sequences, plan_packed, plan_unpacked
from neuron_ops.rows.token_rows import IGNORED, TokenRow, TokenRows

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

PAD = 0
LENGTH = 24


def token_rows(lengths: list[int], seed: int = 0) -> list[TokenRow]:
    """Random rows of which the second half is learned."""
    chance = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        ids = chance.integers(1, 60, size=length, dtype=np.int32)
        labels = np.where(np.arange(length) >= max(1, length // 2), ids, IGNORED).astype(np.int32)
        rows.append(TokenRow(ids, labels))
    return rows


def test_every_row_is_placed_once_and_no_sequence_overflows() -> None:
    chance = random.Random(1)
    lengths = [chance.randint(1, 100) for _ in range(5000)]

    plan = plan_packed(lengths, 100)

    assert sorted(row for rows in plan for row in rows) == list(range(5000))
    assert max(sum(lengths[row] for row in rows) for rows in plan) <= 100


def test_rows_are_placed_best_fit_longest_first() -> None:
    chance = random.Random(2)
    lengths = [chance.randint(1, 64) for _ in range(800)]

    plan = plan_packed(lengths, 64)

    assert len(plan) == count_by_definition(lengths, 64)
    assert sum(lengths) / (len(plan) * 64) > 0.98


def count_by_definition(lengths: list[int], capacity: int) -> int:
    """Sequences that best-fit decreasing needs, by its definition: the least room that is enough."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        place = bisect.bisect_left(rooms, length)
        room = rooms.pop(place) if place < len(rooms) else capacity
        bisect.insort(rooms, room - length)
    return len(rooms)


def test_a_row_as_long_as_a_sequence_fills_one() -> None:
    assert plan_packed([8, 8, 3, 5], 8) == [[0], [1], [2, 3]]


def test_neither_file_order_nor_packing_sorts_the_sequences_by_length() -> None:
    lengths = [10, 90, 20, 80, 30, 70]

    assert plan_packed(lengths, 100) == [[0, 1], [2, 3], [4, 5]]


def test_unpacked_sequences_hold_one_row_each() -> None:
    assert plan_unpacked([5, 1, 3]) == [[0], [1], [2]]


def test_positions_restart_with_each_row_and_with_the_padding() -> None:
    rows = token_rows([3, 1, 2])

    built = build_sequences([rows], 10, PAD)

    assert built.position_ids.tolist() == [[0, 1, 2, 0, 0, 1, 0, 1, 2, 3]]


def test_padding_is_the_pad_token_and_never_learned() -> None:
    rows = token_rows([3, 4])

    built = build_sequences([rows[:1], rows[1:]], 6, PAD)

    assert built.input_ids[0, :3].tolist() == rows[0].ids.tolist()
    assert built.input_ids[0, 3:].tolist() == [PAD] * 3
    assert built.labels[0, 3:].tolist() == [IGNORED] * 3
    assert built.labels[1, :4].tolist() == rows[1].labels.tolist()
    assert {array.dtype for array in (built.input_ids, built.labels, built.position_ids)} == {np.dtype(np.int32)}


def test_rows_come_back_from_disk_as_they_went(tmp_path: Path) -> None:
    rows = token_rows([3, 700, 1, 20])

    with TokenRows(tmp_path) as stored:
        for row in rows:
            stored.append(row)

        for index in (3, 0, 2, 1):
            assert stored[index].ids.tolist() == rows[index].ids.tolist()
            assert stored[index].labels.tolist() == rows[index].labels.tolist()
        assert list(stored.lengths) == [3, 700, 1, 20]
        assert stored.num_tokens == 724
        assert stored.num_supervised == sum(row.num_supervised for row in rows)
    assert list(tmp_path.iterdir()) == []


@cache
def tiny_llama(attention: str) -> LlamaForCausalLM:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=attention,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def outputs(model: LlamaForCausalLM, sequences: Sequences, **changed: object) -> tuple[float, torch.Tensor]:
    import torch

    arguments = {
        "position_ids": torch.from_numpy(sequences.position_ids).long(),
        "attention_mask": None,
        "use_cache": False,
        **changed,
    }
    with torch.no_grad():
        result = model(
            input_ids=torch.from_numpy(sequences.input_ids).long(),
            labels=torch.from_numpy(sequences.labels).long(),
            **arguments,
        )
    return float(result.loss), result.logits


def mean_over_tokens(model: LlamaForCausalLM, rows: list[TokenRow]) -> float:
    """Each row alone, without padding: what packing has to reproduce."""
    losses = [outputs(model, build_sequences([[row]], len(row.ids), PAD))[0] * row.num_supervised for row in rows]
    return sum(losses) / sum(row.num_supervised for row in rows)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("packed", [True, False])
def test_the_loss_of_a_batch_is_the_token_weighted_mean_of_the_losses_of_its_rows(attention: str, packed: bool) -> None:
    import torch

    model = tiny_llama(attention)
    lengths = [13, 7, 9, 11, 2] if packed else [13, 24]
    rows = token_rows(lengths)
    plan = plan_packed(lengths, LENGTH) if packed else plan_unpacked(lengths)
    batch = build_sequences([[rows[index] for index in indices] for indices in plan], LENGTH, PAD)

    loss, logits = outputs(model, batch)

    assert len(plan) == 2, "a batch of two sequences, of which at least one ends in padding"
    assert (batch.input_ids[:, -1] == PAD).any()
    assert loss == pytest.approx(mean_over_tokens(model, rows), rel=2e-6)
    assert bool(torch.isfinite(logits).all()), "not even padding may be NaN"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("changed", [{"position_ids": None}, {"use_cache": True}])
def test_without_positions_or_with_a_cache_packed_rows_would_see_each_other(
    attention: str, changed: dict[str, Any]
) -> None:
    model = tiny_llama(attention)
    rows = token_rows([13, 7])

    loss, _ = outputs(model, build_sequences([rows], LENGTH, PAD), **changed)

    assert abs(loss - mean_over_tokens(model, rows)) > 1e-3


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_no_token_depends_on_another_row_or_on_the_padding(attention: str) -> None:
    import torch

    model = tiny_llama(attention)
    first, second = token_rows([9, 8])
    other = token_rows([9], seed=1)[0]

    _, logits = outputs(model, build_sequences([[first, second]], LENGTH, PAD))
    _, changed = outputs(model, build_sequences([[other, second]], LENGTH, PAD + 1))

    torch.testing.assert_close(logits[0, 9:17], changed[0, 9:17], rtol=0, atol=1e-6)
    assert not torch.allclose(logits[0, 17:], changed[0, 17:])
