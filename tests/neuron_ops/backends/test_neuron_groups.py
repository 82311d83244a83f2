"""Which ranks share what: the groups of neuronx-distributed, and where they sum gradients of different heads."""

from dataclasses import replace

import pytest

from neuron_ops.backends.instances import INSTANCES
from neuron_ops.backends.neuron_groups import key_value_groups, sums_other_heads, tensor_parallel_groups

TRN1, TRN2 = INSTANCES["trn1.32xlarge"], INSTANCES["trn2.48xlarge"]
EIGHT_CORES = replace(TRN1, devices=4)


def test_four_ranks_of_trn1_are_spread_over_the_node_and_their_head_groups_are_not() -> None:
    """As neuronx-distributed 0.15 was seen to make them on eight ranks."""
    assert tensor_parallel_groups(4, EIGHT_CORES) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert key_value_groups(4, 2, EIGHT_CORES) == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert tensor_parallel_groups(4, TRN1)[1] == [1, 9, 17, 25]


def test_thirty_two_ranks_of_trn2_are_two_rows_of_chips() -> None:
    outer, inner = tensor_parallel_groups(32, TRN2)

    assert outer == [*range(16), *range(48, 64)]
    assert inner == list(range(16, 48))


@pytest.mark.parametrize(("ranks", "heads"), [(8, 2), (16, 8), (32, 8), (32, 1)])
def test_copies_of_a_head_are_summed_with_one_another_on_trn1(ranks: int, heads: int) -> None:
    assert not sums_other_heads(ranks, heads, TRN1)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("cores", [8, 16, 32, 64])
def test_four_ranks_sum_other_heads_wherever_a_node_has_more_of_them(cores: int, heads: int) -> None:
    assert sums_other_heads(4, heads, replace(TRN1, devices=cores // 2))
    assert not sums_other_heads(4, heads, replace(TRN1, devices=2)), "four cores are one group"


@pytest.mark.parametrize("ranks", [16, 32, 64])
def test_trn2_sums_neighbours_which_hold_other_heads(ranks: int) -> None:
    assert sums_other_heads(ranks, 8, TRN2)
