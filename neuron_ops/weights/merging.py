"""Merge LoRA adapters into a base model at the speed of a file copy, in a few tens of megabytes.

The result has the base's files, sharding, layout, dtypes and metadata. Bytes that no adapter targets are copied and
hashed in one pass; targeted tensors are computed a block of rows at a time (`merge_math`). `verify_merge` in
`merge_proof` reads the result again and proves what the report says.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from neuron_ops.errors import InvalidInput
from neuron_ops.weights.byte_ranges import (
    FileDigest,
    Source,
    Target,
    copy_file,
    copy_range,
    create_file,
    file_digest,
    hash_range,
    new_digest,
    share_blocks,
)
from neuron_ops.weights.folders import check_can_be_made, check_free_space, check_not_taken, new_folder
from neuron_ops.weights.lora_targets import BiasDelta, LowRank, Replacement, WeightedAdapter
from neuron_ops.weights.merge_factors import read_factors
from neuron_ops.weights.merge_math import Outcome, TensorMerge, Workspace
from neuron_ops.weights.merge_plan import HEAD, MergePlan, PlannedFile, Step, plan_merge
from neuron_ops.weights.merge_report import ChangedTensor, MergeReport, UntouchedRange
from neuron_ops.weights.safetensors_io import read_model_folder

__all__ = ["MergeReport", "WeightedAdapter", "merge_adapters"]

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""


def merge_adapters(
    base: Path,
    adapters: Sequence[WeightedAdapter],
    out: Path,
    *,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> MergeReport:
    """Write base + adapters to the new folder `out`, or write nothing at all.

    Raises:
        InvalidInput: as `plan_merge`; or `out` is taken, cannot be made, or has no room.
        MissingArtifact: a weights file is not there.
        CorruptArtifact: a file of adapter or base cannot be read.
    """
    plan = plan_merge(read_model_folder(base), adapters)
    check_not_taken(out)
    if dry_run:
        check_can_be_made(out)
        check_free_space(out.parent, plan.size)
        return _foresee(plan)
    with new_folder(out) as partial:
        return write_folder(plan, partial, progress)


def write_folder(plan: MergePlan, folder: Path, progress: Progress | None = None) -> MergeReport:
    """Write the merged model to a `new_folder`.

    Raises:
        InvalidInput: the disk has no room, or a weight became NaN or infinite.
    """
    check_free_space(folder.parent, plan.size)
    return write_merged(plan, folder, lambda file: create_file(folder / file.source.path.name), progress)


def write_merged(
    plan: MergePlan, folder: Path, create: Callable[[PlannedFile], Target], progress: Progress | None = None
) -> MergeReport:
    """Write the weight files to wherever `create` says, and all others to `folder`.

    Raises:
        InvalidInput: a weight became NaN or infinite.
    """
    merged = _Merge(plan, create, progress)
    for file in plan.files:
        merged.write(file)
    others = [_carry(plan, relative, folder) for relative in plan.carried]
    others += [_rewrite(folder, name, content) for name, content in plan.rewritten.items()]
    return _report(plan, merged.changed, merged.untouched, [*merged.files, *others], dry_run=False)


class _Merge:
    """Writes the weight files one after another and collects what the report says."""

    def __init__(self, plan: MergePlan, create: Callable[[PlannedFile], Target], progress: Progress | None) -> None:
        self.changed: list[ChangedTensor] = []
        self.untouched: list[UntouchedRange] = []
        self.files: list[FileDigest] = []
        self._create = create
        self._work = Workspace()
        self._progress = progress
        self._done = 0
        self._total = plan.size

    def write(self, file: PlannedFile) -> None:
        name = file.source.path.name
        self._file_digest = new_digest()
        with file.source.open() as source, self._create(file) as target:
            # On XFS and btrfs the result then shares the base's blocks, and only the changed tensors take space.
            shared = file.header is None and share_blocks(source, target)
            if file.header is not None:
                target.write(file.header, 0)
                self._file_digest.update(memoryview(file.header))
                self._advance(len(file.header))
            for step in file.steps:
                if step.change is None:
                    self._copy(name, step, source, None if shared else target)
                else:
                    self._compute(name, step, source, target)
        self.files.append(FileDigest(name, file.size, self._file_digest.hexdigest()))

    def _copy(self, name: str, step: Step, source: Source, target: Target | None) -> None:
        # Only the file's digest: it is of the base's bytes here, so a result with that digest has them.
        digests = [self._file_digest]
        # In steps, so that progress moves within the gigabytes of a large embedding.
        for done in range(0, step.length, 1 << 26):
            length = min(1 << 26, step.length - done)
            if target is None:
                hash_range(source, step.base_start + done, length, digests)
            else:
                copy_range(source, step.base_start + done, target, step.start + done, length, digests)
            self._advance(length)
        self.untouched.append(UntouchedRange(name, step.start, step.base_start, step.length))

    def _compute(self, name: str, step: Step, source: Source, target: Target) -> None:
        assert step.change is not None
        assert step.entry is not None
        tensor = TensorMerge(step.change, step.entry, source, self._work)
        position = step.start
        for block in tensor.blocks():
            view = block.data.cast("B")
            self._file_digest.update(view)
            target.write(view, position)
            position += len(view)
            self._advance(len(view))
        outcome = tensor.outcome()
        if outcome.delta_norm == 0 or not outcome.differs:
            raise InvalidInput(_no_change(step, outcome))
        self.changed.append(_changed(name, step, outcome))

    def _advance(self, length: int) -> None:
        self._done += length
        if self._progress is not None:
            self._progress(self._done, self._total)


def _no_change(step: Step, outcome: Outcome) -> str:
    assert step.change is not None
    assert step.entry is not None
    change = step.change
    parts: list[LowRank | BiasDelta | Replacement] = [*change.low_rank, *change.bias]
    adapter = (change.replacement or parts[0]).adapter
    why = (
        "its change is zero: it was never trained"
        if outcome.delta_norm == 0
        else f"its change (norm {outcome.delta_norm:.3g}) is too small to alter any {step.entry.dtype} weight"
    )
    return (
        f"{adapter.path} targets {step.entry.name}, but {why}. The result would be the base model there. Give "
        "a trained adapter."
    )


def _changed(name: str, step: Step, outcome: Outcome) -> ChangedTensor:
    assert step.entry is not None
    return ChangedTensor(
        name=step.entry.name,
        file=name,
        dtype=step.entry.dtype,
        shape=step.entry.shape,
        start=step.start,
        end=step.start + step.length,
        base_start=step.base_start,
        delta_norm=outcome.delta_norm,
        max_abs_error=outcome.max_abs_error,
    )


def _carry(plan: MergePlan, relative: Path, folder: Path) -> FileDigest:
    target = folder / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    return copy_file(plan.base.path / relative, target, relative.as_posix())


def _rewrite(folder: Path, name: str, content: bytes) -> FileDigest:
    (folder / name).write_bytes(content)
    return file_digest(folder / name, name)


def _foresee(plan: MergePlan) -> MergeReport:
    """The report of a merge that is not made: no digests, and norms only where the factors alone give them."""
    changed, untouched = [], []
    for file in plan.files:
        name = file.source.path.name
        for step in file.steps:
            if step.change is None or step.entry is None:
                untouched.append(UntouchedRange(name, step.start, step.base_start, step.length))
                continue
            rows = step.entry.shape[0] if step.entry.shape else 1
            factors = read_factors(step.change, rows, step.length // max(1, rows))
            exact = step.change.replacement is None and factors.magnitude is None
            norm = factors.norm() if exact else float("nan")
            if norm == 0:
                raise InvalidInput(_no_change(step, Outcome(0.0, False, 0.0)))
            changed.append(_changed(name, step, Outcome(norm, True, float("nan"))))
    files = [FileDigest(file.source.path.name, file.size, None) for file in plan.files]
    carried = [FileDigest(path.as_posix(), (plan.base.path / path).stat().st_size, None) for path in plan.carried]
    rewritten = [FileDigest(name, len(content), None) for name, content in plan.rewritten.items()]
    return _report(plan, changed, untouched, [*files, *carried, *rewritten], dry_run=True)


def _report(
    plan: MergePlan,
    changed: list[ChangedTensor],
    untouched: list[UntouchedRange],
    files: list[FileDigest],
    *,
    dry_run: bool,
) -> MergeReport:
    return MergeReport(
        dry_run=dry_run,
        changed=tuple(changed),
        untouched=tuple(untouched),
        files=tuple(sorted(files, key=lambda file: file.name)),
        unchanged_copies=plan.unchanged_copies,
        added=(HEAD,) if plan.separated_head else (),
        left_out=plan.left_out,
    )
