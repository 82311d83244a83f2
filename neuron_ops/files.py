"""The few file operations that artifacts need, the same on a local folder and on S3.

What differs between the two belongs here: creating a file only if it is not there, making bytes durable, working on
files as a local folder. What the files mean belongs to artifacts.py and raw.py.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import xxhash

from neuron_ops.errors import InvalidInput, Unavailable

CHUNK = 1 << 20


class Files(Protocol):
    """A tree of files under one root. Paths are relative to it and use '/'."""

    @property
    def url(self) -> str:
        """The root, as a person would write it."""
        ...

    def read(self, path: str) -> bytes | None:
        """The file's bytes; None where there is no such file."""
        ...

    def stamps(self, path: str) -> dict[str, tuple[int, str]]:
        """Every file below `path`, by its path relative to it: size in bytes and a mark that changes with the file."""
        ...

    def digests(self, path: str) -> dict[str, str]:
        """What tells the content of every file below `path`: a digest of its bytes, or S3's own ETag."""
        ...

    def children(self, path: str) -> list[str]:
        """Names directly below `path`, sorted; empty where there is nothing."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Write a whole file unless it is there. True: this call created it; it is then complete and durable."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file or everything below a folder; nothing to remove is no error."""
        ...

    def workspace(self, path: str) -> contextlib.AbstractContextManager[Path]:
        """A local folder to fill for `path`; what it holds is at `path` once `store` was called."""
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
        InvalidInput: another kind of URL, or an s3:// URL without s3fs being installed.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return S3Files(url)
    if parts.scheme in ("", "file"):
        return LocalFiles(Path(parts.path if parts.scheme else url))
    raise InvalidInput(f"Store {url!r}: {parts.scheme}:// is not supported. Use a local folder or s3://bucket/prefix.")


def digest_file(path: Path) -> str:
    """xxh3_128 of a file, as 32 hexadecimal digits: it detects accidents, not an attacker."""
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


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
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            # A link fails where the name exists, so of two writers one wins, and a reader sees all bytes or none.
            os.link(name, target)
        except FileExistsError:
            return False
        finally:
            os.unlink(name)
        _sync(target.parent)
        return True

    def remove(self, path: str) -> None:
        target = self.root / path
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    @contextlib.contextmanager
    def workspace(self, path: str) -> Iterator[Path]:
        folder = self.root / path
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(
                f"Cannot write to {folder}: {error.strerror}. Check the store's path and its rights."
            ) from error
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


class S3Files:
    """A prefix of an S3 bucket. Endpoint, region and credentials are found as every AWS SDK finds them."""

    def __init__(self, url: str) -> None:
        try:
            import s3fs  # 0.3 CPU s: only who stores in S3 pays it
        except ImportError:
            raise InvalidInput(
                f"Store {url!r} needs s3fs. Install it with: pip install 'fine-tune-assets[s3]'"
            ) from None

        parts = urlsplit(url)
        if not parts.netloc:
            raise InvalidInput(f"Store {url!r} names no bucket. Write s3://bucket/prefix.")
        self.root = f"{parts.netloc}/{parts.path.strip('/')}".rstrip("/")
        # Another process may have written a second ago: a cached listing would hide it.
        self.fs = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)

    @property
    def url(self) -> str:
        return f"s3://{self.root}"

    def read(self, path: str) -> bytes | None:
        with self._explained(path):
            try:
                data: bytes = self.fs.cat_file(self._full(path))
            except FileNotFoundError:
                return None
            return data

    def stamps(self, path: str) -> dict[str, tuple[int, str]]:
        top = self._full(path)
        with self._explained(path):
            found: dict[str, dict[str, Any]] = self.fs.find(top, detail=True)
        return {
            name.removeprefix(f"{top}/"): (int(info["size"]), str(info.get("ETag", "")).strip('"'))
            for name, info in sorted(found.items())
            if name != top
        }

    def digests(self, path: str) -> dict[str, str]:
        return {name: mark for name, (_, mark) in self.stamps(path).items()}

    def children(self, path: str) -> list[str]:
        with self._explained(path):
            try:
                names: list[str] = self.fs.ls(self._full(path), detail=False)
            except FileNotFoundError:
                return []
        return sorted({name.rstrip("/").rsplit("/", 1)[-1] for name in names if name.rstrip("/") != self._full(path)})

    def create(self, path: str, data: bytes) -> bool:
        with self._explained(path):
            try:
                self.fs.pipe_file(self._full(path), data, mode="create")  # PutObject with If-None-Match: *
            except FileExistsError:
                return False
        return True

    def remove(self, path: str) -> None:
        with self._explained(path), contextlib.suppress(FileNotFoundError):
            self.fs.rm(self._full(path), recursive=True)

    @contextlib.contextmanager
    def workspace(self, path: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="fine-tune-") as folder:
            yield Path(folder)

    def store(self, workspace: Path, path: str) -> None:
        with self._explained(path):
            for file in sorted(workspace.rglob("*")):
                if file.is_file():
                    self.fs.put_file(str(file), self._full(f"{path}/{file.relative_to(workspace).as_posix()}"))

    @contextlib.contextmanager
    def local(self, path: str, names: list[str]) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="fine-tune-") as folder:
            for name in names:
                target = Path(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with self._explained(f"{path}/{name}"):
                    self.fs.get_file(self._full(f"{path}/{name}"), str(target))
            yield Path(folder)

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}".rstrip("/")

    @contextlib.contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        """Turn what the SDK raises into one sentence; `FileNotFoundError` and `FileExistsError` are answers."""
        from botocore.exceptions import BotoCoreError, NoCredentialsError

        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except NoCredentialsError as error:
            raise InvalidInput(
                f"s3://{self._full(path)}: no AWS credentials were found. Configure them as for the aws command."
            ) from error
        except PermissionError as error:
            raise InvalidInput(
                f"s3://{self._full(path)}: access denied ({error}). Give this role s3:GetObject, s3:PutObject, "
                "s3:DeleteObject and s3:ListBucket there."
            ) from error
        except (BotoCoreError, OSError) as error:
            raise Unavailable(f"s3://{self._full(path)} could not be reached: {error}") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
