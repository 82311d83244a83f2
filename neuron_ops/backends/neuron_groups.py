"""Which ranks share what under tensor parallelism, as neuronx-distributed 0.15 groups them (parallel_state.py).

Read in its source and compared with its functions; numbers only, so a plan can ask. What is refused because of it
belongs to neuron_refusals.
"""

from neuron_ops.backends.instances import Instance

Groups = list[list[int]]
"""Ranks of one node; a group never spans two."""

LOCAL_TP = 4
"""On trn1 the ranks of a group of four are spread over the node, each beside another group's."""
ROWS_TP, ROWS = 32, 4
"""On trn2, whose chips form four rows, a group of 32 is the first and the last row or the two between them."""


def tensor_parallel_groups(ranks: int, instance: Instance) -> Groups:
    """Groups of `ranks` cores, each in the order of tensor-parallel ranks."""
    cores = instance.cores
    if instance.chip == "trn1" and ranks == LOCAL_TP:
        return [list(range(first, cores, cores // ranks)) for first in range(cores // ranks)]
    groups = [list(range(first, first + ranks)) for first in range(0, cores, ranks)]
    if instance.chip == "trn2" and ranks == ROWS_TP and cores == ROWS * ROWS_TP // 2:
        (first, second), (third, last) = ([group[:16], group[16:]] for group in groups)
        return [first + last, second + third]
    return groups


def key_value_groups(ranks: int, heads: int, instance: Instance) -> Groups:
    """Groups over which gradients of copied key and value heads are summed: as if each tensor-parallel group were
    neighbours."""
    copies = ranks // heads
    groups = []
    for first in range(0, instance.cores, ranks):
        places = range(first, first + ranks)
        if instance.chip == "trn2":
            groups += [list(places[head * copies : (head + 1) * copies]) for head in range(heads)]
        else:
            groups += [list(places[head::heads]) for head in range(heads)]
    return groups


def sums_other_heads(ranks: int, heads: int, instance: Instance) -> bool:
    """Whether a gradient of a key or value head is summed with another head's, or with another group's share of rows.

    `heads` divides `ranks`; optimum-neuron gives tensor-parallel rank t the copy of head t modulo `heads`.
    """
    held = {
        rank: (index, place % heads)
        for index, group in enumerate(tensor_parallel_groups(ranks, instance))
        for place, rank in enumerate(group)
    }
    return any(len({held[rank] for rank in group}) > 1 for group in key_value_groups(ranks, heads, instance))
