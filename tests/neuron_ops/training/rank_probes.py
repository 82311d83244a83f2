"""What tests of several ranks have each rank do; the fork server calls one of these in every process."""

import json
import tempfile
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from neuron_ops.backends import open_backend
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.file import load_recipe
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.artifacts import ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets
from neuron_ops.training.checkpoints import Checkpoints
from neuron_ops.training.history import History
from neuron_ops.training.ranks import Ranks
from neuron_ops.training.state import new_state


def _open() -> Ranks:
    dist.init_process_group("gloo")
    return Ranks()


def _write(folder: str, ranks: Ranks, found: object) -> None:
    Path(folder, f"{ranks.rank}.json").write_text(json.dumps(found))


def share_words(folder: str) -> None:
    """The first rank's word, then a longer one, then none."""
    ranks = _open()
    words = [f"decided by {ranks.rank}", "é" * 5000, ""]
    _write(folder, ranks, [ranks.from_first(partial(str, word)) for word in words])


def fail_on_the_first() -> None:
    """The first rank refuses; no rank may go on."""
    ranks = _open()

    def refuse() -> str:
        raise InvalidInput("the first rank refuses")

    ranks.from_first(refuse)
    raise AssertionError("went on")


def save_from_two_nodes(recipe: str, store_url: str, raw_url: str, version: str, folder: str) -> None:
    """Save and restore a checkpoint with a temporary folder for each rank, and a listing that the second one lacks."""
    store = ArtifactStore(store_url)
    lineage = Lineage(load_recipe(recipe), store, RawDatasets(raw_url), version)
    backend = open_backend(lineage.recipe)
    ranks = Ranks()
    checkpoints = Checkpoints(store, lineage.provenance("lora_checkpoints"), backend, ranks)
    tempfile.tempdir = str(Path(folder, f"node-{ranks.rank}"))
    Path(tempfile.tempdir).mkdir()
    state = new_state(backend, Path(lineage.require("base_model").location), lineage.recipe)
    folders: list[str] = []
    save_adapter = backend.save_adapter

    def noting(model: torch.nn.Module, folder: Path) -> None:
        folders.append(str(folder))
        save_adapter(model, folder)

    backend.save_adapter = noting  # type: ignore[method-assign]
    checkpoints.save(2, state, History([{"step": 2, "eval_loss": 4.0}]))
    if ranks.rank == 1:
        checkpoints._names = list  # type: ignore[method-assign]
    restored, _ = checkpoints.restore_newest(state)
    left = [path.name for path in Path(tempfile.tempdir).rglob("*")]
    _write(folder, ranks, {"saved_to": folders, "restored": restored, "left": left})
