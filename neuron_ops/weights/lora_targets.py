"""Which base tensor each tensor of an adapter changes; nothing of an adapter is ever left over silently."""

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neuron_ops.errors import InvalidInput
from neuron_ops.models.config import read_config
from neuron_ops.weights.lora import (
    LOW_RANK_KEY,
    PREFIX,
    Adapter,
    check_float,
    low_rank_parts,
    read_adapter,
)
from neuron_ops.weights.safetensors_io import ModelFolder, TensorEntry

# By these, LoraConfig leaves out layers that its targets name.
_CHOOSE_LAYERS = ("layers_to_transform", "exclude_modules")
# PEFT's names for the base's own tensors inside the modules it wraps.
_BASE_COPY = re.compile(r"\.(base_layer|original_module)\.")


@dataclass(frozen=True, slots=True)
class WeightedAdapter:
    """An adapter folder and the factor of its change (1: the adapter as trained)."""

    path: Path
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class LowRank:
    """One adapter's change of one matrix: scale * B @ A, and with a magnitude DoRA's rescaling of the rows."""

    adapter: Adapter
    b: TensorEntry
    a: TensorEntry
    scale: float
    """PEFT's scaling times the adapter's weight."""
    embedding: bool
    """An embedding's change is (B @ A) transposed (`peft/tuners/lora/layer.py`, Embedding.get_delta_weight)."""
    magnitude: TensorEntry | None


@dataclass(frozen=True, slots=True)
class Replacement:
    """A tensor that the adapter holds in full (modules_to_save, a trained bias)."""

    adapter: Adapter
    entry: TensorEntry


@dataclass(frozen=True, slots=True)
class BiasDelta:
    """A bias of lora_B: it is added to the base layer's bias, scaled."""

    adapter: Adapter
    entry: TensorEntry
    scale: float


@dataclass(slots=True)
class Change:
    """Everything that happens to one base tensor."""

    name: str
    replacement: Replacement | None = None
    low_rank: list[LowRank] = field(default_factory=list)
    bias: list[BiasDelta] = field(default_factory=list)
    frozen_copies: list[Replacement] = field(default_factory=list)
    """The base weight as PEFT saves it beside the LoRA of an embedding; it must equal the base's."""


def plan_changes(base: ModelFolder, adapters: Sequence[WeightedAdapter]) -> dict[str, Change]:
    """Pair every adapter tensor with the base tensor it changes; by name, sorted.

    Raises:
        InvalidInput: a tensor that the base does not have, another shape, or changes that do not add up.
        MissingArtifact: a file of an adapter is not there.
        CorruptArtifact: an adapter's weights or the base's config.json cannot be read.
    """
    tied = tied_head(base)
    changes: dict[str, Change] = {}
    for weighted in adapters:
        if not math.isfinite(weighted.weight) or weighted.weight == 0:
            raise InvalidInput(f"{weighted.path} has weight {weighted.weight}; give a finite number other than 0.")
        adapter = read_adapter(weighted.path)
        parts = list(_parts(adapter, weighted.weight))
        _check_nothing_is_missing(base, adapter, {name for name, _ in parts})
        for name, part in parts:
            entry = _base_entry(base, name, part, tied)
            _check_fit(base.path, entry, name, part)
            _add(changes.setdefault(name, Change(name)), part)
    return {name: changes[name] for name in sorted(changes)}


def _check_nothing_is_missing(base: ModelFolder, adapter: Adapter, changed: Collection[str]) -> None:
    """Every layer that the adapter's configuration names must have its factors: half an adapter is another model.

    Only plain lists of names are followed: a pattern or a choice of layers may leave out what it likes.
    """
    targets = adapter.config.get("target_modules")
    if not isinstance(targets, list) or any(adapter.config.get(name) for name in _CHOOSE_LAYERS):
        return
    replaced = tuple(f".{name}" for name in adapter.config.get("modules_to_save") or ())
    for name in base.places:
        module = name.removesuffix(".weight")
        named = module != name and any(f".{module}".endswith(f".{target}") for target in targets)
        if named and not f".{module}".endswith(replaced) and name not in changed:
            raise InvalidInput(
                f"{adapter.path} targets {', '.join(targets)}, but holds no change of {name}: a part of it is missing. "
                "Save the adapter again."
            )


def tied_head(base: ModelFolder) -> str | None:
    """The embedding that also serves as output head, when the model has no tensor of its own for that.

    Raises:
        InvalidInput: the base has no config.json, or an architecture that is not supported.
        CorruptArtifact: its config.json cannot be read.
    """
    config = read_config(base.path)
    embedding = "model.embed_tokens.weight"
    untied = config.get("tie_word_embeddings") is False or "lm_head.weight" in base.places
    return None if untied or embedding not in base.places else embedding


