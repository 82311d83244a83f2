"""Turn any checkpoint of a training run into one folder that the Hugging Face libraries load.

Three kinds come in: optimum-neuron's sharded adapters, its sharded full models, and folders that are whole already
(PEFT's, transformers'). An adapter comes out as adapter_model.safetensors and adapter_config.json, a model as
safetensors shards with an index. Bytes are moved, never computed, so every value is exactly the trained one.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neuron_ops.errors import InvalidInput, MissingArtifact
from neuron_ops.weights.byte_ranges import STREAM_BYTES, FileDigest, OpenFile, copy_file, file_digest
from neuron_ops.weights.folders import check_free_space, new_folder
from neuron_ops.weights.lora import CONFIG_NAME, WEIGHTS_NAME, find_adapter_folder, read_adapter, read_adapter_config
from neuron_ops.weights.neuron_checkpoint import NeuronCheckpoint, check_replicas, read_neuron_checkpoint
from neuron_ops.weights.neuron_layout import Assembly
from neuron_ops.weights.safetensors_io import (
    SafetensorsWriter,
    TensorSpec,
    in_file_order,
    read_model_folder,
    split_into_shards,
    write_index,
)

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

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
    """What was read and what was written."""

    kind: Literal["adapter", "model"]
    layout: Literal["neuron", "peft", "transformers"]
    tensor_parallel: int
    pipeline_parallel: int
    num_tensors: int
    num_parameters: int
    num_replicas_compared: int
    files: tuple[FileDigest, ...]


def consolidate_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    base_model: BaseModelName,
    adapter: str = "default",
    max_shard_bytes: int = 5 * 10**9,
    progress: Progress | None = None,
) -> ConsolidateReport:
    """Write the adapter or model in `checkpoint` to the new folder `out`, or write nothing at all."""
    if (checkpoint / f"adapter_{adapter}" / "adapter_shards").is_dir():
        return _sharded_adapter(checkpoint / f"adapter_{adapter}", out, base_model, adapter, progress)
    if (checkpoint / "adapter_shards").is_dir():
        return _sharded_adapter(
            checkpoint, out, base_model, checkpoint.name.partition("adapter_")[2] or adapter, progress
        )
    if (folder := find_adapter_folder(checkpoint, adapter)) is not None:
        return _whole_adapter(folder, out, base_model, progress)
    if (checkpoint / "shards").is_dir():
        return _sharded_model(checkpoint, out, max_shard_bytes, progress)
    if any(checkpoint.glob("model*.safetensors")):
        return _whole_model(checkpoint, out, progress)
    others = sorted(path.name for path in checkpoint.glob("adapter_*")) if checkpoint.is_dir() else []
    raise MissingArtifact(
        f"{checkpoint} holds neither adapter_{adapter}/adapter_shards nor shards (optimum-neuron), nor {WEIGHTS_NAME} "
        f"(PEFT), nor model.safetensors. {f'It has {others}: name one of them. ' if others else ''}"
        "Give the folder of one checkpoint."
    )


def _sharded_adapter(
    folder: Path, out: Path, base_model: BaseModelName, adapter: str, progress: Progress | None
) -> ConsolidateReport:
    config = _portable_config(read_adapter_config(folder / CONFIG_NAME), base_model)
    source = read_neuron_checkpoint(folder / "adapter_shards", adapter)
    if not source.assemblies:
        raise InvalidInput(f"{folder} holds no tensor of adapter {adapter!r}. Name the adapter that was trained.")
    check_replicas(source)
    with new_folder(out) as partial:
        files = _write_shards(source, partial, [(WEIGHTS_NAME, in_file_order(map(_spec, source.assemblies)))], progress)
        files.append(_write_config(partial, config))
        read_adapter(partial)  # names, pairs and ranks: what PEFT would trip over is found here
    return _report("adapter", source, files)


def _sharded_model(checkpoint: Path, out: Path, max_shard_bytes: int, progress: Progress | None) -> ConsolidateReport:
    source = read_neuron_checkpoint(checkpoint / "shards", None)
    check_replicas(source)
    shards = split_into_shards([_spec(assembly) for assembly in source.assemblies], max_shard_bytes)
    with new_folder(out) as partial:
        files = _write_shards(source, partial, [(name, in_file_order(specs)) for name, specs in shards], progress)
        if len(shards) > 1:
            files.append(write_index(partial, shards))
        files += [copy_file(path, partial / path.name, path.name) for path in _model_files(checkpoint)]
    return _report("model", source, files)


def _whole_adapter(folder: Path, out: Path, base_model: BaseModelName, progress: Progress | None) -> ConsolidateReport:
    adapter = read_adapter(folder)
    config = _portable_config(dict(adapter.config), base_model)
    with new_folder(out) as partial:
        check_free_space(partial, adapter.file.size)
        files = [copy_file(adapter.file.path, partial / WEIGHTS_NAME, WEIGHTS_NAME), _write_config(partial, config)]
        if progress is not None:
            progress(adapter.file.size, adapter.file.size)
    shapes = [entry.shape for entry in adapter.file.entries.values()]
    parameters = sum(int(np.prod(shape)) for shape in shapes)
    return ConsolidateReport("adapter", "peft", 1, 1, len(shapes), parameters, 0, tuple(files))


def _whole_model(checkpoint: Path, out: Path, progress: Progress | None) -> ConsolidateReport:
    model = read_model_folder(checkpoint)
    total = sum(file.size for file in model.files)
    weights = [file.path for file in model.files] + ([model.index] if model.index else [])
    with new_folder(out) as partial:
        check_free_space(partial, total)
        files = [copy_file(path, partial / path.name, path.name) for path in [*weights, *_model_files(checkpoint)]]
        if progress is not None:
            progress(total, total)
    shapes = [entry.shape for _, entry in model.places.values()]
    parameters = sum(int(np.prod(shape)) for shape in shapes)
    return ConsolidateReport("model", "transformers", 1, 1, len(shapes), parameters, 0, tuple(files))


def _report(kind: Literal["adapter", "model"], source: NeuronCheckpoint, files: list[FileDigest]) -> ConsolidateReport:
    return ConsolidateReport(
        kind,
        "neuron",
        source.tensor_parallel,
        source.pipeline_parallel,
        len(source.assemblies),
        sum(int(np.prod(assembly.shape)) for assembly in source.assemblies),
        len(source.replicas),
        tuple(files),
    )


def _spec(assembly: Assembly) -> TensorSpec:
    return TensorSpec(assembly.name, assembly.dtype, assembly.shape)


def _portable_config(config: dict[str, Any], base_model: BaseModelName) -> dict[str, Any]:
    """The adapter's config, with the base model named so that any machine finds it."""
    config |= {"base_model_name_or_path": base_model.id, "revision": base_model.revision, "inference_mode": True}
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])  # a set when it was saved: the order is chance
    return config


