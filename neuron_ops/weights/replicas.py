"""Tensors of which tensor-parallel ranks hold copies: whether the copies agree, and by how much they do not.

Which tensors these are belongs to neuron_checkpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neuron_ops.errors import CorruptArtifact, InvalidInput
from neuron_ops.weights.byte_ranges import STREAM_BYTES, OpenFile
from neuron_ops.weights.neuron_checkpoint import NeuronCheckpoint
from neuron_ops.weights.neuron_layout import Piece, Replicas

if TYPE_CHECKING:
    import numpy as np

NAMED = 4
"""Tensors that a message names."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A tensor whose copies differ."""

    name: str
    largest: float
    """The largest absolute difference of two values."""
    magnitude: float
    """The largest absolute value."""
    not_finite: int
    """Places where a copy holds NaN or infinity. The other figures leave them out."""


def find_differences(checkpoint: NeuronCheckpoint) -> tuple[Difference, ...]:
    """Every tensor whose copies differ in any bit, by name."""
    found: dict[str, Difference] = {}
    with _FileCache() as files:
        for replicas in checkpoint.replicas:
            if _same_bytes(files, replicas):
                continue
            other, known = _measure(files, replicas), found.get(replicas.name)
            found[replicas.name] = other if known is None else _worst(known, other)
    return tuple(found[name] for name in sorted(found))


def _worst(one: Difference, other: Difference) -> Difference:
    """What is known of a tensor from two of its parts, or from two pairs of its copies."""
    return Difference(
        one.name,
        max(one.largest, other.largest),
        max(one.magnitude, other.magnitude),
        one.not_finite + other.not_finite,
    )


def check_replicas(checkpoint: NeuronCheckpoint) -> None:
    """Refuse an adapter whose ranks disagree about a tensor of which they hold copies.

    Raises:
        CorruptArtifact: they do.
    """
    if differences := find_differences(checkpoint):
        raise CorruptArtifact(
            f"{_describe(checkpoint, differences)} Either the files come from "
            "different steps, or the run had a known defect of optimum-neuron 0.4: with sequence parallelism (its "
            "default) the gradients of replicated LoRA factors are not reduced over the tensor-parallel ranks, so the "
            "copies drift apart and no consolidated adapter equals the trained model. Train again with the factors "
            "marked sequence_parallel_enabled and zero_1=False."
        )


def check_model_replicas(checkpoint: NeuronCheckpoint, take_first: bool) -> tuple[Difference, ...]:
    """The tensors of a full model whose copies differ; refused unless the first rank's are to be taken.

    Raises:
        CorruptArtifact: one of them holds NaN or infinity, so there is nothing to choose.
        InvalidInput: there are some, and nobody chose.
    """
    differences = find_differences(checkpoint)
    if any(difference.not_finite for difference in differences):
        raise CorruptArtifact(f"{_describe(checkpoint, differences)} Take an earlier checkpoint.")
    if differences and not take_first:
        raise InvalidInput(
            f"{_describe(checkpoint, differences)} With ZeRO-1 (its default) optimum-neuron 0.4 does not sum the "
            "gradients of norms over sequence-parallel ranks, so each rank trained its own copy, and no one model is "
            "what was trained. Take the first rank's copies, as optimum-neuron's own consolidation does, with "
            "--replicas first; or train again with zero_1=False."
        )
    return differences


def _describe(checkpoint: NeuronCheckpoint, differences: Sequence[Difference]) -> str:
    names = [difference.name for difference in differences]
    worst = max(differences, key=lambda difference: difference.largest)
    not_finite = sum(difference.not_finite for difference in differences)
    total = len({replicas.name for replicas in checkpoint.replicas})
    places = f" Copies hold NaN or infinity in {not_finite} place{'s' * (not_finite > 1)}." if not_finite else ""
    return (
        f"{checkpoint.path}: {len(names)} of {total} tensors of which tensor-parallel ranks hold copies differ between "
        f"the ranks, by at most {worst.largest:.3g} where values reach {worst.magnitude:.3g}: "
        f"{', '.join(names[:NAMED])}{', …' if len(names) > NAMED else ''}.{places}"
    )


class _FileCache(dict[Path, OpenFile]):
    """Files opened on first use and closed together."""

    def __missing__(self, path: Path) -> OpenFile:
        self[path] = OpenFile(path)
        return self[path]

    def __enter__(self) -> "_FileCache":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.values():
            file.close()


def _same_bytes(files: _FileCache, replicas: Replicas) -> bool:
    first, second = replicas.first, replicas.second
    if first.stop - first.start != second.stop - second.start:
        return False
    step = _rows_at_once(first)
    return all(
        _read(files, first, row, row + step) == _read(files, second, row, row + step)
        for row in range(0, first.stop - first.start, step)
    )


def _measure(files: _FileCache, replicas: Replicas) -> Difference:
    import numpy as np  # 80 CPU ms, for a model whose copies differ only

    largest, magnitude, not_finite = 0.0, 0.0, 0
    step = _rows_at_once(replicas.first)
    for row in range(0, replicas.first.stop - replicas.first.start, step):
        first, second = (
            _floats(_read(files, piece, row, row + step), piece.tensor.dtype)
            for piece in (replicas.first, replicas.second)
        )
        finite = np.isfinite(first) & np.isfinite(second)
        first, second = first[finite], second[finite]
        largest = max(largest, float(abs(first - second).max(initial=0.0)))
        magnitude = max(magnitude, float(abs(first).max(initial=0.0)))
        not_finite += int(finite.size - finite.sum())
    return Difference(replicas.name, largest, magnitude, not_finite)


def _rows_at_once(piece: Piece) -> int:
    return max(1, STREAM_BYTES // max(1, piece.tensor.row_bytes))


def _read(files: _FileCache, piece: Piece, start: int, stop: int) -> bytes | bytearray:
    """Rows `start` to `stop` of a piece, counted from its own first one, as far as there are any."""
    return piece.tensor.read(files[piece.tensor.path], piece.start + start, min(piece.start + stop, piece.stop))


def _floats(data: bytes | bytearray, dtype: str) -> "np.ndarray":
    import numpy as np  # as above

    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, {"F64": np.float64, "F32": np.float32, "F16": np.float16}[dtype]).astype(np.float64)