def _parts(adapter: Adapter, weight: float) -> Iterator[tuple[str, LowRank | Replacement | BiasDelta]]:
    """Each change with the name of the base tensor it concerns."""
    for module, parts in low_rank_parts(adapter).items():
        embedding = "lora_embedding_A" in parts
        a, b = (
            parts["lora_embedding_A" if embedding else "lora_A"],
            parts["lora_embedding_B" if embedding else "lora_B"],
        )
        scale = adapter.scaling(module) * weight
        magnitude = parts.get("lora_magnitude_vector")
        if bool(adapter.config.get("use_dora")) != (magnitude is not None) or (magnitude is not None and weight != 1):
            raise InvalidInput(
                f"{adapter.path}: {module} {'has' if magnitude else 'lacks'} a DoRA magnitude, use_dora is "
                f"{adapter.config.get('use_dora')!r} and the weight {weight}. DoRA is merged whole (weight 1) or not."
            )
        yield f"{module}.weight", LowRank(adapter, b, a, scale, embedding, magnitude)
        if "lora_B.bias" in parts:
            yield f"{module}.bias", BiasDelta(adapter, parts["lora_B.bias"], scale)
    for key, entry in adapter.file.entries.items():
        # save_embedding_layers writes a trained embedding a second time; PEFT doesn't load that copy either.
        again = ".modules_to_save." in key and key.replace(".modules_to_save.", ".") in adapter.file.entries
        if not LOW_RANK_KEY.fullmatch(key) and not again:
            if weight != 1 and not _BASE_COPY.search(key):
                raise InvalidInput(
                    f"{adapter.path} replaces {key!r} as a whole, which weight {weight} can't scale. Use weight 1."
                )
            yield _BASE_COPY.sub(".", key.removeprefix(PREFIX)), Replacement(adapter, entry)


def _base_entry(base: ModelFolder, name: str, part: LowRank | Replacement | BiasDelta, tied: str | None) -> TensorEntry:
    wanted = tied if tied is not None and name == "lm_head.weight" else name
    if wanted in base.places:
        return base.places[wanted][1]
    source = part.b if isinstance(part, LowRank) else part.entry
    raise InvalidInput(
        f"{part.adapter.file.path}: {source.name} would change {name}, but {base.path} has no such tensor, so nothing "
        "consumes it. Give the base model that the adapter was trained on."
    )


def _check_fit(path: Path, entry: TensorEntry, name: str, part: LowRank | Replacement | BiasDelta) -> None:
    check_float(path, entry.name, entry.dtype)
    shapes: dict[str, tuple[int, ...]] = {}
    if isinstance(part, LowRank):
        rows, columns = (part.a, part.b) if part.embedding else (part.b, part.a)
        shape = (
            rows.shape[1] if part.embedding else rows.shape[0],
            columns.shape[0] if part.embedding else columns.shape[1],
        )
        shapes[f"{part.b.name} @ {part.a.name.rpartition('.lora')[2]}"] = shape
        if part.magnitude is not None:
            # PEFT norms the rows of a linear and the columns of an embedding.
            length = part.magnitude.shape[0] if len(part.magnitude.shape) == 1 else -1
            shapes[part.magnitude.name] = (shape[0], length) if part.embedding else (length, shape[1])
    else:
        check_float(part.adapter.file.path, part.entry.name, part.entry.dtype)
        shapes[part.entry.name] = part.entry.shape
    for tensor, found in shapes.items():
        if tuple(found) != entry.shape:
            raise InvalidInput(
                f"{part.adapter.file.path}: {tensor} fits a tensor of {list(found)}, but {name} in {path} is "
                f"{list(entry.shape)}. Give the base model that the adapter was trained on."
            )


def _add(change: Change, part: LowRank | Replacement | BiasDelta) -> None:
    if isinstance(part, LowRank):
        change.low_rank.append(part)
        dora = any(update.magnitude is not None for update in change.low_rank)
        clash = (dora and len(change.low_rank) > 1) or (change.replacement is not None)
    elif isinstance(part, BiasDelta):
        change.bias.append(part)
        clash = change.replacement is not None
    elif _BASE_COPY.search(part.entry.name) and part.entry.name.endswith(".weight"):
        change.frozen_copies.append(part)
        clash = False
    else:
        clash = change.replacement is not None or bool(change.low_rank) or bool(change.bias)
        change.replacement = part
    if clash:
        raise InvalidInput(
            f"{part.adapter.path}: {change.name} is changed twice in ways that don't add up (DoRA or a replaced module "
            "together with another change). Merge one of the adapters alone."
        )