def _write_config(folder: Path, config: dict[str, Any]) -> FileDigest:
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return file_digest(folder / CONFIG_NAME, CONFIG_NAME)


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
    total = sum(spec.nbytes for _, specs in shards for spec in specs)
    check_free_space(folder, total)
    done = 0
    digests = []
    with _Pieces() as pieces:
        for name, specs in shards:
            with SafetensorsWriter(folder / name, specs) as writer:
                for spec in specs:
                    pieces.write(assemblies[spec.name], writer)
                    done += spec.nbytes
                    if progress is not None:
                        progress(done, total)
                digests.append(writer.finish())
    return digests


class _Pieces(ExitStack):
    """Writes assemblies, keeping each rank's file open."""

    def __init__(self) -> None:
        super().__init__()
        self._files: dict[Path, OpenFile] = {}

    def write(self, assembly: Assembly, writer: SafetensorsWriter) -> None:
        if assembly.axis == 1:
            self._write_columns(assembly, writer)
            return
        for piece in assembly.pieces:
            tensor = piece.tensor
            rows = piece.stop - piece.start
            if tensor.contiguous:
                offset = tensor.offset + piece.start * tensor.row_bytes
                writer.copy(self._file(tensor.path), offset, rows * tensor.row_bytes)
            else:
                data = tensor.read(self._file(tensor.path), piece.start, piece.stop)
                writer.write(data.data.cast("B"))

    def _write_columns(self, assembly: Assembly, writer: SafetensorsWriter) -> None:
        """Gather the ranks' columns, a block of rows at a time."""
        rows, columns = assembly.shape
        step = max(1, STREAM_BYTES // (columns * np.dtype(_word(assembly)).itemsize))
        block = np.empty((min(step, rows), columns), _word(assembly))
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            filled = 0
            last = None
            for piece in assembly.pieces:
                if piece.tensor is not last:
                    data = piece.tensor.read(self._file(piece.tensor.path), start, stop)
                    last = piece.tensor
                width = piece.stop - piece.start
                block[: stop - start, filled : filled + width] = data[:, piece.start : piece.stop]
                filled += width
            writer.write(block[: stop - start].data.cast("B"))

    def _file(self, path: Path) -> OpenFile:
        if path not in self._files:
            self._files[path] = self.enter_context(OpenFile(path))
        return self._files[path]


def _word(assembly: Assembly) -> np.dtype[Any]:
    return np.dtype(f"<u{assembly.pieces[0].tensor.word_bytes}")
