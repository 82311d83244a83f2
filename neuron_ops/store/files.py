"""The few file operations that artifacts need, the same on a local folder and on S3.

What differs between the two belongs here: creating a file only if it is not there, making bytes durable, working on
files as a local folder. What the files mean belongs to artifacts.py and raw_datasets.py.
"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import xxhash

from neuron_ops.errors import InvalidInput, Unavailable
from neuron_ops.store.s3_files import S3Files

CHUNK = 1 << 20


class Files(Protocol):
    """A tree of files under one root. Paths are relative to it and use '/'."""

    @property
    def url(self) -> str:
        """The root, as a person would write it."""
        ...

    def read(self, path: str) -> bytes | None:
        """The file's bytes; None if there is no such file."""
        ...

    def stamps(self, path: str) -> dict[str, tuple[int, str]]:
        """Every file below `path`, by its path relative to it: size in bytes and a mark that changes with the file."""
        ...

    def digests(self, path: str) -> dict[str, str]:
        """A mark of the content of every file below `path`: a digest of its bytes, or S3's own ETag."""
        ...

    def children(self, path: str) -> list[str]:
        """Names directly below `path`, sorted; empty if there is nothing."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Write a whole file unless it exists. True: this call created it, and it is complete and durable."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file or everything below a folder; nothing to remove is not an error."""
        ...

    def abort_uploads(self, path: str) -> None:
        """Remove what killed uploads left below `path`; a listing of files does not show it."""
        ...

    def workspace(self, path: str) -> contextlib.AbstractContextManager[Path]:
        """A local folder to fill for `path`, with the same name; `store` then puts its files at `path`."""
        ...

    def store(self, workspace: Path, path: str) -> None:
        """Make every file of `workspace` durable at `path`."""
        ...

    def local(self, path: str, names: list[str]) -> contextlib.AbstractContextManager[Path]:
        """The named files below `path` as a local folder: the folder itself, or a copy that is removed afterwards."""
        ...


def open_files(url: str) -> Files:
    """The tree at a local path, a file:// URL or an s3:// URL.

    Raises:
        InvalidInput: another kind of URL, one with credentials in it, or an s3:// URL while s3fs is not installed.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:  # URLs appear in command lines and logs: this message does not repeat it
        raise InvalidInput(
            f"Store {parts.scheme}://…@…: a URL must not contain credentials. "
            "Give them in the environment or by a role, and write s3://bucket/prefix."
        )
    if parts.scheme == "s3":
        return S3Files(url)
    if not parts.scheme:
        return LocalFiles(Path(url))
    if parts.scheme == "file" and not parts.netloc:
        return LocalFiles(Path(unquote(parts.path)))
    raise InvalidInput(
        f"Store {url!r}: {parts.scheme}://{parts.netloc} is not supported. Use a local folder or s3://bucket/prefix."
    )


def digest_file(path: Path) -> str:
    """xxh3_128 of a file, as 32 hexadecimal digits: it detects accidents, not an attacker."""
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def digest_bytes(data: bytes) -> str:
    """The same digest of bytes in memory."""
    return xxhash.xxh3_128_hexdigest(data)


@lru_cache(maxsize=1024)
def _cached_digest(path: Path, stamp: tuple[int, str]) -> str:
    """Digest of one file, computed once per process and stamp: every asset of a run asks for the same ones."""
    return digest_file(path)


class LocalFiles:
    """A folder on a local disk or on FSx; every process that shares the folder may write to it."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @property
    def url(self) -> str:
        return str(self.root)

    def read(self, path: str) -> bytes | None:
        try:
            return (self.root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def stamps(self, path: str) -> dict[str, tuple[int, str]]:
        top = self.root / path
        found = {}
        for file in sorted(top.rglob("*")):
            if file.is_file():
                stat = file.stat()
                found[file.relative_to(top).as_posix()] = (stat.st_size, f"{stat.st_mtime_ns}-{stat.st_ino}")
        return found

    def digests(self, path: str) -> dict[str, str]:
        return {name: _cached_digest(self.root / path / name, stamp) for name, stamp in self.stamps(path).items()}

    def children(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(self.root / path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def create(self, path: str, data: bytes) -> bool:
        target = self.root / path
        _make_folder(target.parent)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            # A link fails if the name exists, so one of two writers wins, and a reader sees all bytes or none.
            os.link(name, target)
        except FileExistsError:
            return False
        except FileNotFoundError:
            # The writer that was first has removed this one's temporary file.
            if not target.exists():
                raise
            return False
        finally:
            Path(name).unlink(missing_ok=True)
        _sync(target.parent)
        return True

    def remove(self, path: str) -> None:
        target = self.root / path
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)
        if self.root in target.parent.parents:
            with contextlib.suppress(OSError):
                target.parent.rmdir()  # as on S3, there is no such thing as an empty folder

    def abort_uploads(self, path: str) -> None:
        """Do nothing: in a folder every byte belongs to a file."""

    @contextlib.contextmanager
    def workspace(self, path: str) -> Iterator[Path]:
        folder = self.root / path
        _make_folder(folder)
        yield folder

    def store(self, workspace: Path, path: str) -> None:
        for folder, _, names in os.walk(workspace):
            for name in names:
                _sync(Path(folder, name))
            _sync(Path(folder))
        _sync(workspace.parent)

    @contextlib.contextmanager
    def local(self, path: str, names: list[str]) -> Iterator[Path]:
        yield self.root / path


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents.

    Raises:
        InvalidInput: the path leads through a file, or this user may not write there.
        Unavailable: any other error of the disk, such as a full one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (NotADirectoryError, FileExistsError, FileNotFoundError, PermissionError) as error:
        raise InvalidInput(
            f"Cannot write to {folder}: {error.strerror}. Give the store (FINE_TUNE_STORE, or --store) a folder."
        ) from error
    except OSError as error:
        raise Unavailable(f"Cannot write to {folder}: {error.strerror}. Check the disk and try again.") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
