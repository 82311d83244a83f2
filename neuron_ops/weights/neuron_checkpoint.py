"""Checkpoints of optimum-neuron 0.4: one file per rank, read without any Neuron package and without running pickles.

A save has one metadata file per pipeline stage and one tensor file per stage and tensor-parallel rank. The files of a
pipeline run hold every adapter tensor, most of them stale: only the metadata says which belong to a stage. Anything
incomplete or contradictory is refused here. Whether copies agree belongs to replicas; the pieces found are copied by
`consolidate`.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_ops.errors import CorruptArtifact, InvalidInput, MissingArtifact
from neuron_ops.weights.neuron_layout import Assembly, Fusion, Layout, Ranks, Rebuilt, Replicas, parse_spec
from neuron_ops.weights.neuron_layout import partitioned as rebuild_partitioned
from neuron_ops.weights.neuron_layout import replicated as rebuild_replicated
from neuron_ops.weights.torch_zip import StoredTensor, read_torch_file

_RANK_FILE = re.compile(r"dp_rank_(\d+)_tp_rank_(\d+)_pp_rank_(\d+)\.pt")
_METADATA_FILE = re.compile(r"mp_metadata_pp_rank_(\d+)\.json")
# The metadata spells "...lora_A.default.weight", the files "...lora_A.weight" and, for modules_to_save, neither word.
_LORA_PART = re.compile(r"\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)\.([^.]+)(?=\.|$)")
_SAVED_PART = re.compile(r"\.modules_to_save\.([^.]+)(?=\.|$)")


@dataclass(frozen=True)
class NeuronCheckpoint:
    """All original tensors of one save, as pieces of the rank files."""

    path: Path
    tensor_parallel_size: int
    pipeline_parallel_size: int
    assemblies: tuple[Assembly, ...]
    """Sorted by name."""
    replicas: tuple[Replicas, ...]
    fusions: tuple[Fusion, ...]
    """Layers that were trained as one and become several."""


def read_neuron_checkpoint(shards: Path, adapter: str | None) -> NeuronCheckpoint:
    """Read `adapter_<name>/adapter_shards` (give the adapter's name) or a full model's `shards` (None).

    Raises:
        MissingArtifact: the save never finished, or a rank's file is not there.
        InvalidInput: it was sharded in a way that cannot be undone here.
        CorruptArtifact: the ranks' files do not make one checkpoint.
    """
    if not (shards / "done").is_file():
        raise MissingArtifact(
            f"{shards} has no file named 'done', so the save never finished. Take an earlier checkpoint, or save again."
        )
    files = _find_rank_files(shards)
    stages = [_read_stage(shards, stage, ranks, adapter) for stage, ranks in enumerate(files)]
    _check_nothing_left(shards, stages)
    assemblies: dict[str, Assembly] = {}
    replicas = [replica for stage in stages for replica in stage.replicas]
    for assembly in (assembly for stage in stages for assembly in stage.assemblies):
        # Tied embeddings live on the first and on the last pipeline stage.
        kept = assemblies.setdefault(assembly.name, assembly)
        replicas += [
            Replicas(assembly.name, *pair)
            for pair in zip(kept.pieces, assembly.pieces, strict=True)
            if kept != assembly
        ]
    ordered = tuple(assemblies[name] for name in sorted(assemblies))
    fusions = tuple(fusion for stage in stages for fusion in stage.fusions)
    return NeuronCheckpoint(shards, len(files[0]), len(files), ordered, tuple(replicas), fusions)


@dataclass(frozen=True, slots=True)
class _Stage:
    assemblies: list[Assembly]
    replicas: list[Replicas]
    consumed: set[str]
    held: set[str]
    """Every name in the stage's files."""
    fusions: list[Fusion]


def _find_rank_files(shards: Path) -> list[list[Path]]:
    """Paths by stage and rank; a gap in either numbering is a missing file."""
    found = {}
    for path in (shards / "model").glob("dp_rank_*.pt"):
        if match := _RANK_FILE.fullmatch(path.name):
            found[int(match[3]), int(match[2])] = path
    metadata = [int(match[1]) for path in shards.iterdir() if (match := _METADATA_FILE.fullmatch(path.name))]
    if not found or not metadata:
        missing = "model/dp_rank_*.pt file" if not found else "mp_metadata_pp_rank_*.json"
        raise MissingArtifact(f"{shards} has no {missing}. Copy the whole checkpoint again.")
    num_stages = max(*metadata, *(stage for stage, _ in found)) + 1
    num_ranks = max(rank for _, rank in found) + 1
    for stage in range(num_stages):
        for rank in range(num_ranks):
            if (stage, rank) not in found:
                raise MissingArtifact(
                    f"{shards / 'model'} has no file of tensor-parallel rank {rank} in pipeline stage {stage} "
                    f"({num_ranks} ranks and {num_stages} stages were seen). Copy the whole checkpoint again."
                )
    return [[found[stage, rank] for rank in range(num_ranks)] for stage in range(num_stages)]


def _read_stage(shards: Path, stage: int, paths: list[Path], adapter: str | None) -> _Stage:
    path = shards / f"mp_metadata_pp_rank_{stage}.json"
    parameters, specs = _read_metadata(path)
    # An adapter is small, and a bit that flipped in it reaches every weight it is merged into. Checking a full model
    # would cost as much as copying it.
    ranks = [read_torch_file(rank_path, verify=adapter is not None) for rank_path in paths]
    wanted = _wanted(parameters, ranks[0], adapter)
    _check_number_of_ranks(path, paths, parameters)
    _check_ranks(paths, ranks, wanted)
    layouts = _layouts(path, specs, len(ranks))
    rebuilt = [part for layout in layouts for part in layout.undo(_only(ranks, wanted))]
    consumed = {key for part in rebuilt for key in part.consumed}
    rebuilt += [_plain(path, ranks, key, fields) for key, fields in wanted.items() if key not in consumed]
    return _Stage(
        [assembly for part in rebuilt for assembly in part.assemblies],
        [replicas for part in rebuilt for replicas in part.replicas],
        consumed | wanted.keys(),
        set().union(*ranks),
        [layout.fusion for layout in layouts if f"{layout.fusion.layer}.lora_A.weight" in wanted],
    )


def _read_metadata(path: Path) -> tuple[dict[str, dict[str, Any]], list[Any]]:
    try:
        content = json.loads(path.read_bytes())
        return dict(content["parameters"]), list(content["model_weight_transformation_specs"])
    except FileNotFoundError:
        raise MissingArtifact(f"{path} does not exist; without it the shards can't be joined. Copy it too.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(
            f"{path} is not metadata of optimum-neuron ({error!r}). Save the checkpoint again."
        ) from None


def _wanted(
    parameters: Mapping[str, dict[str, Any]], held: Iterable[str], adapter: str | None
) -> dict[str, dict[str, Any]]:
    """The stage's parameters under the names that the files use, without frozen base weights and other adapters."""
    present = set(held)
    wanted = {}
    for name, fields in parameters.items():
        if adapter is None:
            wanted[name] = fields
            continue
        match = _LORA_PART.search(name) or _SAVED_PART.search(name)
        if match is None and name in present:
            wanted[name] = fields
        elif match is not None and match[match.re.groups] == adapter:
            wanted[_SAVED_PART.sub("", _LORA_PART.sub(r".\1", name))] = fields
    return wanted


def _only(ranks: Ranks, wanted: Mapping[str, object]) -> list[dict[str, StoredTensor]]:
    # Stale tensors of other pipeline stages must not be seen by a layout.
    return [{key: tensor for key, tensor in rank.items() if key in wanted} for rank in ranks]


def _layouts(path: Path, specs: Iterable[Any], num_ranks: int) -> list[Layout]:
    try:
        return [
            parse_spec(str(entry["module_fully_qualified_name"]), str(kind), fields, num_ranks)
            for entry in specs
            for kind, fields in entry["specs"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptArtifact(f"{path} describes a sharded module incompletely ({error!r}). Save it again.") from None


def _plain(path: Path, ranks: Ranks, key: str, fields: Mapping[str, Any]) -> Rebuilt:
    if not fields.get("tensor_model_parallel"):
        return rebuild_replicated(ranks, key, [key])
    axis = fields.get("partition_dim")
    if axis not in (0, 1) or fields.get("num_partitions", len(ranks)) != len(ranks):
        raise CorruptArtifact(
            f"{path} says {key} is cut along {axis!r} into {fields.get('num_partitions')!r} parts, the folder has "
            f"files of {len(ranks)} ranks. The files and the metadata are of different runs; save the checkpoint again."
        )
    return rebuild_partitioned(ranks, key, int(axis), key)


def _check_number_of_ranks(path: Path, paths: list[Path], parameters: Mapping[str, dict[str, Any]]) -> None:
    num_ranks = max((int(fields.get("num_partitions", 1)) for fields in parameters.values()), default=1)
    if num_ranks > len(paths):
        raise MissingArtifact(
            f"{path} speaks of {num_ranks} tensor-parallel ranks, but {paths[0].parent} has files of {len(paths)}: "
            f"tp_rank_{len(paths):02d} is missing. Copy the whole checkpoint again."
        )


def _check_ranks(paths: list[Path], ranks: Ranks, wanted: Iterable[str]) -> None:
    """Every rank holds each tensor, with one dtype and one shape."""
    for key in wanted:
        first = ranks[0].get(key)
        for path, rank in zip(paths, ranks, strict=True):
            tensor = rank.get(key)
            if tensor is None or first is None:
                raise CorruptArtifact(
                    f"{path} has no tensor {key}, which the metadata lists. The files and the metadata are of "
                    "different runs; save the checkpoint again."
                )
            if (tensor.dtype, tensor.shape) != (first.dtype, first.shape):
                raise CorruptArtifact(
                    f"{path} holds {key} as {tensor.dtype} {list(tensor.shape)}, {paths[0].name} as {first.dtype} "
                    f"{list(first.shape)}: the ranks are of different runs. Save the checkpoint again."
                )


def _check_nothing_left(shards: Path, stages: list[_Stage]) -> None:
    consumed = {key for stage in stages for key in stage.consumed}
    left = sorted({key for stage in stages for key in stage.held} - consumed - {"lm_head.weight"})
    if left:
        raise InvalidInput(
            f"{shards}: no metadata file claims {len(left)} tensors of the rank files: {', '.join(left[:4])}. A "
            "pipeline stage's files are missing, or the metadata is of another run. Copy the whole checkpoint again."
        )
