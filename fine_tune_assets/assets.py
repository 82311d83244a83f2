"""The assets: one for each step, and the raw dataset that a data team delivers."""

from dataclasses import dataclass

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    AssetSpec,
    Backoff,
    DataVersion,
    MaterializeResult,
    ResourceParam,
    RetryPolicy,
    asset,
)

from fine_tune_assets import checks
from fine_tune_assets.launching import ensure
from fine_tune_assets.metadata import metadata
from fine_tune_assets.partitions import DATASET_VERSIONS
from fine_tune_assets.resources import FineTuning
from neuron_ops.steps.table import RAW_DATASET, STEPS, Step, upstream

OWNERS = ["team:fine-tuning"]
ACCELERATOR_POOL = "accelerator"
"""Concurrency pool of the steps that book an accelerator; its limit is set on the Dagster instance."""

# A killed pod or process costs at most what was done since the last checkpoint, so trying again is cheap.
RETRIES = RetryPolicy(max_retries=2, delay=5, backoff=Backoff.EXPONENTIAL)


@dataclass(frozen=True, slots=True)
class Look:
    """How an asset presents itself in the UI."""

    group: str
    """inputs, training or model: in this order, so that the groups' own graph has no cycle."""
    kinds: frozenset[str]
    description: str


LOOKS: dict[str, Look] = {
    "base_model": Look(
        "inputs",
        frozenset({"huggingface", "safetensors"}),
        "The published base model, byte for byte: a Hugging Face repository at one commit, a folder, or S3.",
    ),
    "tokenized_dataset": Look(
        "training",
        frozenset({"huggingface", "arrow"}),
        "The dataset version as token sequences of one length: chat template, loss on answers only, held-out split, "
        "packed. Its report shows counts, rejected rows and samples with the mask.",
    ),
    "compiled_graph_cache": Look(
        "training",
        frozenset({"pytorch", "neuron"}),
        "The compiled graphs that training needs, shared by every dataset version with the same graph.",
    ),
    "lora_checkpoints": Look(
        "training",
        frozenset({"pytorch", "peft"}),
        "LoRA checkpoints of one training, with everything that exact resume needs; the best one by held-out loss.",
    ),
    "consolidated_weights": Look(
        "model",
        frozenset({"peft", "safetensors"}),
        "The best checkpoint as one PEFT adapter folder that names its base model by id and revision.",
    ),
    "merged_model": Look(
        "model",
        frozenset({"huggingface", "safetensors"}),
        "A complete Hugging Face model folder: the base with the adapter merged in, tokenizer and template included.",
    ),
    "evaluation": Look(
        "model",
        frozenset({"huggingface", "pytorch"}),
        "Held-out loss and answers of the merged model beside its base. A model that is worse is stopped here.",
    ),
}

raw_dataset = AssetSpec(
    RAW_DATASET,
    description=(
        "A dataset version as a data team delivers it: rows as JSON lines or Parquet, and a marker written last. "
        "Immutable; made outside this graph."
    ),
    group_name="inputs",
    kinds={"json"},
    owners=OWNERS,
    partitions_def=DATASET_VERSIONS,
)


def build_asset(step: Step) -> AssetsDefinition:
    """The asset that a step of the table makes."""
    look = LOOKS[step.artifact]

    @asset(
        name=step.artifact,
        deps=list(upstream(step)),
        partitions_def=DATASET_VERSIONS if step.partitioned else None,
        group_name=look.group,
        kinds=set(look.kinds),
        owners=OWNERS,
        description=look.description,
        code_version=step.code_version,
        check_specs=checks.specs(step.artifact),
        retry_policy=RETRIES,
        pool=ACCELERATOR_POOL if step.needs_accelerator else None,
    )
    def materialize(context: AssetExecutionContext, fine_tuning: ResourceParam[FineTuning]) -> MaterializeResult:  # type: ignore[type-arg]
        artifact, reused = ensure(context, step, fine_tuning)
        return MaterializeResult(
            metadata=metadata(artifact, reused),
            data_version=DataVersion(artifact.manifest.digest),
            check_results=list(checks.results(artifact.manifest)),
        )

    return materialize


def build_assets() -> list[AssetsDefinition | AssetSpec]:
    """The whole graph."""
    return [raw_dataset, *(build_asset(step) for step in STEPS)]
