"""`consolidate` makes `consolidated_weights`: the best checkpoint as one adapter folder that PEFT loads."""

import json
import logging
from pathlib import Path

from neuron_ops.steps import program
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.artifacts import Address, Artifact, CheckRecord
from neuron_ops.weights.consolidation import BaseModelName, ConsolidateReport, consolidate_checkpoint
from neuron_ops.weights.lora import read_adapter

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
            "parameters": report.num_parameters,
            "checkpoint": str(checkpoint.address.part),
            "eval_loss": checkpoint.manifest.metrics["eval_loss"],
        },
        checks=(_adapter_is_complete(lineage, out, report),),
    )


def best_checkpoint(lineage: Lineage) -> Artifact:
    """The checkpoint that `lora_checkpoints` names as best.

    Raises:
        MissingArtifact: it was removed since.
    """
    training = lineage.require("lora_checkpoints")
    best = json.loads(training.read("checkpoints.json"))["best"]
    address = training.address
    return lineage.store.require(Address(address.artifact, address.fingerprint, address.dataset_version, best["part"]))


def _adapter_is_complete(lineage: Lineage, out: Path, report: ConsolidateReport) -> CheckRecord:
    """Every layer that the recipe targets has two factors, in every layer of the model."""
    targets = lineage.recipe.graph.lora.target_modules
    layers = int(str(lineage.require("base_model").manifest.metrics["layers"]))
    expected = 2 * len(targets) * layers
    found = len(read_adapter(out).file.entries)
    return CheckRecord(
        name="adapter_is_complete",
        passed=found == expected,
        description=f"{found} factors for {len(targets)} targets in {layers} layers; {expected} were expected",
        values={"factors": found, "expected": expected},
    )


if __name__ == "__main__":
    program.main("consolidate", build)
