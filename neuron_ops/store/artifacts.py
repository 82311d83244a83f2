"""Where artifacts live and when they count as finished.

    <store>/<artifact>/<dataset version>/<fingerprint>/manifest.json     written last: its presence is "finished"
                                                      /w-<writer>/...    the files that the manifest names

Each writer fills a folder of its own and then tries to create the manifest, which only one can. So the files of two
writers of one address never mix, a kill at any moment leaves no half-finished artifact, and folders and S3 work alike.
Finding, reading, publishing and removing belong here. The contents of addresses and manifests belong to manifest, the
contents of an artifact to the step that makes it.
"""

import contextlib
import logging
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from neuron_ops.errors import CorruptArtifact, InvalidInput, MissingArtifact
from neuron_ops.store.files import Files, LocalFiles, digest_bytes, digest_file, open_files
from neuron_ops.store.manifest import Address, FileRecord, Manifest

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
WRITER_PREFIX = "w-"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished artifact: its address, its manifest and the way to its files."""

    address: Address
    manifest: Manifest
    _files: Files = field(repr=False)

    @property
    def location(self) -> str:
        """Folder or URL of the files, to show and to copy from."""
        return f"{self._files.url}/{self._path}"

    @property
    def is_local(self) -> bool:
        """Whether `local` gives the files in place; otherwise it copies them each time."""
        return isinstance(self._files, LocalFiles)

    @property
    def _path(self) -> str:
        return f"{self.address}/{self.manifest.data}"

    def read(self, name: str) -> bytes:
        """One file's bytes.

        Raises:
            CorruptArtifact: the file is not in the manifest, is missing, or has other bytes than the manifest says.
        """
        record = next((file for file in self.manifest.files if file.name == name), None)
        data = self._files.read(f"{self._path}/{name}") if record else None
        if record is None or data is None or len(data) != record.bytes:
            raise self._corrupt(name, "is missing or has another size")
        if digest_bytes(data) != record.digest:
            raise self._corrupt(name, "holds other bytes")
        return data

    def has(self, name: str) -> bool:
        """Whether the manifest names this file."""
        return any(file.name == name for file in self.manifest.files)

    @contextlib.contextmanager
    def local(self, *, verify: bool = True, names: Collection[str] | None = None) -> Iterator[Path]:
        """The files as a local folder during the `with` block, their bytes compared with the manifest.

        verify=False compares sizes only, for a reader that computes digests of its own as it reads. With `names`, the
        folder may lack all other files.

        Raises:
            CorruptArtifact: a file is missing, cut short, or changed since it was published.
        """
        self.check_sizes()
        files = [file for file in self.manifest.files if names is None or file.name in names]
        with self._files.local(self._path, [file.name for file in files]) as folder:
            for file in files if verify else ():
                if digest_file(folder / file.name) != file.digest:
                    raise self._corrupt(file.name, "holds other bytes")
            yield folder

    def check_sizes(self) -> None:
        """Compare every file's size with the manifest: cheap enough for each reuse (one listing, no bytes read).

        Raises:
            CorruptArtifact: a file is missing or has another size.
        """
        stamps = self._files.stamps(self._path)
        for file in self.manifest.files:
            if file.name not in stamps or stamps[file.name][0] != file.bytes:
                raise self._corrupt(file.name, "is missing or has another size")

    def _corrupt(self, name: str, how: str) -> CorruptArtifact:
        return CorruptArtifact(
            f"{self.location}/{name} {how} than {MANIFEST} says: the artifact was changed after it was finished. "
            f"{_make_again(self._files.url, self.address)}"
        )


def _make_again(url: str, address: Address) -> str:
    """What to do about an artifact that cannot be used; a finished one is reused as long as its manifest is there."""
    again = f"materialize {address.artifact} again"
    if address.part is None:
        return f"Remove {url}/{address} and {again}."
    whole = f"{url}/{replace(address, part=None)}"
    return (
        f"Remove {url}/{address} and {whole}/{MANIFEST}, then {again}: it continues from the finished parts below "
        f"{whole}."
    )


@dataclass(slots=True)
class Writer:
    """A folder to fill and then publish. `ArtifactStore.writer` makes one."""

    address: Address
    path: Path
    _store: "ArtifactStore"
    _data: str

    def publish(
        self, make_manifest: Callable[[str, tuple[FileRecord, ...]], Manifest], placed: Sequence[FileRecord] = ()
    ) -> Artifact:
        """Make the files durable, then create the manifest: last, in one piece, and only if no other writer has.

        `placed` are files that never were in the folder, because they are already durable at their final place.
        Returns this writer's artifact, or that of the writer that was first; then this writer's files are removed.
        """
        try:
            self._try_to_publish(make_manifest, placed)
        except FileNotFoundError:
            # The writer that was first has removed this one's files.
            if self._store.find(self.address) is None:
                raise
        artifact = self._store.require(self.address)
        if artifact.manifest.data != self._data:
            log.info("another process finished %s first; its files are used and this one's are removed", self.address)
        # This removes this writer's own files too, unless the manifest names them: S3 may say "it exists" about a
        # manifest that this writer's own first try created, if the answer to that try was lost.
        self._store.sweep(artifact)
        return artifact

    def _try_to_publish(
        self, make_manifest: Callable[[str, tuple[FileRecord, ...]], Manifest], placed: Sequence[FileRecord]
    ) -> None:
        written = tuple(
            FileRecord(name=file.relative_to(self.path).as_posix(), bytes=file.stat().st_size, digest=digest_file(file))
            for file in sorted(self.path.rglob("*"))
            if file.is_file()
        )
        manifest = make_manifest(self._data, tuple(sorted([*written, *placed], key=lambda file: file.name)))
        self._store.files.store(self.path, f"{self.address}/{self._data}")
        self._store.files.create(f"{self.address}/{MANIFEST}", manifest.model_dump_json(indent=2).encode())


class ArtifactStore:
    """A tree of artifacts in a local folder or under s3://bucket/prefix."""

    def __init__(self, url: str) -> None:
        self.files = open_files(url)

    @property
    def url(self) -> str:
        """The root, as given."""
        return self.files.url

    def find(self, address: Address) -> Artifact | None:
        """The finished artifact at this address, or None.

        Raises:
            CorruptArtifact: there is a manifest, but it cannot be read.
        """
        data = self.files.read(f"{address}/{MANIFEST}")
        if data is None:
            return None
        try:
            return Artifact(address, Manifest.model_validate_json(data), self.files)
        except ValidationError as error:
            raise CorruptArtifact(
                f"{self.url}/{address}/{MANIFEST} cannot be read ({error.error_count()} errors, the first: "
                f"{error.errors()[0]['msg']}). {_make_again(self.url, address)}"
            ) from None

    def require(self, address: Address) -> Artifact:
        """The finished artifact at this address.

        Raises:
            MissingArtifact: nothing finished is there.
        """
        artifact = self.find(address)
        if artifact is None and address.part is not None:
            raise MissingArtifact(f"{self.url}/{address} has no {MANIFEST}. {_make_again(self.url, address)}")
        if artifact is None:
            where = f" for partition {address.dataset_version!r}" if address.dataset_version else ""
            raise MissingArtifact(
                f"{self.url}/{address} has no {MANIFEST}, so it was never finished with this recipe and these inputs. "
                f"Materialize {address.artifact}{where} first."
            )
        return artifact

    def finished(self, artifact: str, dataset_version: str | None = None) -> Iterator[Artifact]:
        """Every finished artifact of this name, of one dataset version or of all; sorted, and read one by one.

        Without `dataset_version`, artifacts whose addresses name no version are included. An artifact whose manifest
        cannot be read is left out with a warning: callers that look for others do not need it.
        """
        if dataset_version is not None:
            yield from self._finished_below(artifact, dataset_version)
            return
        for name in self.files.children(artifact):
            found = self._find_readable(Address(artifact, name))
            if found is not None:
                yield found
            else:  # a dataset version
                yield from self._finished_below(artifact, name)

    def _finished_below(self, artifact: str, dataset_version: str) -> Iterator[Artifact]:
        for name in self.files.children(f"{artifact}/{dataset_version}"):
            # Such a name means an unfinished artifact, not a version: in a writer's folder a manifest is a plain file.
            if not name.startswith(WRITER_PREFIX):
                found = self._find_readable(Address(artifact, name, dataset_version))
                if found is not None:
                    yield found

    def _find_readable(self, address: Address) -> Artifact | None:
        try:
            return self.find(address)
        except CorruptArtifact as error:
            log.warning("%s is left out: %s", address, error)
            return None

    def part_names(self, address: Address, prefix: str) -> list[str]:
        """Names of the parts that begin with `prefix`, finished or not, sorted."""
        return [name for name in self.files.children(str(address)) if name.startswith(prefix)]

    def parts(self, address: Address, prefix: str) -> list[Artifact]:
        """Finished parts whose name begins with `prefix`, sorted by name.

        Raises:
            CorruptArtifact: the manifest of one of them cannot be read.
        """
        found = (self.find(replace(address, part=name)) for name in self.part_names(address, prefix))
        return [artifact for artifact in found if artifact is not None]

    @contextlib.contextmanager
    def writer(self, address: Address) -> Iterator[Writer]:
        """An empty folder to fill and publish. Its files are removed at the end if they were not published."""
        data = f"{WRITER_PREFIX}{secrets.token_hex(4)}"
        with self.files.workspace(f"{address}/{data}") as path:
            try:
                yield Writer(address, path, self, data)
            finally:
                if not self._is_published(address, data):
                    self.files.remove(f"{address}/{data}")

    def remove(self, address: Address) -> None:
        """Remove an artifact: its manifest first, so that no reader finds half of it."""
        self.files.remove(f"{address}/{MANIFEST}")
        self.files.remove(str(address))

    def sweep(self, artifact: Artifact) -> None:
        """Remove what killed or slower writers left beside a finished artifact."""
        for name in self.files.children(str(artifact.address)):
            if name.startswith((WRITER_PREFIX, ".")) and name != artifact.manifest.data:
                self.files.remove(f"{artifact.address}/{name}")
        try:
            self.files.abort_uploads(str(artifact.address))
        except InvalidInput as error:  # only sweeping needs this permission
            log.warning("uploads that killed writers left below %s are not removed: %s", artifact.address, error)

    def _is_published(self, address: Address, data: str) -> bool:
        artifact = self.find(address)
        return artifact is not None and artifact.manifest.data == data
