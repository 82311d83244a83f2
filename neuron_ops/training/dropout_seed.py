"""What dropout draws: a pure function of (seed, step, rank), so a checkpoint needs no state of any generator.

A generator's state cannot be saved on every device: on Trainium each synchronization moves it, and saving synchronizes.
So the loop sets every generator at the start of each step.
"""

import numpy as np

LOWEST, HIGHEST = 2, 2**31 - 1
"""Zero and one are constants of a lazy device's graph, so a seed of 0 or 1 could be another graph; a larger one fits no
signed 32-bit number."""


def dropout_seed(seed: int, step: int, data_parallel_rank: int) -> int:
    """Seed of every generator of a data-parallel rank in step `step` (from 0), from LOWEST to HIGHEST."""
    # The ranks that share a layer must draw the same, so only the data-parallel rank counts.
    return int(np.random.default_rng([seed, step, data_parallel_rank]).integers(LOWEST, HIGHEST, endpoint=True))
