"""A gate before a checkpoint counts: what tensor-parallel ranks hold copies of must be the same in every copy.

Under tensor parallelism half of a LoRA adapter is cut between the ranks and half is copied to all. When the gradients
of the copied half are not summed over the ranks, the copies drift apart, every loss looks healthy, and no consolidated
adapter equals the model that was trained. So it is compared, bit by bit, each time.
"""

from pathlib import Path

from neuron_ops.errors import CorruptArtifact, InvalidInput
from neuron_ops.weights.neuron_checkpoint import read_neuron_checkpoint
from neuron_ops.weights.replicas import check_replicas


def check_adapter_replicas(adapter: Path) -> None:
    """Compare the copies in an adapter that was just saved; an adapter in one piece has none.

    Raises:
        InvalidInput: copies differ.
    """
    for shards in sorted(adapter.glob("adapter_*/adapter_shards")):
        name = shards.parent.name.removeprefix("adapter_")
        try:
            check_replicas(read_neuron_checkpoint(shards, name))
        except CorruptArtifact as error:
            # Bytes just written are not damaged: the training itself went wrong, and another try would do the same.
            raise InvalidInput(f"The checkpoint is not published. {error}") from error
