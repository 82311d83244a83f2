"""The size of a decoder: the whole model, and the share of one tensor-parallel rank.

The decoder is like Llama's: grouped-query attention and a gated MLP; linear layers and norms have no bias. Shapes and
counts of parameters belong here; their names in a config.json belong to the family, bytes to `memory`, floating-point
operations to `duration`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuron_ops.errors import InvalidInput

SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""The linear layers of a decoder layer; those that read the same tensor are grouped."""


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer, or a rank's part of it."""

    inputs: int
    outputs: int

    @property
    def parameters(self) -> int:
        """Weights; there is no bias."""
        return self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The numbers that decide a model's size."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied_embeddings: bool

    def linears(self, ranks: int = 1) -> dict[str, Linear]:
        """The linear layers of one decoder layer, by the names that LoRA targets, as one of `ranks` holds them.

        Query, gate and up are split by their outputs, o and down by their inputs. Each rank has at least one key
        and value head: if there are more ranks than heads, several ranks hold copies of the same head.
        """
        queries = _share(self.heads, ranks) * self.head_dim
        keys = _share(self.kv_heads, ranks) * self.head_dim
        width = _share(self.intermediate, ranks)
        return {
            "q_proj": Linear(self.hidden, queries),
            "k_proj": Linear(self.hidden, keys),
            "v_proj": Linear(self.hidden, keys),
            "o_proj": Linear(queries, self.hidden),
            "gate_proj": Linear(self.hidden, width),
            "up_proj": Linear(self.hidden, width),
            "down_proj": Linear(width, self.hidden),
        }

    def parameters(self, ranks: int = 1) -> int:
        """Parameters on one rank: layers, both embeddings split by vocabulary, norms whole."""
        layer = sum(linear.parameters for linear in self.linears(ranks).values()) + 2 * self.hidden
        embeddings = (1 if self.tied_embeddings else 2) * _share(self.vocabulary, ranks) * self.hidden
        return self.layers * layer + embeddings + self.hidden

    def multiplied_parameters(self) -> int:
        """Parameters that each token is multiplied with: all but norms and the input embedding, which is looked up."""
        layer = sum(linear.parameters for linear in self.linears().values())
        return self.layers * layer + self.vocabulary * self.hidden


def read_number(config: Mapping[str, Any], name: str, where: str, default: int | None = None) -> int:
    """A size from a config.json; `where` names that file.

    Raises:
        InvalidInput: the number is missing and has no default, or is not a whole number of at least 1.
    """
    value = config.get(name)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInput(
            f"{where}: {name} is {value!r}, but it must be a whole number of at least 1. "
            "Fetch the base model again, or choose another."
        )
    return value


def _share(whole: int, ranks: int) -> int:
    return -(-whole // ranks)
