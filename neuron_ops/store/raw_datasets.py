"""Raw datasets: what a data team delivers, one folder per dataset version, immutable once its marker is there.

    <raw>/<dataset version>/{*.jsonl,*.parquet}   the rows
                           /_SUCCESS              written last: without it the version does not exist

Names, listing, digests and delivery belong here; the meaning of a row belongs to formats/.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from neuron_ops.errors import InvalidInput, MissingArtifact
from neuron_ops.store.files import Files, open_files
from neuron_ops.store.manifest import fingerprint

MARKERS = ("_SUCCESS", "manifest.json")
ROW_FILES = (".jsonl", ".parquet")

_VERSION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,99}")


def check_version(version: str) -> str:
    """The name, if it can name a dataset version: it becomes a folder, a URL and a partition key.

    Raises:
        InvalidInput: empty, too long, or with characters that a path, a URL or a partition range would misread.
    """
    if not _VERSION.fullmatch(version) or version.endswith("."):
        raise InvalidInput(
            f"{version!r} cannot name a dataset version. Use 1 to 100 letters, digits, '-', '_' and single dots, "
            "beginning with a letter or a digit, such as dolly-2026-11-01."
        )
    return version


def _holds_rows(name: str) -> bool:
    return name.endswith(ROW_FILES) and not name.startswith(("_", "."))


class RawDatasets:
    """The folder that dataset versions land in."""

    def __init__(self, url: str) -> None:
        self._files: Files = open_files(url)

    @property
    def url(self) -> str:
        """The root, as given."""
        return self._files.url

    def names(self) -> list[str]:
        """Every folder below the root, landed or not, with a valid name or not; one listing."""
        return self._files.children("")

    def has_landed(self, version: str) -> bool:
        """Whether the version's marker is there."""
        return any(name in MARKERS for name in self._files.children(version))

    def digest(self, version: str) -> str:
        """Digest of the rows: names and contents of the data files.

        Raises:
            InvalidInput: the name cannot name a version, or the folder holds no rows.
            MissingArtifact: the version has not landed.
        """
        rows = self._row_files(version)
        return fingerprint({name: mark for name, mark in self._files.digests(version).items() if name in rows})

    def stats(self, version: str) -> dict[str, int]:
        """Number of files and bytes, to show to people."""
        files = self._row_files(version)
        return {"files": len(files), "bytes": sum(size for size, _ in files.values())}

    @contextlib.contextmanager
    def local(self, version: str) -> Iterator[Path]:
        """The data files as a local folder during the `with` block."""
        with self._files.local(version, list(self._row_files(version))) as folder:
            yield folder

    def land(self, version: str, folder: Path) -> list[str]:
        """Deliver a folder's data files as a new version, the marker last.

        Returns the names of the files of an unfinished delivery that were removed.

        Raises:
            InvalidInput: the version exists already, the name is not valid, or the folder holds no rows.
        """
        check_version(version)
        if self.has_landed(version):
            raise InvalidInput(
                f"Dataset version {version!r} is already in {self.url}, and a version never changes. "
                "Choose another name."
            )
        rows = [file for file in sorted(folder.glob("*")) if file.is_file() and _holds_rows(file.name)]
        if not rows:
            raise InvalidInput(f"{folder} holds no {' or '.join(ROW_FILES)} file. Give the folder with the rows.")
        # Remove what an interrupted delivery left: without its marker the version does not exist.
        stale = [name for name in self._files.children(version) if _holds_rows(name)]
        for name in stale:
            self._files.remove(f"{version}/{name}")
        for file in rows:
            if not self._files.create(f"{version}/{file.name}", file.read_bytes()):
                raise InvalidInput(
                    f"{self.url}/{version}/{file.name} has just been written by another delivery. "
                    f"Deliver {version!r} once, or choose another name."
                )
        self._files.create(f"{version}/{MARKERS[0]}", b"")
        return stale

    def _row_files(self, version: str) -> dict[str, tuple[int, str]]:
        check_version(version)
        found = self._files.stamps(version)
        if not any(name in MARKERS for name in found):
            raise MissingArtifact(
                f"Dataset version {version!r} has not landed: {self.url}/{version} has no {MARKERS[0]}. "
                "Deliver it with: fine-tune dataset add VERSION FOLDER"
            )
        rows = {name: stamp for name, stamp in found.items() if _holds_rows(name) and "/" not in name}
        if not rows:
            raise InvalidInput(
                f"Dataset version {version!r}: {self.url}/{version} holds no {' or '.join(ROW_FILES)} file. "
                "Put the rows there before the marker, under a new version name."
            )
        return rows
