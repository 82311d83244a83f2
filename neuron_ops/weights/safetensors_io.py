"""Reading the safetensors format: headers, and folders of one file or of shards with an index.

Tensors are addressed as byte ranges; nothing here loads a model or knows what a tensor is for. No torch. Writing files
belongs to `safetensors_writer`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path

from neuron_ops.errors import CorruptArtifact, InvalidInput, MissingArtifact
from neuron_ops.weights.byte_ranges import (
    Opener,
    OpenFile,
    Source,
)

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
# The reference implementation's own limit; a longer "header" is some other file.
MAX_HEADER_BYTES = 100_000_000

# In the order in which the reference implementation writes them: widest alignment first.
ITEM_BYTES = {
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "F32": 4,
    "U32": 4,
    "I32": 4,
    "BF16": 2,
    "F16": 2,
    "U16": 2,
    "I16": 2,
    "F8_E8M0": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, type and shape of a tensor, wherever it lies."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor in a file: bytes `start` to `end`, counted from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one slice along the first dimension (of everything, for a scalar)."""
        return prod(self.shape[1:]) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class SafetensorsFile:
    """A checked header: the entries cover the file without hole or overlap, in the order of their bytes."""

    path: Path
    header: bytes
    """Everything before the first tensor: length field and JSON, as it was found."""
    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    size: int
    opener: Opener = field(default=OpenFile, repr=False, compare=False)

    def open(self) -> Source:
        """The file, to read from wherever it is."""
        return self.opener(self.path)


def read_safetensors(path: Path, opener: Opener = OpenFile) -> SafetensorsFile:
    """Read and check the header of one file.

    Raises:
        MissingArtifact: there is no such file.
        CorruptArtifact: it is cut short, overwritten, or has no such header.
    """
    with opener(path) as reader:
        size = reader.size
        if size < 8:
            raise CorruptArtifact(f"{path} has {size} bytes, too few for a safetensors header. Fetch it again.")
        length = int.from_bytes(reader.read(0, 8), "little")
        if length > MAX_HEADER_BYTES or 8 + length > size:
            raise CorruptArtifact(
                f"{path} has {size} bytes but its header claims {length}: it was cut short or is not a safetensors "
                "file. Fetch it again."
            )
        header = bytes(reader.read(0, 8 + length))
    return parse_safetensors(path, header, size, opener)


def parse_safetensors(path: Path, header: bytes, size: int, opener: Opener = OpenFile) -> SafetensorsFile:
    """Check the header of a file of `size` bytes.

    Raises:
        CorruptArtifact: the header cannot be read, or describes another file.
    """
    try:
        fields = json.loads(header[8:])
        metadata = {str(key): str(value) for key, value in fields.pop("__metadata__", {}).items()}
        entries = [_parse_entry(name, field, len(header)) for name, field in fields.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifact(f"{path} has an unreadable safetensors header ({error}). Fetch it again.") from None
    entries.sort(key=lambda entry: (entry.start, entry.end))
    _check_coverage(path, entries, len(header), size)
    return SafetensorsFile(path, header, {entry.name: entry for entry in entries}, metadata, size, opener)


def _parse_entry(name: str, field: dict[str, object], header_bytes: int) -> TensorEntry:
    dtype, shape, offsets = field["dtype"], field["shape"], field["data_offsets"]
    if dtype not in ITEM_BYTES or not isinstance(shape, list) or not isinstance(offsets, list):
        raise ValueError(f"tensor {name!r} is described as {field!r}")
    start, end = (int(offset) + header_bytes for offset in offsets)
    return TensorEntry(name, str(dtype), tuple(int(side) for side in shape), start, end)


def _check_coverage(path: Path, entries: Sequence[TensorEntry], header_bytes: int, size: int) -> None:
    position = header_bytes
    for entry in entries:
        expected = prod(entry.shape) * ITEM_BYTES[entry.dtype]
        if entry.start != position or entry.end - entry.start != expected or min(entry.shape, default=0) < 0:
            raise CorruptArtifact(
                f"{path}: tensor {entry.name!r} ({entry.dtype} {list(entry.shape)}, {expected} bytes) is said to lie "
                f"at bytes {entry.start} to {entry.end}, but the one before it ends at {position}. Fetch it again."
            )
        position = entry.end
    if position != size:
        raise CorruptArtifact(
            f"{path} has {size} bytes, but its header describes {position}: it was cut short or overwritten. "
            "Fetch it again."
        )


@dataclass(frozen=True)
class ModelFolder:
    """The weights of a model: one file, or shards with an index."""

    path: Path
    files: tuple[SafetensorsFile, ...]
    """Sorted by name."""
    index: Path | None

    @cached_property
    def places(self) -> dict[str, tuple[SafetensorsFile, TensorEntry]]:
        """Every tensor with the file that holds it."""
        return {name: (file, entry) for file in self.files for name, entry in file.entries.items()}


def read_model_folder(folder: Path, opener: Opener = OpenFile) -> ModelFolder:
    """Read the headers of `model.safetensors`, or of the shards its index names; check that they agree.

    `opener` is given the path of a weight file as it would be in `folder`, and may open it anywhere.

    Raises:
        MissingArtifact: neither is there, or a shard is not.
        InvalidInput: the index names a file elsewhere.
        CorruptArtifact: index or shards cannot be read, or disagree.
    """
    index = folder / INDEX_NAME
    if not index.is_file():
        try:
            return ModelFolder(folder, (read_safetensors(folder / SINGLE_NAME, opener),), None)
        except MissingArtifact:
            raise MissingArtifact(
                f"{folder} holds neither {SINGLE_NAME} nor {INDEX_NAME}. Give the folder of a Hugging Face model with "
                "safetensors weights."
            ) from None
    weight_map = _read_weight_map(index)
    files = tuple(read_safetensors(folder / name, opener) for name in sorted(set(weight_map.values())))
    found = {name: file.path.name for file in files for name in file.entries}
    if found != weight_map or sum(len(file.entries) for file in files) != len(found):
        wrong = sorted(name for name in found.keys() | weight_map.keys() if found.get(name) != weight_map.get(name))
        raise CorruptArtifact(
            f"{index} and the shards beside it disagree about {', '.join(wrong[:3]) or 'a tensor that is held twice'}: "
            "they are not from one model. Fetch the model again."
        )
    return ModelFolder(folder, files, index)


def _read_weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        result = {str(name): str(file) for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifact(f"{index} is not a safetensors index ({error}). Fetch the model again.") from None
    if outside := [file for file in result.values() if Path(file).name != file]:
        raise InvalidInput(f"{index} names {outside[0]!r}, which is not a file beside it. Fetch the model again.")
    return result
