"""What tests of several ranks have each rank do; the fork server calls one of these in every process."""

import json
from pathlib import Path

import torch
import torch.distributed as dist

from neuron_ops.errors import InvalidInput
from neuron_ops.training.ranks import Ranks


def _open() -> Ranks:
    dist.init_process_group("gloo")
    return Ranks()


def _write(folder: str, ranks: Ranks, found: object) -> None:
    Path(folder, f"{ranks.rank}.json").write_text(json.dumps(found))


def share_words(folder: str) -> None:
    """The first rank's word, then a longer one, then none."""
    ranks = _open()
    words = [f"decided by {ranks.rank}", "é" * 5000, ""]
    _write(folder, ranks, [ranks.from_first(lambda word=word: word) for word in words])


def gather(folder: str) -> None:
    """A tensor of every rank, on every rank."""
    ranks = _open()
    _write(folder, ranks, [tensor.tolist() for tensor in ranks.gather(torch.full((2,), ranks.rank))])


def fail_on_the_first() -> None:
    """The first rank refuses; no rank may go on."""
    ranks = _open()

    def refuse() -> str:
        raise InvalidInput("the first rank refuses")

    ranks.from_first(refuse)
    raise AssertionError("went on")
