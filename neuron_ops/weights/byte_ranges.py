"""Byte ranges of files: reading, copying and hashing them with a bounded amount of memory.

What the bytes mean belongs to the callers (`safetensors_io`, `torch_zip`). Every read that comes up short is a
CorruptArtifact that names the file and the byte counts, so a truncated file can never turn into weights.
"""

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import xxhash

from neuron_ops.errors import CorruptArtifact, MissingArtifact

# Half a mebibyte stays in the second-level cache beside the pages that it comes from and goes to.
STREAM_BYTES = 1 << 19
# As many buffers as Linux fills with one call.
IOVECS = 1024
# Larger requests let the kernel splice long runs of pages at once; beyond this nothing is gained.
KERNEL_BYTES = 1 << 24
# _IOW(0x94, 9, int): share the blocks of a whole file (XFS, btrfs, overlay on them). Not in Python's fcntl until 3.14.
FICLONE = 0x40049409

_NO_KERNEL_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}


class Digest(Protocol):
    """The two methods of an xxhash object that are used here."""

    def update(self, data: memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Buffers(threading.local):
    """One buffer per thread: a fresh one for every range would cost its page faults every time."""

    def __init__(self) -> None:
        self.stream = memoryview(bytearray(STREAM_BYTES))


_buffers = _Buffers()


def new_digest() -> Digest:
    """An empty xxh3_128: 14 GB/s on one core, so hashing is never what a copy waits for."""
    digest: Digest = xxhash.xxh3_128()
    return digest


@dataclass(frozen=True, slots=True)
class FileDigest:
    """One file of a result."""

    name: str
    """Path relative to the result's folder, with forward slashes."""
    bytes: int
    xxh3_128: str | None
    """Hexadecimal; None only in a dry run, where nothing was written."""


class Source(Protocol):
    """Whatever has byte ranges to read: a file, or an object of a remote store."""

    @property
    def path(self) -> Path | str: ...

    @property
    def size(self) -> int: ...

    def read_into(self, buffer: memoryview, offset: int) -> None: ...

    def read(self, offset: int, length: int) -> bytes | bytearray: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Target(Protocol):
    """Whatever takes the bytes of a new file; left without an error, the file is whole."""

    def write(self, data: memoryview | bytes | bytearray, offset: int) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


Opener = Callable[[Path], Source]


class OpenFile:
    """A file opened for positioned reads and writes; the position of the descriptor is never used."""

    def __init__(self, path: Path, flags: int = os.O_RDONLY) -> None:
        self.path = path
        try:
            self.descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            raise MissingArtifact(f"{path} does not exist. Fetch or save it again.") from None

    @property
    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill all of `buffer` (bytes) from `offset`.

        Raises:
            CorruptArtifact: the file ends before.
        """
        done = 0
        while done < len(buffer):
            got = os.preadv(self.descriptor, [buffer[done:]], offset + done)
            if got == 0:
                raise CorruptArtifact(
                    f"{self.path} has {self.size} bytes, but {offset + len(buffer)} are needed: it was cut short. "
                    "Fetch or save it again."
                )
            done += got

    def scatter_into(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill `buffers` one after another from `offset`; the kernel does what would be a copy per buffer here."""
        for first in range(0, len(buffers), IOVECS):
            some = buffers[first : first + IOVECS]
            length = sum(map(len, some))
            if os.preadv(self.descriptor, some, offset) != length:  # interrupted, or the end of the file
                position = offset
                for buffer in some:
                    self.read_into(buffer, position)
                    position += len(buffer)
            offset += length

    def read(self, offset: int, length: int) -> bytearray:
        data = bytearray(length)
        self.read_into(memoryview(data), offset)
        return data

    def write(self, data: memoryview | bytes | bytearray, offset: int) -> None:
        view = memoryview(data)
        done = 0
        while done < len(view):
            done += os.pwrite(self.descriptor, view[done:], offset + done)

    def close(self) -> None:
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def create_file(path: Path) -> OpenFile:
    """A new file to write to; one that is already there is an error of the caller."""
    return OpenFile(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)


def copy_range(
    source: Source, source_offset: int, target: Target, target_offset: int, length: int, digests: Sequence[Digest]
) -> None:
    """Copy `length` bytes and feed them to `digests`.

    With digests the bytes must be seen anyway: one pass (read, hash, write) costs as much as a kernel copy alone and
    a quarter less than a kernel copy followed by a read. Without digests the kernel copies, and shares the blocks
    where the file system can.

    Raises:
        CorruptArtifact: the source ends before.
    """
    if not digests and isinstance(source, OpenFile) and isinstance(target, OpenFile):
        _kernel_copy(source, source_offset, target, target_offset, length)
    else:
        _stream(source, source_offset, target, target_offset, length, digests)


def hash_range(source: Source, offset: int, length: int, digests: Sequence[Digest]) -> None:
    """Feed `length` bytes of `source` to `digests`.

    Raises:
        CorruptArtifact: the source ends before.
    """
    _stream(source, offset, None, 0, length, digests)


def _stream(
    source: Source, offset: int, target: Target | None, target_offset: int, length: int, digests: Sequence[Digest]
) -> None:
    buffer = _buffers.stream
    for done in range(0, length, STREAM_BYTES):
        piece = buffer[: min(STREAM_BYTES, length - done)]
        source.read_into(piece, offset + done)
        for digest in digests:
            digest.update(piece)
        if target is not None:
            target.write(piece, target_offset + done)


def _kernel_copy(source: OpenFile, source_offset: int, target: OpenFile, target_offset: int, length: int) -> None:
    done = 0
    while done < length:
        step = min(KERNEL_BYTES, length - done)
        try:
            copied = os.copy_file_range(
                source.descriptor, target.descriptor, step, source_offset + done, target_offset + done
            )
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
            copied = 0
        if copied == 0:  # another file system, an old kernel, or the end of the source: the plain way tells them apart
            _stream(source, source_offset + done, target, target_offset + done, length - done, ())
            return
        done += copied


def share_blocks(source: Source, target: Target) -> bool:
    """Make the empty `target` a copy-on-write twin of `source` if the file system can; say whether it did."""
    if not isinstance(source, OpenFile) or not isinstance(target, OpenFile):
        return False
    try:
        fcntl.ioctl(target.descriptor, FICLONE, source.descriptor)
    except OSError:
        return False
    return True


def copy_file(source: Path, target: Path, name: str) -> FileDigest:
    """Copy a whole file and return its digest under `name`.

    Raises:
        MissingArtifact: there is no such file.
    """
    digest = new_digest()
    with OpenFile(source) as reader, create_file(target) as writer:
        size = reader.size
        copy_range(reader, 0, writer, 0, size, [digest])
    return FileDigest(name, size, digest.hexdigest())


def file_digest(path: Path, name: str) -> FileDigest:
    """Hash a whole file.

    Raises:
        MissingArtifact: there is no such file.
    """
    digest = new_digest()
    with OpenFile(path) as reader:
        size = reader.size
        hash_range(reader, 0, size, [digest])
    return FileDigest(name, size, digest.hexdigest())
