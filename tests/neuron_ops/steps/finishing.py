"""Finished artifacts whose contents are the same whatever made them, so that only what an address names can move it."""

import json
from typing import Any

from neuron_ops.recipe.file import load_recipe
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import STEPS
from neuron_ops.store.artifacts import ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets
from tests.neuron_ops.conftest import publish_files
from tests.neuron_ops.planning.llama import LLAMA_8B_CONFIG

CONFIG = json.dumps(LLAMA_8B_CONFIG).encode()
# Every file that some step reads by name.
CONTENTS: dict[str, dict[str, bytes]] = {
    "base_model": {"config.json": CONFIG, "tokenizer.json": b"{}"},
    "tokenized_dataset": {"chat_template.jinja": b"{{ messages }}", "special_tokens.json": b"{}"},
    "lora_checkpoints": {"best.json": b"{}"},
}


def open_lineage(recipe: str, store: str, raw: str, version: str, overrides: dict[str, Any] | None = None) -> Lineage:
    """A recipe on a store."""
    return Lineage(load_recipe(recipe, overrides), ArtifactStore(store), RawDatasets(raw), version)


def finish_all(lineage: Lineage, manifests: dict[str, dict[str, Any]] | None = None) -> dict[str, str]:
    """Publish what is not there yet, in the order of the table; the address of every artifact.

    `manifests` are fields of an artifact's manifest, by artifact.
    """
    addresses = {}
    for step in STEPS:
        wanted = lineage.require_inputs(step.artifact)
        if lineage.store.find(wanted.address) is None:
            contents = CONTENTS.get(step.artifact, {"content": step.artifact.encode()})
            fields = {"reads": wanted.reads, "inputs": wanted.inputs, **(manifests or {}).get(step.artifact, {})}
            publish_files(lineage.store, wanted.address, contents, **fields)
        addresses[step.artifact] = str(wanted.address)
    return addresses
