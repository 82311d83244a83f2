"""From one rank's tensors back to the model's: which rows or columns of which rank make up each original tensor.

Every layout of optimum-neuron (column and row parallel, fused linears, grouped queries with repeated key/value heads)
comes down to a list of pieces along one axis; `neuron_checkpoint` reads the files, `consolidate` copies the pieces.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuron_ops.errors import CorruptArtifact, InvalidInput
from neuron_ops.weights.torch_zip import StoredTensor

Ranks = Sequence[Mapping[str, StoredTensor]]
"""The named tensors of each tensor-parallel rank."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows (axis 0) or columns (axis 1) `start` to `stop` of one rank's tensor."""

    tensor: StoredTensor
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Assembly:
    """One original tensor: pieces laid side by side along `axis`."""

    name: str
    axis: int
    pieces: tuple[Piece, ...]

    @property
    def dtype(self) -> str:
        return self.pieces[0].tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        shape = list(self.pieces[0].tensor.shape)
        if shape:
            shape[self.axis] = sum(piece.stop - piece.start for piece in self.pieces)
        return tuple(shape)


@dataclass(frozen=True, slots=True)
class Replicas:
    """Two ranges that must hold the same bytes, because each stands for the same part of `name`."""

    name: str
    first: Piece
    second: Piece


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What undoing one layout gives."""

    assemblies: tuple[Assembly, ...]
    replicas: tuple[Replicas, ...] = ()
    consumed: frozenset[str] = frozenset()
    """The sharded names that need no further treatment."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """A layer that was trained as one, and the linear layers of the original model that it stands for."""

    layer: str
    linears: tuple[str, ...]


def whole(tensor: StoredTensor, axis: int = 0) -> Piece:
    return Piece(tensor, 0, tensor.shape[axis] if tensor.shape else 1)


def replicated(ranks: Ranks, key: str, names: Sequence[str]) -> Rebuilt:
    """A tensor that every rank holds in full; `names` are the original tensors it stands for."""
    first = whole(ranks[0][key])
    replicas = tuple(Replicas(key, first, whole(rank[key])) for rank in ranks[1:])
    return Rebuilt(tuple(Assembly(name, 0, (first,)) for name in names), replicas, frozenset([key]))


def partitioned(ranks: Ranks, key: str, axis: int, name: str) -> Rebuilt:
    """A tensor that is cut along `axis`, in the order of the ranks."""
    pieces = tuple(whole(rank[key], axis) for rank in ranks)
    return Rebuilt((Assembly(name, axis, pieces),), consumed=frozenset([key]))


@dataclass(frozen=True, slots=True)
class FusedLinears:
    """Several column-parallel linears in one: a rank holds its part of the first, then of the second, and so on."""

    fused: str
    linears: tuple[str, ...]
    sizes: tuple[int, ...]
    """Output sizes of the original linears."""

    @property
    def fusion(self) -> Fusion:
        return Fusion(self.fused, self.linears)

    def undo(self, ranks: Ranks) -> Iterator[Rebuilt]:
        for suffix in ("weight", "bias", "lora_B.weight", "lora_B.bias"):
            if f"{self.fused}.{suffix}" in ranks[0]:
                yield self._split(ranks, suffix)
        key = f"{self.fused}.lora_A.weight"
        if key in ranks[0]:
            yield replicated(ranks, key, [f"{linear}.lora_A.weight" for linear in self.linears])

    def _split(self, ranks: Ranks, suffix: str) -> Rebuilt:
        key = f"{self.fused}.{suffix}"
        local = [size // len(ranks) for size in self.sizes]
        if sum(local) != ranks[0][key].shape[0] or any(size % len(ranks) for size in self.sizes):
            raise CorruptArtifact(
                f"{key} has {ranks[0][key].shape[0]} rows on each of {len(ranks)} ranks, but the metadata says it "
                f"fuses {list(self.sizes)}. The files and the metadata are of different runs; save the "
                "checkpoint again."
            )
        assemblies = []
        start = 0
        for linear, rows in zip(self.linears, local, strict=True):
            pieces = tuple(Piece(rank[key], start, start + rows) for rank in ranks)
            assemblies.append(Assembly(f"{linear}.{suffix}", 0, pieces))
            start += rows
        return Rebuilt(tuple(assemblies), consumed=frozenset([key]))


@dataclass(frozen=True, slots=True)
class GroupedQueries:
    """Query, key and value with `repeat` copies of each key/value head, so that every rank has one.

    Slot s of key/value (rank r holds slots r*K*repeat/tp and following) is head s mod K; a rank's queries are those
    that attend to its slots. So queries, and the inputs of the output projection, are permuted by whole heads.
    """

    module: str
    qkv: str
    query: str
    key: str
    value: str
    output: str
    num_heads: int
    num_kv_heads: int
    repeat: int
    q_rows: int
    kv_rows: int

    @property
    def fusion(self) -> Fusion:
        linears = (self.query, self.key, self.value)
        return Fusion(f"{self.module}.{self.qkv}", tuple(f"{self.module}.{linear}" for linear in linears))

    def undo(self, ranks: Ranks) -> Iterator[Rebuilt]:
        prefix = f"{self.module}.{self.qkv}."
        for stem, suffix in (("", "weight"), ("", "bias"), ("lora_B.", "weight"), ("lora_B.", "bias")):
            yield from self._undo_qkv(ranks, prefix + stem, stem, suffix)
        if f"{prefix}lora_A.weight" in ranks[0]:
            linears = (self.query, self.key, self.value)
            names = [f"{self.module}.{linear}.lora_A.weight" for linear in linears]
            yield replicated(ranks, f"{prefix}lora_A.weight", names)
        for suffix in ("weight", "lora_A.weight"):
            name = f"{self.module}.{self.output}.{suffix}"
            if name in ranks[0]:
                yield Rebuilt((self._heads([whole(rank[name], 1) for rank in ranks], name, 1),), (), frozenset([name]))

    def _undo_qkv(self, ranks: Ranks, prefix: str, stem: str, suffix: str) -> Iterator[Rebuilt]:
        fused = next((n for n in (f"{prefix}{suffix}_qkv", f"{prefix}{suffix}") if n in ranks[0]), None)
        starts = (0, self.q_rows, self.q_rows + self.kv_rows)
        for linear, letter, start in zip((self.query, self.key, self.value), "qkv", starts, strict=True):
            key = fused or f"{prefix}{suffix}_{letter}"
            if key not in ranks[0]:
                continue
            rows = self.q_rows if letter == "q" else self.kv_rows
            self._check_rows(ranks[0][key], key, rows if fused is None else self.q_rows + 2 * self.kv_rows)
            begin = start if fused else 0
            pieces = [Piece(rank[key], begin, begin + rows) for rank in ranks]
            name = f"{self.module}.{linear}.{stem}{suffix}"
            if letter == "q":
                yield Rebuilt((self._heads(pieces, name, 0),), (), frozenset([key]))
            else:
                yield self._first_copy(pieces, name, key)

    def _check_rows(self, tensor: StoredTensor, key: str, rows: int) -> None:
        if tensor.shape[0] != rows:
            raise CorruptArtifact(
                f"{key} has {tensor.shape[0]} rows per rank, the metadata says {rows}. The files and the metadata are "
                "of different runs; save the checkpoint again."
            )

    def _first_copy(self, pieces: Sequence[Piece], name: str, key: str) -> Rebuilt:
        """Keep the first of the `repeat` copies; the others must equal it."""
        slots_per_rank = self.num_kv_heads * self.repeat // len(pieces)
        slots = [part for piece in pieces for part in _divide(piece, slots_per_rank)]
        kept = slots[: self.num_kv_heads]
        replicas = tuple(
            Replicas(key, kept[slot % self.num_kv_heads], slots[slot]) for slot in range(self.num_kv_heads, len(slots))
        )
        return Rebuilt((Assembly(name, 0, tuple(kept)),), replicas, frozenset([key]))

    def _heads(self, pieces: Sequence[Piece], name: str, axis: int) -> Assembly:
        """Put query heads, which lie in the order of `head_order`, back into their own order."""
        heads = [part for piece in pieces for part in _divide(piece, self.num_heads // len(pieces))]
        order = head_order(len(pieces), self.num_heads, self.num_kv_heads, self.repeat)
        placed = sorted(zip(order, heads, strict=True), key=lambda pair: pair[0])
        return Assembly(name, axis, tuple(piece for _, piece in placed))


def head_order(num_ranks: int, num_heads: int, num_kv_heads: int, repeat: int) -> list[int]:
    """The original number of each query head, in the order in which the ranks hold them."""
    slots = num_kv_heads * repeat // num_ranks
    group = num_heads // (num_kv_heads * repeat)
    order: list[int] = []
    for rank in range(num_ranks):
        for slot in range(rank * slots, (rank + 1) * slots):
            first = (slot % num_kv_heads) * (num_heads // num_kv_heads) + (slot // num_kv_heads) * group
            order += range(first, first + group)
    return order


def _divide(piece: Piece, parts: int) -> list[Piece]:
    size, rest = divmod(piece.stop - piece.start, parts)
    if rest:
        raise CorruptArtifact(
            f"{piece.tensor.path}: {piece.stop - piece.start} rows or columns can't be divided into {parts} heads. The "
            "files and the metadata are of different runs; save the checkpoint again."
        )
    return [Piece(piece.tensor, piece.start + part * size, piece.start + (part + 1) * size) for part in range(parts)]


Layout = FusedLinears | GroupedQueries


def parse_spec(module: str, kind: str, fields: Mapping[str, Any], num_ranks: int) -> Layout:
    """One transformation of the metadata; a kind or a variant that is not known is refused, not guessed.

    Raises:
        InvalidInput: it is not known.
        CorruptArtifact: it was made for another number of ranks.
    """
    if fields.get("tp_size", num_ranks) != num_ranks:
        raise CorruptArtifact(
            f"{module}: the metadata says {fields['tp_size']} tensor-parallel ranks, the folder has files of "
            f"{num_ranks}. Copy the whole checkpoint again."
        )
    if kind == "FusedLinearsSpec" and fields.get("fuse_axis") in (0, "column"):
        linears = tuple(f"{module}.{name}" for name in fields["linear_names"])
        return FusedLinears(
            f"{module}.{fields['fused_linear_name']}", linears, tuple(map(int, fields["original_dims"]))
        )
    if kind == "GQAQKVColumnParallelLinearSpec":
        return _parse_grouped_queries(module, fields)
    raise InvalidInput(
        f"{module} was sharded by {kind} with {dict(fields)}, which can't be undone here; known are FusedLinearsSpec "
        "along axis 0 and GQAQKVColumnParallelLinearSpec. Consolidate it with the optimum-neuron that wrote it."
    )


def _parse_grouped_queries(module: str, fields: Mapping[str, Any]) -> GroupedQueries:
    return GroupedQueries(
        module=module,
        qkv=fields["gqa_qkv_projection_name"],
        query=fields["query_projection_name"],
        key=fields["key_projection_name"],
        value=fields["value_projection_name"],
        output=fields["output_projection_name"],
        num_heads=fields["num_attention_heads"],
        num_kv_heads=fields["num_key_value_heads"],
        repeat=fields["kv_size_multiplier"],
        q_rows=fields["q_output_size_per_partition"],
        kv_rows=fields["kv_output_size_per_partition"],
    )
