"""Writing the safetensors format: headers, tensors one after another, and how a model is divided into shards.

The bytes are those of the reference implementation for equal tensors. Reading belongs to `safetensors_io`. No torch.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from neuron_ops.weights.byte_ranges import Digest, FileDigest, OpenFile, copy_range, create_file, new_digest
from neuron_ops.weights.safetensors_io import ITEM_BYTES, SINGLE_NAME, TensorSpec

# What transformers and PEFT write, and transformers asks for.
PYTORCH: Mapping[str, str] = {"format": "pt"}
_WRITE_ORDER = {dtype: place for place, dtype in enumerate(ITEM_BYTES)}


def encode_header(tensors: Sequence[TensorSpec], metadata: Mapping[str, str] = PYTORCH) -> bytes:
    """The bytes before the first tensor, for `tensors` in this order; padded to 8 bytes as the reference does."""
    fields: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for tensor in tensors:
        end = position + tensor.nbytes
        fields[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def file_bytes(tensors: Sequence[TensorSpec]) -> int:
    """The size of a file that holds these tensors."""
    return len(encode_header(tensors)) + sum(tensor.nbytes for tensor in tensors)


def in_file_order(tensors: Iterable[TensorSpec]) -> list[TensorSpec]:
    """By alignment, then by name: the order of the reference implementation, so equal tensors give equal files."""
    return sorted(tensors, key=lambda tensor: (_WRITE_ORDER[tensor.dtype], tensor.name))


class SafetensorsWriter:
    """Writes one file: the header first, then exactly the announced tensors, in order, each byte once.

    The file's digest grows with it, so nothing has to be read again.
    """

    def __init__(self, path: Path, tensors: Sequence[TensorSpec], metadata: Mapping[str, str] = PYTORCH) -> None:
        header = encode_header(tensors, metadata)
        self.size = len(header) + sum(tensor.nbytes for tensor in tensors)
        self._file = create_file(path)
        self._digest = new_digest()
        self._position = 0
        self.write(memoryview(header))

    def write(self, data: memoryview) -> None:
        """Append bytes."""
        self._digest.update(data)
        self._file.write(data, self._position)
        self._position += len(data)

    def copy(self, source: OpenFile, offset: int, length: int, digests: Sequence[Digest] = ()) -> None:
        """Append a byte range of another file."""
        copy_range(source, offset, self._file, self._position, length, [self._digest, *digests])
        self._position += length

    def finish(self) -> FileDigest:
        """The digest of the full file; one that is not full is a defect of the caller."""
        if self._position != self.size:
            raise RuntimeError(f"{self._file.path}: {self._position} bytes written, {self.size} announced")
        return FileDigest(self._file.path.name, self.size, self._digest.hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def split_into_shards(tensors: Sequence[TensorSpec], max_shard_bytes: int) -> list[tuple[str, list[TensorSpec]]]:
    """Fill shards in the given order; one file keeps the plain name. A tensor above the limit gets its own shard."""
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.nbytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    if len(shards) == 1:
        return [(SINGLE_NAME, shards[0])]
    return [(f"model-{i:05d}-of-{len(shards):05d}.safetensors", shard) for i, shard in enumerate(shards, start=1)]


def encode_index(shards: Sequence[tuple[str, Sequence[TensorSpec]]]) -> bytes:
    """The index of a sharded model."""
    total = sum(tensor.nbytes for _, tensors in shards for tensor in tensors)
    weight_map = {tensor.name: file for file, tensors in shards for tensor in tensors}
    content = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
