"""Turn any checkpoint of a training run into one folder that the Hugging Face libraries load.

Three kinds come in: optimum-neuron's sharded adapters, its sharded full models, and folders that are whole already
(PEFT's, transformers'). An adapter comes out as adapter_model.safetensors and adapter_config.json, a model as
safetensors shards with an index. Bytes are moved, never computed, so every value is exactly the trained one.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

from neuron_ops.errors import InvalidInput, MissingArtifact
from neuron_ops.models.config import read_config
from neuron_ops.weights.byte_ranges import FileDigest, copy_file, file_digest
from neuron_ops.weights.folders import check_can_be_made, check_free_space, check_not_taken, new_folder
from neuron_ops.weights.fused_patterns import check_fused_patterns
from neuron_ops.weights.lora import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    Adapter,
    check_adapter,
    find_adapter_folder,
    read_adapter,
    read_adapter_config,
)
from neuron_ops.weights.neuron_checkpoint import NeuronCheckpoint, read_neuron_checkpoint
from neuron_ops.weights.neuron_layout import Assembly
from neuron_ops.weights.piece_writer import PieceWriter
from neuron_ops.weights.replicas import Difference, check_model_replicas, check_replicas
from neuron_ops.weights.safetensors_io import INDEX_NAME, TensorEntry, TensorSpec, parse_safetensors, read_model_folder
from neuron_ops.weights.safetensors_writer import (
    SafetensorsWriter,
    encode_header,
    encode_index,
    file_bytes,
    in_file_order,
    split_into_shards,
)

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

ReplicaChoice = Literal["equal", "first"]
"""Refuse copies that differ, or take the first rank's."""

# State of the training run, not of the model; pickles among them are never carried on.
_TRAINING_FILES = {"README.md", "trainer_state.json", "trn_config.json", "done", "checkpoint"}
_PICKLE_SUFFIXES = {".pt", ".pth", ".bin", ".pkl", ".ckpt"}


