"""`consolidate` makes `consolidated_weights`: the best checkpoint as one adapter folder that PEFT loads.

Choosing the checkpoint belongs here; turning shards into one adapter belongs to weights/consolidation.
"""

import json
import logging
from pathlib import Path

from neuron_ops.steps import program
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.artifacts import Artifact
from neuron_ops.store.manifest import Address
from neuron_ops.weights.consolidation import BaseModelName, consolidate_checkpoint

log = logging.getLogger(__name__)


def build(lineage: Lineage, out: Path) -> program.StepResult:
    """Consolidate the checkpoint with the lowest held-out loss."""
    checkpoint = best_checkpoint(lineage)
    section = lineage.recipe.base_model
    name = BaseModelName(section.id, section.revision)
    with checkpoint.local() as folder:
        report = consolidate_checkpoint(folder / "adapter", out, base_model=name)
    log.info("consolidated %s from %s", report.kind, checkpoint.address)
    return program.StepResult(
        metrics={
            "kind": report.kind,
            "layout": report.layout,
            "tensors": report.num_tensors,
            "expected_tensors": _expected_tensors(lineage),
            "parameters": report.num_parameters,
            "checkpoint": str(checkpoint.address.part),
            "eval_loss": checkpoint.manifest.metrics["eval_loss"],
        },
    )


def best_checkpoint(lineage: Lineage) -> Artifact:
    """The checkpoint that `lora_checkpoints` names as best.

    Raises:
        MissingArtifact: the checkpoint has been removed.
    """
    training = lineage.require("lora_checkpoints")
    best = json.loads(training.read("best.json"))
    address = training.address
    return lineage.store.require(Address(address.artifact, address.fingerprint, address.dataset_version, best["part"]))


def _expected_tensors(lineage: Lineage) -> int:
    """Two factors for each target of the recipe, in every layer of the model."""
    layers = int(str(lineage.require("base_model").manifest.metrics["layers"]))
    return 2 * len(lineage.recipe.graph.lora.target_modules) * layers


if __name__ == "__main__":
    program.main("consolidate", build)
