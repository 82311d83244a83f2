"""`consolidate` makes `consolidated_weights`: the best checkpoint as one adapter folder that PEFT loads."""

import json
import logging
from pathlib import Path

from neuron_ops import cli
from neuron_ops.artifacts import Address, Artifact, CheckRecord
from neuron_ops.run import Run
from neuron_ops.weights.consolidation import BaseModelName, ConsolidateReport, consolidate_checkpoint
from neuron_ops.weights.lora import read_adapter

log = logging.getLogger(__name__)


def build(run: Run, out: Path) -> cli.Product:
    """Consolidate the checkpoint with the lowest held-out loss."""
    checkpoint = best_checkpoint(run)
    section = run.recipe.base_model
    name = BaseModelName(section.id, section.revision)
    with checkpoint.local() as folder:
        report = consolidate_checkpoint(folder / "adapter", out, base_model=name)
    log.info("consolidated %s from %s", report.kind, checkpoint.address)
    return cli.Product(
        metrics={
            "kind": report.kind,
            "layout": report.layout,
            "tensors": report.num_tensors,
            "parameters": report.num_parameters,
            "checkpoint": str(checkpoint.address.part),
            "eval_loss": checkpoint.manifest.metrics["eval_loss"],
        },
        checks=(_adapter_is_complete(run, out, report),),
    )


def best_checkpoint(run: Run) -> Artifact:
    """The checkpoint that `lora_checkpoints` names as best.

    Raises:
        MissingArtifact: it was removed since.
    """
    training = run.require("lora_checkpoints")
    best = json.loads(training.read("checkpoints.json"))["best"]
    address = training.address
    return run.store.require(Address(address.artifact, address.fingerprint, address.dataset_version, best["part"]))


def _adapter_is_complete(run: Run, out: Path, report: ConsolidateReport) -> CheckRecord:
    """Every layer that the recipe targets has two factors, in every layer of the model."""
    targets = run.recipe.graph.lora.target_modules
    layers = int(str(run.require("base_model").manifest.metrics["layers"]))
    expected = 2 * len(targets) * layers
    found = len(read_adapter(out).file.entries)
    return CheckRecord(
        name="adapter_is_complete",
        passed=found == expected,
        description=f"{found} factors for {len(targets)} targets in {layers} layers; {expected} were expected",
        values={"factors": found, "expected": expected},
    )


if __name__ == "__main__":
    cli.main("consolidate", build)
