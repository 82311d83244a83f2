"""What dropout draws: decided by seed, step and data-parallel rank, so nothing of a generator needs saving."""

import itertools

from neuron_ops.training.dropout_seed import HIGHEST, LOWEST, dropout_seed


def test_every_step_and_rank_of_every_seed_draws_something_else() -> None:
    places = list(itertools.product(range(3), range(100), range(8)))

    seeds = {dropout_seed(*place) for place in places}

    assert len(seeds) == len(places)


def test_one_place_is_one_seed_for_ever() -> None:
    assert dropout_seed(seed=42, step=7, data_parallel_rank=3) == 942065922


def test_every_seed_fits_every_generator() -> None:
    """Zero and one are constants of a lazy device's graph; more than 31 bits are more than a signed int32 holds."""
    seeds = [dropout_seed(42, step, 0) for step in range(1000)]

    assert LOWEST > 1
    assert HIGHEST < 2**31
    assert all(LOWEST <= seed <= HIGHEST for seed in seeds)
