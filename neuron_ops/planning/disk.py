"""Whether a store in a local folder has room for the artifacts still to be made. A bucket always has room.

Only large artifacts count: the copy of the base model, the merged model, checkpoints and token rows.
"""

import shutil
from collections.abc import Collection
from pathlib import Path

from neuron_ops.errors import InvalidInput
from neuron_ops.models.shape import ModelShape
from neuron_ops.planning.data import DataForecast
from neuron_ops.planning.memory import adapter_parameters
from neuron_ops.planning.model_files import weights_bytes
from neuron_ops.planning.quantities import Range, show_bytes
from neuron_ops.steps.addresses import Lineage

STATE_BYTES = 12
"""Bytes in a checkpoint for each parameter of the adapter: the value and two moments, float32."""
POSITION_BYTES = 12
"""Bytes of one position of a token row: id, label and position, int32 each."""


def check_disk(lineage: Lineage, to_make: Collection[str], data: DataForecast | None, shape: ModelShape | None) -> None:
    """Refuse a disk that is too small for the artifacts to make.

    Raises:
        InvalidInput: the disk is too small; the message says by how much.
    """
    if "://" in lineage.store.url:
        return
    needed, free = _needed(lineage, to_make, data, shape), _free(Path(lineage.store.url))
    if needed > free:
        raise InvalidInput(
            f"{lineage.store.url} has {show_bytes(Range.exactly(free))} left, but what is still to be made needs "
            f"{show_bytes(Range.exactly(needed))}. Free some space, or give the store (FINE_TUNE_STORE) another place."
        )


def _needed(lineage: Lineage, to_make: Collection[str], data: DataForecast | None, shape: ModelShape | None) -> float:
    weights, recipe = weights_bytes(lineage), lineage.recipe
    sizes: dict[str, float] = {"base_model": weights, "merged_model": weights}
    if data is not None:
        sequences = data.sequences.low + data.held_out_sequences.low
        sizes["tokenized_dataset"] = sequences * recipe.graph.sequence_length * POSITION_BYTES
    if shape is not None:
        # The newest is kept with the best one at any limit, and the next is written before an old one is removed.
        checkpoints = max(recipe.training.save_total_limit, 2) + 1
        sizes["lora_checkpoints"] = checkpoints * STATE_BYTES * adapter_parameters(recipe, shape, ranks=1)
    return sum(size for artifact, size in sizes.items() if artifact in to_make)


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
