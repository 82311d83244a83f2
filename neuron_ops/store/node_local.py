"""A folder that only the processes of one launch on one machine use.

The first process fills it while the others wait; the last process to leave removes it; the next launch removes what
killed processes left. This relies on flock: the kernel releases a lock when its process ends. The purpose of a folder
belongs to its user: a compiler writes into its copy of a published cache, and `shared_copy` reads from S3 once for all
processes.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from neuron_ops.errors import InvalidInput

READY = ".ready"


def node_local_root() -> Path:
    """Where this user's node-local folders are on this machine."""
    return Path(tempfile.gettempdir(), f"fine-tune-{os.getuid()}")


@contextlib.contextmanager
def node_local_folder(name: str, fill: Callable[[Path], None], root: Path | None = None) -> Iterator[Path]:
    """The node-local folder `name`, filled, while this process uses it.

    Raises:
        InvalidInput: the parent of these folders belongs to another user, or is a link.
    """
    root = root or node_local_root()
    _make_private(root)
    _sweep(root)
    folder = root / name
    descriptor = _enter(folder, fill)
    try:
        yield folder
    finally:
        _remove_if_unused(folder, descriptor)
        os.close(descriptor)


def _make_private(root: Path) -> None:
    """Make the folder that only this user may write to, because programs are run from it.

    Raises:
        InvalidInput: the folder belongs to another user, or the path is a link.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise InvalidInput(
            f"{root} must be a folder that only this user may write to: compiled programs are run from it. Remove it, "
            "or set TMPDIR to a folder of your own."
        )


def _enter(folder: Path, fill: Callable[[Path], None]) -> int:
    """A shared lock on a filled folder; this process fills it unless another one has."""
    while True:
        descriptor = _open(folder)
        try:
            if _try_exclusive(descriptor) and _is(folder, descriptor):
                _fill(folder, fill)
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for the process that fills it
            # A process that was killed while it filled the folder leaves it without the mark: try again.
            if _is(folder, descriptor) and (folder / READY).exists():
                return descriptor
        except BaseException:
            _remove_if_unused(folder, descriptor)
            os.close(descriptor)
            raise
        os.close(descriptor)


def _fill(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill the folder under an exclusive lock: anything in it belongs to processes that have ended."""
    for child in folder.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    fill(folder)
    (folder / READY).touch()


def _sweep(root: Path) -> None:
    for folder in root.iterdir():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            # A folder that its owner has made but not yet locked looks the same; the owner then makes it again.
            _remove_if_unused(folder, descriptor)
            os.close(descriptor)


def _remove_if_unused(folder: Path, descriptor: int) -> None:
    if _try_exclusive(descriptor) and _is(folder, descriptor):
        shutil.rmtree(folder, ignore_errors=True)


def _open(folder: Path) -> int:
    while True:
        folder.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process removed it in between
            return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def _try_exclusive(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(folder: Path, descriptor: int) -> bool:
    """Whether the open folder still has this path: another process may have removed and made it again."""
    try:
        return os.path.samestat(os.stat(folder), os.fstat(descriptor))
    except FileNotFoundError:
        return False
