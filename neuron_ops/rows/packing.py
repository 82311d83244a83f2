"""Packing rows of many lengths into sequences of one length.

The placement of rows and the three arrays that a model reads belong here; files belong to `datasets_folder`.

In a packed sequence, only `position_ids` separate the rows: they restart at 0 with every row, and once more with the
padding. transformers starts a new document wherever a position is not its predecessor plus one, and hides each document
from the others, but only if it is given position_ids, no attention_mask and `use_cache=False`. With its default, a
key-value cache, it silently ignores the documents, even in a forward pass that fills an empty cache. The padding has
the positions 0, 1, 2 and so on, so that it is one document of its own: every pad token sees at least itself (a row of
the mask that allows nothing gives NaN in softmax), no real token sees a pad token, and attention kernels that take
document lengths get one more document, not hundreds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuron_ops.rows.token_rows import IGNORED, TokenRow, Tokens

Plan = list[list[int]]
"""For each sequence, the indices of its rows, in order."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """Sequences of one length; every array is (sequences, length) of int32."""

    input_ids: Tokens
    labels: Tokens
    position_ids: Tokens


def plan_packed(lengths: Sequence[int], capacity: int) -> Plan:
    """Best-fit decreasing: each row, longest first, goes into the sequence where it leaves the least room.

    Sequences are in the order of their first rows, and the rows of a sequence are in order, so that neither a file
    sorted by length nor the packing itself sorts training by length. The same lengths give the same plan.
    """
    sequences: Plan = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    # Bit r is set while some sequence has room for exactly r more tokens: the best fit is the lowest set bit
    # from the row's length upwards, for any number of sequences (1 M rows take 2 CPU s).
    rooms = 0
    for row in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        length = lengths[row]
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            sequence = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, sequence = capacity, len(sequences)
            sequences.append([])
        sequences[sequence].append(row)
        by_room[room - length].append(sequence)
        rooms |= 1 << (room - length)
    return sorted(sorted(rows) for rows in sequences)


def plan_unpacked(lengths: Sequence[int]) -> Plan:
    """One row per sequence, for models whose attention does not separate documents."""
    return [[row] for row in range(len(lengths))]


def build_sequences(sequences: Sequence[Sequence[TokenRow]], length: int, pad_id: int) -> Sequences:
    """Place rows one after the other and fill the rest with padding, which is not in the loss."""
    shape = (len(sequences), length)
    input_ids = np.full(shape, pad_id, dtype=np.int32)
    labels = np.full(shape, IGNORED, dtype=np.int32)
    position_ids = np.zeros(shape, dtype=np.int32)
    counting = np.arange(length, dtype=np.int32)
    for index, rows in enumerate(sequences):
        start = 0
        for row in rows:
            end = start + len(row.ids)
            input_ids[index, start:end] = row.ids
            labels[index, start:end] = row.labels
            position_ids[index, start:end] = counting[: end - start]
            start = end
        position_ids[index, start:] = counting[: length - start]
    return Sequences(input_ids, labels, position_ids)
