"""Rows for the warm-up of a compiler, with the shape of real rows and no meaning. Their content changes no graph."""

from pathlib import Path

import numpy as np

from neuron_ops.recipe.schema import Recipe
from neuron_ops.rows.datasets_folder import DatasetWriter
from neuron_ops.rows.packing import build_sequences
from neuron_ops.rows.token_rows import IGNORED, TokenRow


def write_rows(folder: Path, recipe: Recipe, vocabulary: int, train: int, holdout: int) -> None:
    """Write the splits with `train` and `holdout` sequences; each sequence has two documents if the recipe packs."""
    length = recipe.graph.sequence_length
    lengths = [length // 2, length - length // 2] if recipe.dataset.packing else [length // 2]
    documents = [_document(length, vocabulary) for length in lengths]
    for split, count in (("train", train), ("holdout", holdout)):
        with DatasetWriter(folder / split, length) as writer:
            writer.write(build_sequences([documents] * count, length, pad_id=0))


def _document(length: int, vocabulary: int) -> TokenRow:
    ids = (np.arange(length) % vocabulary).astype(np.int32)
    return TokenRow(ids, np.where(np.arange(length) < length // 2, IGNORED, ids).astype(np.int32))
