"""Shards of checkpoints that optimum-neuron's trainers wrote: where they lie, and reading them."""

from pathlib import Path

from neuron_ops.weights.neuron_checkpoint import NeuronCheckpoint, read_neuron_checkpoint
from neuron_ops.weights.replicas import check_replicas

FIXTURES = Path(__file__).parents[2] / "fixtures" / "neuron_checkpoints"
RANK_FILE = "model/dp_rank_00_tp_rank_0{}_pp_rank_00.pt"


def adapter_shards(case: str) -> Path:
    return FIXTURES / case / "checkpoint-4" / "adapter_default" / "adapter_shards"


def read(shards: Path) -> NeuronCheckpoint:
    checkpoint = read_neuron_checkpoint(shards, "default")
    check_replicas(checkpoint)
    return checkpoint
