"""The asset checks: which properties each step must have established.

The steps decide and write the results into their manifests; here they are only declared, so that Dagster knows them
before the first run. They are checks of the producing asset: in the cluster a check of its own would be another pod.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from dagster import AssetCheckResult, AssetCheckSeverity, AssetCheckSpec

from fine_tune_assets.metadata import readable
from neuron_ops.store.artifacts import Manifest


@dataclass(frozen=True, slots=True)
class Check:
    """A property of an artifact, by the name under which its step reports it."""

    name: str
    description: str
    blocking: bool = True


CHECKS: dict[str, tuple[Check, ...]] = {
    "tokenized_dataset": (
        Check("answers_are_in_the_loss", "Every row has an answer in the loss, ending with the end-of-turn token."),
    ),
    "lora_checkpoints": (
        Check("held_out_loss_fell", "The best checkpoint's held-out loss is below the base model's.", blocking=False),
        Check("no_graph_was_compiled", "Every graph came from compiled_graph_cache.", blocking=False),
    ),
    "consolidated_weights": (Check("adapter_is_complete", "Every targeted layer has both factors, and no other has."),),
    "merged_model": (
        Check("changed_tensors_are_the_targets", "Exactly the tensors that the adapter targets differ from the base."),
        Check("untouched_bytes_are_the_bases", "Every other byte of the weights equals the base model's."),
    ),
    "evaluation": (
        Check("better_than_base", "Held-out loss is lower than the base model's: a worse model is stopped here."),
        Check("merged_equals_base_plus_adapter", "The merged weights compute what base and adapter compute."),
    ),
}


def specs(artifact: str) -> list[AssetCheckSpec]:
    """Dagster's declaration of an artifact's checks."""
    return [
        AssetCheckSpec(check.name, asset=artifact, description=check.description, blocking=check.blocking)
        for check in CHECKS.get(artifact, ())
    ]


def results(manifest: Manifest) -> Iterator[AssetCheckResult]:
    """What the step found, from its manifest; the same whether it ran now or long ago."""
    for record in manifest.checks:
        yield AssetCheckResult(
            check_name=record.name,
            passed=record.passed,
            severity=AssetCheckSeverity.ERROR if record.blocking else AssetCheckSeverity.WARN,
            description=record.description,
            metadata={name: readable(value) for name, value in record.values.items()},
        )
