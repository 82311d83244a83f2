"""A result folder that exists whole or not at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuron_ops.errors import FULL, InvalidInput


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes `out` when the block ends well and vanishes when it doesn't.

    A killed process leaves its temporary folder behind; the next one that writes the same `out` removes it. A lock on
    the folder, which ends with the process, tells the dead from the living.

    Raises:
        InvalidInput: `out` is taken or cannot be made, or the disk became full meanwhile.
    """
    check_not_taken(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out)
        partial = Path(tempfile.mkdtemp(prefix=_prefix(out), dir=out.parent))
    except OSError as error:
        raise InvalidInput(f"{out} cannot be made: {error.strerror}. Name a folder that you may write.") from error
    lock = _lock(partial)
    try:
        partial.chmod(0o755)  # mkdtemp's 0700 would follow the folder to its final name
        yield partial
        check_not_taken(out)
        partial.rename(out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in FULL:
            raise InvalidInput(
                f"The disk of {out} became full while it was written, so nothing of it was kept. Free some space or "
                "name a folder on another disk."
            ) from error
        raise
    finally:
        if lock is not None:
            os.close(lock)


def check_not_taken(out: Path) -> None:
    """Refuse to write over anything.

    Raises:
        InvalidInput: a file, a link or a folder that is not empty is there.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise InvalidInput(f"{out} already exists and is not an empty folder. Remove it or name another folder.")


def check_can_be_made(out: Path) -> None:
    """Refuse what `new_folder` could not make; for a dry run, which makes nothing.

    Raises:
        InvalidInput: its place may not be written.
    """
    nearest = next(path for path in out.absolute().parents if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise InvalidInput(f"{out} cannot be made: {nearest} may not be written. Name a folder that you may write.")


def check_free_space(folder: Path, needed: int) -> None:
    """Refuse before the first byte what would end with a full disk; `folder` need not exist yet.

    Raises:
        InvalidInput: the disk has not so many bytes free.
    """
    status = os.statvfs(next(path for path in (folder, *folder.absolute().parents) if path.is_dir()))
    free = status.f_bavail * status.f_frsize
    if needed > free:
        raise InvalidInput(
            f"{folder} has {free / 1e9:.2f} GB free, the result takes {needed / 1e9:.2f} GB. Free some space or name a "
            "folder on another disk."
        )


def _prefix(out: Path) -> str:
    return f".{out.name}.partial-"


def _lock(folder: Path) -> int | None:
    """An exclusive lock that ends with the process; None if someone else has it or the file system has no locks."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_leftovers(out: Path) -> None:
    for leftover in out.parent.glob(f"{_prefix(out)}*"):
        with suppress(FileNotFoundError, NotADirectoryError):
            lock = _lock(leftover)
            if lock is not None:
                shutil.rmtree(leftover, ignore_errors=True)
                os.close(lock)
