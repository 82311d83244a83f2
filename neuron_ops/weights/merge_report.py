"""What a merge did, in a form that a later reader can check again."""

from dataclasses import dataclass

from neuron_ops.weights.byte_ranges import FileDigest


@dataclass(frozen=True, slots=True)
class ChangedTensor:
    """A tensor that the adapters target."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    """First byte in the result's file."""
    end: int
    base_start: int
    """First byte in the base's file (for a separated output head: of its embedding)."""
    delta_norm: float
    """Frobenius norm of the change before it is rounded."""
    max_abs_error: float
    """No weight is farther than this from the exact sum: the rounding, and the bound of the fp32 arithmetic."""


@dataclass(frozen=True, slots=True)
class UntouchedRange:
    """Bytes that are the base's: everything between two changed tensors, headers included."""

    file: str
    start: int
    """First byte in the result's file."""
    base_start: int
    length: int


@dataclass(frozen=True, slots=True)
class MergeReport:
    """A finished merge, or with `dry_run` the one that would be made."""

    dry_run: bool
    changed: tuple[ChangedTensor, ...]
    untouched: tuple[UntouchedRange, ...]
    files: tuple[FileDigest, ...]
    unchanged_copies: tuple[str, ...]
    """Tensors that an adapter holds in full, but equal to the base's."""
    added: tuple[str, ...]
    """lm_head.weight, where the output head had to be separated from the embedding."""
    left_out: tuple[str, ...]
    """Files of the base that hold its weights in another format, and its model card."""

    @property
    def max_abs_error(self) -> float:
        return max((tensor.max_abs_error for tensor in self.changed), default=0.0)

    @property
    def bytes_computed(self) -> int:
        return sum(tensor.end - tensor.start for tensor in self.changed)

    @property
    def bytes_copied(self) -> int:
        return sum(part.length for part in self.untouched)