@dataclass(frozen=True, slots=True)
class BaseModelName:
    """The base model as others can find it: never a path of the machine that trained."""

    id: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class ConsolidateReport:
    """What was read and what was written, or with `dry_run` what would be."""

    kind: Literal["adapter", "model"]
    layout: Literal["neuron", "peft", "transformers"]
    tensor_parallel_size: int
    pipeline_parallel_size: int
    num_tensors: int
    num_parameters: int
    num_replicas_compared: int
    files: tuple[FileDigest, ...]
    differing: tuple[Difference, ...] = ()
    """Tensors of a full model whose copies differ: the first rank's were taken."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """A checked checkpoint: what will be written, and how."""

    report: ConsolidateReport
    """Without digests."""
    write: Callable[[Path, Progress | None], list[FileDigest]]


def consolidate_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    base_model: BaseModelName,
    adapter: str = "default",
    max_shard_bytes: int = 5 * 10**9,
    replicas: ReplicaChoice = "equal",
    progress: Progress | None = None,
    dry_run: bool = False,
) -> ConsolidateReport:
    """Write the adapter or model in `checkpoint` to the new folder `out`, or write nothing at all.

    `replicas` says what becomes of a full model's tensors whose copies differ; an adapter with such is always refused.

    Raises:
        MissingArtifact: the folder holds no checkpoint that is known, or one that was never finished.
        InvalidInput: its contents are not one adapter or model; or `out` is taken, cannot be made, or has no room.
        CorruptArtifact: a file is cut short, or ranks disagree about a tensor of which they hold copies.
    """
    plan = _plan(checkpoint, base_model, adapter, max_shard_bytes, replicas)
    check_not_taken(out)
    size = sum(file.bytes for file in plan.report.files)
    if dry_run:
        check_can_be_made(out)
        check_free_space(out.parent, size)
        return plan.report
    with new_folder(out) as partial:
        check_free_space(out.parent, size)
        files = plan.write(partial, progress)
    return replace(plan.report, files=tuple(files))


def _plan(
    checkpoint: Path, base_model: BaseModelName, adapter: str, max_shard_bytes: int, replicas: ReplicaChoice
) -> _Plan:
    if (checkpoint / f"adapter_{adapter}" / "adapter_shards").is_dir():
        return _sharded_adapter(checkpoint / f"adapter_{adapter}", base_model, adapter)
    if (checkpoint / "adapter_shards").is_dir():
        return _sharded_adapter(checkpoint, base_model, checkpoint.name.partition("adapter_")[2] or adapter)
    if (folder := find_adapter_folder(checkpoint, adapter)) is not None:
        return _whole_adapter(folder, base_model)
    if (checkpoint / "shards").is_dir():
        return _sharded_model(checkpoint, max_shard_bytes, replicas)
    if any(checkpoint.glob("model*.safetensors")):
        return _whole_model(checkpoint)
    others = sorted(path.name for path in checkpoint.glob("adapter_*")) if checkpoint.is_dir() else []
    raise MissingArtifact(
        f"{checkpoint} holds neither adapter_{adapter}/adapter_shards nor shards (optimum-neuron), nor {WEIGHTS_NAME} "
        f"(PEFT), nor model.safetensors. {f'It has {others}: name one of them. ' if others else ''}"
        "Give the folder of one checkpoint."
    )


def _sharded_adapter(folder: Path, base_model: BaseModelName, adapter: str) -> _Plan:
    config = _portable_config(read_adapter_config(folder / CONFIG_NAME), base_model)
    source = read_neuron_checkpoint(folder / "adapter_shards", adapter)
    if not source.assemblies:
        raise InvalidInput(f"{folder} holds no tensor of adapter {adapter!r}. Name the adapter that was trained.")
    check_fused_patterns(folder / CONFIG_NAME, config, source.fusions)
    check_replicas(source)
    specs = in_file_order(map(_spec, source.assemblies))
    header = encode_header(specs)
    size = file_bytes(specs)
    # Names, pairs and ranks: what PEFT would trip over is found before anything is written.
    check_adapter(Adapter(folder, config, parse_safetensors(folder / WEIGHTS_NAME, header, size)))

    def write(out: Path, progress: Progress | None) -> list[FileDigest]:
        return [*_write_shards(source, out, [(WEIGHTS_NAME, specs)], progress), _write(out, CONFIG_NAME, text)]

    text = _encode(config)
    return _Plan(_report("adapter", source, [_file(WEIGHTS_NAME, size), _file(CONFIG_NAME, len(text))]), write)


def _sharded_model(checkpoint: Path, max_shard_bytes: int, replicas: ReplicaChoice) -> _Plan:
    read_config(checkpoint)  # without a usable one the result would not be a model
    source = read_neuron_checkpoint(checkpoint / "shards", None)
    differing = check_model_replicas(source, take_first=replicas == "first")
    shards = split_into_shards([_spec(assembly) for assembly in source.assemblies], max_shard_bytes)
    shards = [(name, in_file_order(specs)) for name, specs in shards]
    others = list(_model_files(checkpoint))
    index = encode_index(shards) if len(shards) > 1 else None

    def write(out: Path, progress: Progress | None) -> list[FileDigest]:
        files = _write_shards(source, out, shards, progress)
        if index is not None:
            files.append(_write(out, INDEX_NAME, index))
        return files + [copy_file(path, out / path.name, path.name) for path in others]

    files = [_file(name, file_bytes(specs)) for name, specs in shards]
    files += [_file(INDEX_NAME, len(index))] if index is not None else []
    files += [_file(path.name, path.stat().st_size) for path in others]
    return _Plan(replace(_report("model", source, files), differing=differing), write)


def _whole_adapter(folder: Path, base_model: BaseModelName) -> _Plan:
    adapter = read_adapter(folder)
    text = _encode(_portable_config(dict(adapter.config), base_model))
    size = adapter.file.size

    def write(out: Path, progress: Progress | None) -> list[FileDigest]:
        return [*_copy_files([adapter.file.path], out, progress), _write(out, CONFIG_NAME, text)]

    files = (_file(WEIGHTS_NAME, size), _file(CONFIG_NAME, len(text)))
    entries = adapter.file.entries.values()
    return _Plan(ConsolidateReport("adapter", "peft", 1, 1, len(entries), _parameters(entries), 0, files), write)


def _whole_model(checkpoint: Path) -> _Plan:
    read_config(checkpoint)  # as above
    model = read_model_folder(checkpoint)
    paths = [file.path for file in model.files] + ([model.index] if model.index else []) + [*_model_files(checkpoint)]
    files = tuple(_file(path.name, path.stat().st_size) for path in paths)
    entries = [entry for _, entry in model.places.values()]
    report = ConsolidateReport("model", "transformers", 1, 1, len(entries), _parameters(entries), 0, files)
    return _Plan(report, lambda out, progress: _copy_files(paths, out, progress))


def _report(kind: Literal["adapter", "model"], source: NeuronCheckpoint, files: list[FileDigest]) -> ConsolidateReport:
    return ConsolidateReport(
        kind,
        "neuron",
        source.tensor_parallel_size,
        source.pipeline_parallel_size,
        len(source.assemblies),
        _parameters(source.assemblies),
        len(source.replicas),
        tuple(files),
    )


def _parameters(tensors: Iterable[Assembly | TensorEntry]) -> int:
    return sum(prod(tensor.shape) for tensor in tensors)


def _file(name: str, size: int) -> FileDigest:
    """A file that is planned."""
    return FileDigest(name, size, None)


def _spec(assembly: Assembly) -> TensorSpec:
    return TensorSpec(assembly.name, assembly.dtype, assembly.shape)


def _portable_config(config: dict[str, Any], base_model: BaseModelName) -> dict[str, Any]:
    """The adapter's config, with the base model named so that any machine finds it."""
    config |= {"base_model_name_or_path": base_model.id, "revision": base_model.revision, "inference_mode": True}
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])  # a set when it was saved: the order is chance
    return config


