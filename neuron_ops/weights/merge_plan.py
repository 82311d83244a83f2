"""What a merge will read and write: for each weight file of the base, which bytes stay and which tensors change."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from neuron_ops.errors import InvalidInput
from neuron_ops.models.config import CONFIG, read_config
from neuron_ops.weights.byte_ranges import OpenFile
from neuron_ops.weights.lora_targets import (
    Change,
    Replacement,
    WeightedAdapter,
    plan_changes,
    tied_head,
)
from neuron_ops.weights.rounding import WORD, narrow, widen
from neuron_ops.weights.safetensors_io import ModelFolder, SafetensorsFile, TensorEntry, TensorSpec
from neuron_ops.weights.safetensors_writer import encode_header

HEAD = "lm_head.weight"
_COMPARE_ROWS_BYTES = 1 << 20
# The same weights in another format would still be the base's; the card would still describe the base.
OTHER_WEIGHTS = {".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".ot", ".pt", ".pth", ".safetensors"}
_NOT_CARRIED = {"README.md", "manifest.json"}
_HIDDEN_FOLDERS = {".cache", ".git"}


@dataclass(frozen=True, slots=True)
class Step:
    """One run of bytes of a result file: the base's from `base_start`, or a tensor to compute."""

    start: int
    length: int
    base_start: int
    change: Change | None = None
    entry: TensorEntry | None = None
    """Of the changed tensor, in the base's file."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One weight file of the result."""

    source: SafetensorsFile
    header: bytes | None
    """A new header; None if the base's own stays, as it does unless a tensor is added."""
    steps: tuple[Step, ...]
    size: int


@dataclass(frozen=True)
class MergePlan:
    """Everything that is decided before the first byte is written."""

    base: ModelFolder
    files: tuple[PlannedFile, ...]
    carried: tuple[Path, ...]
    left_out: tuple[str, ...]
    unchanged_copies: tuple[str, ...]
    separated_head: bool
    """The result has an lm_head of its own where the base used its embedding."""

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def rewritten(self) -> Mapping[str, bytes]:
        """The files whose content must change: config.json and the index, if the head was separated."""
        if not self.separated_head:
            return {}
        config = read_config(self.base.path)
        config["tie_word_embeddings"] = False
        files = {CONFIG: _json(config)}
        if self.base.index is not None:
            index = json.loads(self.base.index.read_bytes())
            home = next(planned for planned in self.files if planned.header is not None)
            index["weight_map"][HEAD] = home.source.path.name
            index.setdefault("metadata", {})["total_size"] = sum(
                step.length for planned in self.files for step in planned.steps
            ) - sum(len(planned.source.header) for planned in self.files if planned.header is None)
            files[self.base.index.name] = _json(index)
        return files


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def plan_merge(base: ModelFolder, adapters: Sequence[WeightedAdapter]) -> MergePlan:
    """Pair all tensors, and refuse what can't work.

    Raises:
        InvalidInput: no adapter, none that changes anything, or one that does not fit the base.
        MissingArtifact: a file of an adapter is not there.
        CorruptArtifact: a file of adapter or base cannot be read.
    """
    if not adapters:
        raise InvalidInput(f"No adapter was given to merge into {base.path}. Give at least one adapter folder.")
    changes = plan_changes(base, adapters)
    tied = tied_head(base)
    unchanged = tuple(name for name, change in changes.items() if _is_unchanged_copy(base, change, tied))
    changes = {name: change for name, change in changes.items() if name not in unchanged}
    if not changes:
        raise InvalidInput(
            f"{', '.join(str(adapter.path) for adapter in adapters)} would change no tensor of {base.path}: the "
            "result would be the base model. Give a trained adapter."
        )
    separated = _separate_head(base, changes, tied)
    files = tuple(_plan_file(file, changes, tied if separated else None) for file in base.files)
    carried, left_out = _other_files(base, {CONFIG} if separated else set())
    return MergePlan(base, files, carried, left_out, unchanged, separated)


def _separate_head(base: ModelFolder, changes: dict[str, Change], tied: str | None) -> bool:
    """Whether embedding and output head stop being one tensor: a change of either alone must not reach the other."""
    if tied is None:
        if read_config(base.path).get("tie_word_embeddings") and {HEAD, "model.embed_tokens.weight"} & changes.keys():
            raise InvalidInput(
                f"{base.path} ties its embeddings in config.json but holds {HEAD} too, so it is unclear which of them "
                f"an adapter of the embeddings was trained on. Remove {HEAD} from the base, or untie it."
            )
        return False
    if HEAD not in changes and tied not in changes:
        return False
    head, embedding = changes.get(HEAD), changes.get(tied)
    replaced = [change.replacement for change in (head, embedding) if change and change.replacement]
    if len(replaced) == 2 and _same_tensor(*replaced):
        del changes[HEAD]  # both trained as one and saved twice
        return False
    return True


