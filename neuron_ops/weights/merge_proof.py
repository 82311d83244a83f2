"""Prove a finished merge by reading it again: every byte of the result is accounted for.

A check of its own, made on what the disk gives back and not on what was meant to be written. The digest of a file was
taken of the base's bytes where nothing is targeted, while they were copied, so a result that has it has them too;
`reread_base` reads them from the base once more and compares range by range.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from neuron_ops.errors import CorruptArtifact
from neuron_ops.weights.byte_ranges import STREAM_BYTES, OpenFile, hash_range, new_digest
from neuron_ops.weights.merge_report import ChangedTensor, MergeReport, UntouchedRange
from neuron_ops.weights.safetensors_io import ModelFolder, SafetensorsFile, read_model_folder


@dataclass(frozen=True, slots=True)
class MergeProof:
    """What was found; an instance exists only if everything held."""

    num_changed: int
    bytes_equal_to_base: int
    bytes_changed: int


def verify_merge(
    base: Path,
    out: Path,
    report: MergeReport,
    *,
    targets: frozenset[str] | None = None,
    reread_base: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> MergeProof:
    """Prove that `out` is the base with exactly the reported tensors (or `targets`) changed.

    Raises:
        CorruptArtifact: it is not.
        MissingArtifact: a weights file of either is not there.
    """
    return verify_folders(
        read_model_folder(base),
        read_model_folder(out),
        report,
        targets=targets,
        reread_base=reread_base,
        progress=progress,
    )


def verify_folders(
    before: ModelFolder,
    after: ModelFolder,
    report: MergeReport,
    *,
    targets: frozenset[str] | None = None,
    reread_base: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> MergeProof:
    """The same for models whose weight files may be anywhere; all other files are in the folder.

    Raises:
        CorruptArtifact: the second is not the first with exactly the reported tensors changed.
    """
    out = after.path
    bases = {file.path.name: file for file in before.files}
    _check_headers(before, after, report)
    named = {tensor.name for tensor in report.changed}
    if targets is not None and named != targets:
        raise CorruptArtifact(
            f"{out} changes {sorted(named - targets)[:4]} without being asked and leaves {sorted(targets - named)[:4]} "
            "as they were. Remove it and merge again."
        )
    total = sum(file.size for file in after.files)
    done = 0
    expected = {file.name: file.xxh3_128 for file in report.files}
    for file in after.files:
        with _FileCheck(file, bases[file.path.name], report, reread_base) as check:
            _check_digest(file.path, check.run(), expected)
        done += file.size
        if progress is not None:
            progress(done, total)
    for name in expected.keys() - {file.path.name for file in after.files}:
        digest = new_digest()
        with OpenFile(out / name) as reader:
            hash_range(reader, 0, reader.size, [digest])
        _check_digest(out / name, digest.hexdigest(), expected, name)
    copied = sum(part.length for part in report.untouched)
    return MergeProof(len(report.changed), copied, report.bytes_computed)


def _check_digest(path: Path, found: str, expected: Mapping[str, str | None], name: str = "") -> None:
    if found != expected.get(name or path.name):
        raise CorruptArtifact(f"{path} is not the file that was written. Remove {path.parent} and merge again.")


def _check_headers(before: ModelFolder, after: ModelFolder, report: MergeReport) -> None:
    """The same files with the same headers; only an output head that was separated may be new."""
    old, new = ({file.path.name: file for file in model.files} for model in (before, after))
    if old.keys() != new.keys():
        raise CorruptArtifact(f"{after.path} has weight files {sorted(new)}, the base {sorted(old)}. Merge again.")
    for name, file in new.items():
        if file.header == old[name].header:
            continue
        kept = {tensor: (entry.dtype, entry.shape) for tensor, entry in old[name].entries.items()}
        found = {tensor: (entry.dtype, entry.shape) for tensor, entry in file.entries.items()}
        if found != kept | {tensor: found.get(tensor) for tensor in report.added}:
            raise CorruptArtifact(f"{file.path} has another header than the base's. Remove it and merge again.")


class _FileCheck(ExitStack):
    """Walks one file of the result once, part after part; each byte belongs to exactly one part."""

    def __init__(self, file: SafetensorsFile, base: SafetensorsFile, report: MergeReport, reread_base: bool) -> None:
        super().__init__()
        name = file.path.name
        parts: list[ChangedTensor | UntouchedRange] = [part for part in report.untouched if part.file == name]
        parts += [tensor for tensor in report.changed if tensor.file == name]
        self._parts = sorted(parts, key=lambda part: part.start)
        self._file = file
        self._result = self.enter_context(file.open())
        self._base = self.enter_context(base.open())
        self._reread_base = reread_base
        self._whole = new_digest()

    def run(self) -> str:
        """Check all parts and return the file's digest."""
        position = 0
        if self._parts and self._parts[0].start == len(self._file.header):  # a new header is not a part
            position = len(self._file.header)
            hash_range(self._result, 0, position, [self._whole])
        for part in self._parts:
            if part.start != position:
                break
            position = self._check_untouched(part) if isinstance(part, UntouchedRange) else self._check_changed(part)
        if position != self._file.size:
            raise CorruptArtifact(
                f"{self._file.path}: the report says nothing about byte {position}. Remove it and merge again."
            )
        return self._whole.hexdigest()

    def _check_untouched(self, part: UntouchedRange) -> int:
        if not self._reread_base:
            hash_range(self._result, part.start, part.length, [self._whole])
            return part.start + part.length
        found, expected = new_digest(), new_digest()
        hash_range(self._result, part.start, part.length, [self._whole, found])
        hash_range(self._base, part.base_start, part.length, [expected])
        if found.hexdigest() != expected.hexdigest():
            raise CorruptArtifact(
                f"{self._file.path}: bytes {part.start} to {part.start + part.length} should be the base's but differ. "
                "Remove the result and merge again."
            )
        return part.start + part.length

    def _check_changed(self, tensor: ChangedTensor) -> int:
        length = tensor.end - tensor.start
        hash_range(self._result, tensor.start, length, [self._whole])
        pieces = range(0, length, STREAM_BYTES)
        same = all(  # as a rule the first piece differs already
            self._result.read(tensor.start + at, min(STREAM_BYTES, length - at))
            == self._base.read(tensor.base_start + at, min(STREAM_BYTES, length - at))
            for at in pieces
        )
        if same or not tensor.delta_norm > 0:
            raise CorruptArtifact(f"{self._file.path}: {tensor.name} is still the base's. Remove it and merge again.")
        return tensor.end