def _encode(config: dict[str, Any]) -> bytes:
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()


def _write(folder: Path, name: str, content: bytes) -> FileDigest:
    (folder / name).write_bytes(content)
    return file_digest(folder / name, name)


def _copy_files(paths: list[Path], folder: Path, progress: Progress | None) -> list[FileDigest]:
    done, total = 0, sum(path.stat().st_size for path in paths)
    copied = []
    for path in paths:
        copied.append(copy_file(path, folder / path.name, path.name))
        done += copied[-1].bytes
        if progress is not None:
            progress(done, total)
    return copied


def _model_files(checkpoint: Path) -> Iterator[Path]:
    """What belongs to the model besides its weights: config, generation config, tokenizer, template."""
    for path in sorted(checkpoint.iterdir()):
        weights = path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json")
        if path.is_file() and not weights and path.name not in _TRAINING_FILES and path.suffix not in _PICKLE_SUFFIXES:
            yield path


def _write_shards(
    source: NeuronCheckpoint, folder: Path, shards: list[tuple[str, list[TensorSpec]]], progress: Progress | None
) -> list[FileDigest]:
    assemblies = {assembly.name: assembly for assembly in source.assemblies}
    done, total = 0, sum(spec.nbytes for _, specs in shards for spec in specs)
    digests = []
    with PieceWriter() as pieces:
        for name, specs in shards:
            with SafetensorsWriter(folder / name, specs) as writer:
                for spec in specs:
                    pieces.write(assemblies[spec.name], writer)
                    done += spec.nbytes
                    if progress is not None:
                        progress(done, total)
                digests.append(writer.finish())
    return digests