def _same_tensor(first: Replacement, second: Replacement) -> bool:
    size = first.entry.end - first.entry.start
    if (first.entry.dtype, size) != (second.entry.dtype, second.entry.end - second.entry.start):
        return False
    with OpenFile(first.adapter.file.path) as one, OpenFile(second.adapter.file.path) as two:
        return all(
            one.read(first.entry.start + at, min(_COMPARE_ROWS_BYTES, size - at))
            == two.read(second.entry.start + at, min(_COMPARE_ROWS_BYTES, size - at))
            for at in range(0, size, _COMPARE_ROWS_BYTES)
        )


def _is_unchanged_copy(base: ModelFolder, change: Change, tied: str | None) -> bool:
    """Check the copies of base weights that PEFT saves beside embeddings; say if there is nothing but such a copy."""
    file, entry = base.places[tied if tied is not None and change.name == HEAD else change.name]
    for copy in change.frozen_copies:
        if _equals_base(file, entry, copy):
            continue
        raise InvalidInput(
            f"{copy.adapter.path} was trained on another {change.name} than {base.path} has (it holds a "
            "copy that differs). Give the base model and revision that the adapter was trained on."
        )
    if change.low_rank or change.bias:
        return False
    return change.replacement is None or _equals_base(file, entry, change.replacement)


def _equals_base(file: SafetensorsFile, entry: TensorEntry, copy: Replacement) -> bool:
    """Whether the adapter's copy, in the base's dtype, is the base's tensor."""
    elements = (entry.end - entry.start) // WORD[entry.dtype].itemsize
    step = _COMPARE_ROWS_BYTES // 4
    with file.open() as one, OpenFile(copy.adapter.file.path) as two:
        for at in range(0, elements, step):
            count = min(step, elements - at)
            ours = np.empty(count, WORD[entry.dtype])
            theirs = np.empty(count, WORD[copy.entry.dtype])
            one.read_into(ours.data.cast("B"), entry.start + at * ours.itemsize)
            two.read_into(theirs.data.cast("B"), copy.entry.start + at * theirs.itemsize)
            values = np.empty(count, np.float32)
            widen(theirs, copy.entry.dtype, values)
            narrowed = np.empty_like(ours)
            narrow(values, entry.dtype, narrowed)
            if not np.array_equal(ours, narrowed):
                return False
    return True


def _plan_file(file: SafetensorsFile, changes: Mapping[str, Change], tied: str | None) -> PlannedFile:
    if tied is None or tied not in file.entries:
        return PlannedFile(file, None, tuple(_steps(file, changes, 0, 0)), file.size)
    specs = [TensorSpec(entry.name, entry.dtype, entry.shape) for entry in file.entries.values()]
    source = file.entries[tied]
    header = encode_header([*specs, TensorSpec(HEAD, source.dtype, source.shape)], file.metadata)
    shift = len(header) - len(file.header)
    steps = list(_steps(file, changes, len(file.header), shift))
    end = file.size + shift
    length = source.end - source.start
    head = changes.get(HEAD)
    entry = replace(source, name=HEAD) if head is not None else None
    steps.append(Step(end, length, source.start, head, entry))
    return PlannedFile(file, header, tuple(steps), end + length)


def _steps(file: SafetensorsFile, changes: Mapping[str, Change], begin: int, shift: int) -> Iterator[Step]:
    """Untouched bytes from `begin` on, interrupted by the changed tensors; `shift` moves them in the result."""
    position = begin
    for entry in file.entries.values():
        if entry.name not in changes or entry.start == entry.end:
            continue
        if entry.start > position:
            yield Step(position + shift, entry.start - position, position)
        yield Step(entry.start + shift, entry.end - entry.start, entry.start, changes[entry.name], entry)
        position = entry.end
    if file.size > position:
        yield Step(position + shift, file.size - position, position)


def _other_files(base: ModelFolder, rewritten: set[str]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Paths relative to the base folder: those to carry over, and those that are left out on purpose."""
    weights = {file.path.name for file in base.files}
    if rewritten and base.index is not None:
        rewritten = rewritten | {base.index.name}
    carried, left_out = [], []
    for path in sorted(base.path.rglob("*")):
        relative = path.relative_to(base.path)
        if not path.is_file() or str(relative) in weights | rewritten or _HIDDEN_FOLDERS & set(relative.parts):
            continue
        stale = path.suffix in OTHER_WEIGHTS or path.name.endswith(tuple(f"{s}.index.json" for s in OTHER_WEIGHTS))
        if (stale and path != base.index) or str(relative) in _NOT_CARRIED:
            left_out.append(relative.as_posix())
        else:
            carried.append(relative)
    return tuple(carried), tuple(left_out)
