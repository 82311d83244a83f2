"""Where the tensors of a `torch.save` file lie, without torch and without running its pickle.

Such a file is a zip of stored (uncompressed) entries: `data.pkl` describes the tensors, `data/<key>` are their bytes.
The pickle is read by an unpickler that knows a dozen harmless names; any other name is refused, so no code of the
file's author runs. xser files (torch_xla's default) hold references to one-tensor files beside them.
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from neuron_ops.errors import CorruptArtifact, InvalidInput, MissingArtifact
from neuron_ops.weights.byte_ranges import OpenFile
from neuron_ops.weights.safetensors_io import ITEM_BYTES

_STORAGE_DTYPES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor inside a file: where its storage begins and how it walks through it (strides count elements)."""

    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def word_bytes(self) -> int:
        return ITEM_BYTES[self.dtype]

    @property
    def row_bytes(self) -> int:
        """Bytes of one slice along the first dimension."""
        return prod(self.shape[1:]) * self.word_bytes

    @property
    def contiguous(self) -> bool:
        expected = 1
        for side, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if side != 1 and stride != expected:
                return False
            expected *= side
        return True

    def read(self, source: OpenFile, start: int, stop: int) -> bytes | bytearray:
        """The bytes of rows `start` to `stop`, one row after another."""
        if self.contiguous:
            return source.read(self.offset + start * self.row_bytes, (stop - start) * self.row_bytes)
        return self._read_view(source, start, stop)

    def _read_view(self, source: OpenFile, start: int, stop: int) -> bytes:
        """A saved view walks its storage in strides; reading the span it covers keeps it correct, if not fast."""
        import numpy as np  # a third of a small consolidation's cost, and views are rare

        shape = (stop - start, *self.shape[1:])
        if 0 in shape:
            return b""
        span = 1 + sum((side - 1) * stride for side, stride in zip(shape, self.strides, strict=True))
        data = source.read(self.offset + start * self.strides[0] * self.word_bytes, span * self.word_bytes)
        # Integers stand for every dtype, also for those numpy lacks.
        words = np.frombuffer(data, f"<u{self.word_bytes}")
        strides = tuple(stride * self.word_bytes for stride in self.strides)
        return np.lib.stride_tricks.as_strided(words, shape, strides).tobytes()


@dataclass(frozen=True, slots=True)
class _Storage:
    """What a persistent id in the pickle stands for."""

    key: str
    dtype: str
    num_elements: int


class _TensorReference:
    """Stands for torch_xla's class of that name: an object whose only attribute, `tid`, numbers a file."""

    tid: int


class _RefusedName(Exception):
    """The pickle asks for a name that no tensor needs."""


class _TensorUnpickler(pickle.Unpickler):
    def __init__(self, stream: Any, rebuild: Callable[..., StoredTensor]) -> None:
        super().__init__(stream)
        self._names: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): rebuild,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("torch_xla.utils.serialization", "TensorReference"): _TensorReference,
        }

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        try:
            return self._names[module, name]
        except KeyError:
            raise _RefusedName(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, num_elements = pid
        if kind != "storage" or dtype not in ITEM_BYTES:
            raise pickle.UnpicklingError(f"a storage is described as {pid!r}")
        return _Storage(str(key), dtype, int(num_elements))


class _TorchZip:
    """One open `torch.save` file: its records and their byte offsets."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.archive = zipfile.ZipFile(path)
        self.records = {info.filename.partition("/")[2]: info for info in self.archive.infolist()}

    def pickle(self) -> Any:
        if self.records.get("byteorder") and self.archive.read(self.records["byteorder"]) != b"little":
            raise CorruptArtifact(f"{self.path} was written on a big-endian machine; it can't be read here.")
        with self.archive.open(self.records["data.pkl"]) as stream:
            return _TensorUnpickler(stream, self.tensor).load()

    def tensor(
        self, storage: _Storage, first: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
    ) -> StoredTensor:
        record = self.records[f"data/{storage.key}"]
        width = ITEM_BYTES[storage.dtype]
        last = first + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        fits = record.file_size == storage.num_elements * width and (0 in shape or last < storage.num_elements)
        if record.compress_type != zipfile.ZIP_STORED or not fits or first < 0 or min(strides, default=0) < 0:
            raise pickle.UnpicklingError(f"storage {storage.key!r} holds {record.file_size} bytes, shape is {shape}")
        return StoredTensor(
            self.path, self._offset(record) + first * width, storage.dtype, tuple(shape), tuple(strides)
        )

    def _offset(self, record: zipfile.ZipInfo) -> int:
        # The local header repeats the name and pads with an extra field, so that tensors start at multiples of 64.
        stream = self.archive.fp
        assert stream is not None  # open until the end of read_torch_zip
        stream.seek(record.header_offset)
        header = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
        return record.header_offset + _LOCAL_HEADER.size + int(header[9]) + int(header[10])


def _load(path: Path, verify: bool) -> Any:
    try:
        file = _TorchZip(path)
        damaged = file.archive.testzip() if verify else None
    except FileNotFoundError:
        raise MissingArtifact(f"{path} does not exist. Copy the whole checkpoint again.") from None
    except PermissionError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}. Correct its permissions.") from None
    except (zipfile.BadZipFile, OSError) as error:
        raise CorruptArtifact(
            f"{path} ({path.stat().st_size} bytes) is not a complete torch file: {error}. It was cut short or is still "
            "being written. Copy the checkpoint again."
        ) from None
    if damaged is not None:
        raise CorruptArtifact(
            f"{path} is damaged: {damaged} has another checksum than when it was saved. Copy the checkpoint again."
        )
    try:
        with file.archive:
            return file.pickle()
    except _RefusedName as error:
        raise CorruptArtifact(
            f"{path} names {error} in its pickle, which no tensor needs; it was not run. Only files that hold nothing "
            "but tensors are read."
        ) from None
    except (pickle.UnpicklingError, zipfile.BadZipFile, struct.error, KeyError, ValueError, TypeError, EOFError,
            AttributeError, IndexError) as error:  # fmt: skip
        raise CorruptArtifact(
            f"{path} holds something else than a dict of tensors ({error!r}). Save it again."
        ) from None


def read_torch_file(path: Path, *, verify: bool = False) -> Mapping[str, StoredTensor]:
    """The named tensors of a plain `.pt` file, or of an xser file with its `<name>.tensors` folder.

    With `verify`, every byte is read and compared with the checksums (CRC-32) that zip files carry.

    Raises:
        MissingArtifact: there is no such file.
        CorruptArtifact: it is cut short, or holds anything else than tensors.
    """
    content = _load(path, verify)
    if not isinstance(content, dict):
        raise CorruptArtifact(f"{path} holds a {type(content).__name__}, not a dict of tensors. Give a model shard.")
    return {str(name): _resolve(path, str(name), value, verify) for name, value in content.items()}


def _resolve(path: Path, name: str, value: object, verify: bool) -> StoredTensor:
    if isinstance(value, _TensorReference):
        value = _load(path.with_name(path.name + ".tensors") / f"tensor_{int(value.tid)}.pt", verify)
    if not isinstance(value, StoredTensor):
        raise CorruptArtifact(f"{path}: {name!r} is a {type(value).__name__}, not a tensor. Give a model shard.")
    return value
