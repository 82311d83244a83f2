"""The one table of steps: which program (verb) makes which artifact (noun), what decides it, and what is checked.

The fields that decide an artifact are named one by one: a change that matters makes a new artifact, any other change
reuses the old one, and a field that a later version adds changes no address. Computing addresses belongs to addresses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from neuron_ops import backends
from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps import verdicts
from neuron_ops.steps.checks import Check
from neuron_ops.steps.gates import GATES

RAW_DATASET = "raw_dataset"
PUBLISHED_MODEL = "published_model"
"""The source of base_model; not an artifact of this project, and not an asset."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True, slots=True)
class Input:
    """An artifact that a step reads, and which of its files decide the result (None: all of them)."""

    artifact: str
    files: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class AssetPresentation:
    """How an artifact appears as an asset in the UI."""

    group: str
    """inputs, training or model: in this order, so that the groups' own graph has no cycle."""
    kinds: frozenset[str]
    description: str


@dataclass(frozen=True, slots=True)
class Step:
    """A program `python -m neuron_ops.steps.<verb>` and the artifact that it makes."""

    verb: str
    artifact: str
    presentation: AssetPresentation
    code_version: str
    """Raised when the same inputs would give other contents."""
    inputs: tuple[Input, ...]
    decided_by: tuple[str, ...] = ()
    """Recipe fields, dotted, that decide the contents."""
    also_decided_by: Callable[[Recipe], tuple[str, ...]] = lambda recipe: ()
    """Fields that decide the contents only with some recipes."""
    derived: Callable[[Recipe], dict[str, Any]] = lambda recipe: {}  # Any: plain JSON
    """Values derived from the recipe that decide the contents: the layout of processes, versions of a compiler."""
    checks: tuple[Check, ...] = ()
    """Properties that the step establishes of its artifact."""
    waits_for: tuple[str, ...] = ()
    """Artifacts that must be finished first without deciding the contents."""
    partitioned: bool = True
    """Whether there is one artifact for each dataset version."""
    addressed_by_version: bool = True
    """Whether the address names the dataset version; without it, versions share the artifact."""
    needs_accelerator: bool = False
    """Whether the step runs on the recipe's hardware; the other steps must not."""
    launched_by_backend: bool = False
    """Whether the backend starts it (torchrun, one process per core) rather than a plain Python process."""
    nodes: Callable[[Recipe], int] = lambda recipe: 1
    """Number of the recipe's nodes that run the step together."""

    def fields(self, recipe: Recipe) -> tuple[str, ...]:
        """Every recipe field that decides the contents with this recipe."""
        return self.decided_by + self.also_decided_by(recipe)


DATASET = (
    "dataset.format",
    "dataset.chat_template",
    "dataset.pad_token",
    "dataset.system_prompt",
    "dataset.holdout_fraction",
    "dataset.overlong",
    "dataset.max_rejected_fraction",
    "dataset.packing",
)
GRAPH = (
    "graph.sequence_length",
    "graph.micro_batch_size",
    "graph.gradient_accumulation_steps",
    "graph.dtype",
    "graph.attn_implementation",
    "graph.gradient_checkpointing",
    "graph.torch_compile",
    "graph.lora.r",
    "graph.lora.lora_alpha",
    "graph.lora.lora_dropout",
    "graph.lora.target_modules",
)
TRAINING = (
    "training.seed",
    "training.max_steps",
    "training.num_train_epochs",
    "training.learning_rate",
    "training.lr_scheduler_type",
    "training.warmup_steps",
    "training.weight_decay",
    "training.adam_beta1",
    "training.adam_beta2",
    "training.max_grad_norm",
    # It decides which checkpoints the best one is chosen from. Each is evaluated when it is saved.
    "training.save_steps",
    "training.early_stopping_patience",
)
"""Without logging_steps, save_total_limit (the best checkpoint is always kept) and fields that only say how to run."""


def _evaluations_that_stop(recipe: Recipe) -> tuple[str, ...]:
    """Early stopping counts evaluations. Without it, eval_steps only decides how many points the loss curve has."""
    return () if recipe.training.early_stopping_patience is None else ("training.eval_steps",)


STEPS: tuple[Step, ...] = (
    Step(
        verb="fetch",
        artifact="base_model",
        presentation=AssetPresentation(
            "inputs",
            frozenset({"huggingface", "safetensors"}),
            "The published base model, byte for byte: a Hugging Face repository at one commit, a folder, or S3.",
        ),
        code_version="1",
        inputs=(Input(PUBLISHED_MODEL),),
        # The contents of a folder identify it: neither its path nor its name in the recipe matters.
        decided_by=("base_model.repository", "base_model.revision"),
        partitioned=False,
        addressed_by_version=False,
    ),
    Step(
        verb="prepare",
        artifact="tokenized_dataset",
        presentation=AssetPresentation(
            "training",
            frozenset({"huggingface", "arrow"}),
            "The dataset version as token sequences of one length: chat template, loss on answers only, held-out "
            "split, packed. Its report shows counts, rejected rows and samples with the mask.",
        ),
        code_version="1",
        inputs=(Input(RAW_DATASET), Input("base_model", TOKENIZER_FILES)),
        decided_by=(*DATASET, "graph.sequence_length"),
        checks=(
            Check(
                "answers_are_in_the_loss",
                "Every row has an answer in the loss, ending with the end-of-turn token.",
                from_metrics=verdicts.answers_are_in_the_loss,
            ),
        ),
    ),
    Step(
        verb="compile",
        artifact="compiled_graph_cache",
        presentation=AssetPresentation(
            "training",
            frozenset({"pytorch", "neuron"}),
            "The compiled graphs that training needs, shared by every dataset version with the same graph.",
        ),
        code_version="2",
        inputs=(Input("base_model", ("config.json",)),),
        decided_by=GRAPH,
        also_decided_by=backends.graph_fields,
        derived=backends.decides_graphs,
        addressed_by_version=False,
        needs_accelerator=True,
        nodes=lambda recipe: backends.warmup_layout(recipe).nodes,
    ),
    Step(
        verb="train",
        artifact="lora_checkpoints",
        presentation=AssetPresentation(
            "training",
            frozenset({"pytorch", "peft"}),
            "LoRA checkpoints of one training, with everything that exact resume needs; the best one by held-out loss.",
        ),
        code_version="3",
        inputs=(Input("tokenized_dataset"), Input("base_model")),
        decided_by=(*GRAPH, *TRAINING),
        also_decided_by=_evaluations_that_stop,
        derived=lambda recipe: {"layout": backends.layout(recipe).as_json()},
        checks=(
            Check(
                "held_out_loss_fell",
                "The best checkpoint's held-out loss is below the base model's.",
                blocking=False,
                from_metrics=verdicts.held_out_loss_fell,
            ),
            Check(
                "no_graph_was_compiled",
                "Every graph came from compiled_graph_cache.",
                blocking=False,
                from_metrics=verdicts.no_graph_was_compiled,
            ),
        ),
        waits_for=("compiled_graph_cache",),
        needs_accelerator=True,
        launched_by_backend=True,
        nodes=lambda recipe: recipe.hardware.nodes,
    ),
    Step(
        verb="consolidate",
        artifact="consolidated_weights",
        presentation=AssetPresentation(
            "model",
            frozenset({"peft", "safetensors"}),
            "The best checkpoint as one PEFT adapter folder that names its base model by id and revision.",
        ),
        code_version="1",
        inputs=(Input("lora_checkpoints", ("best.json",)), Input("base_model", ("config.json",))),
        decided_by=("base_model.repository", "base_model.revision", "base_model.name"),
        checks=(
            Check(
                "adapter_is_complete",
                "Every targeted layer has both factors, and no other has.",
                from_metrics=verdicts.adapter_is_complete,
            ),
        ),
    ),
    Step(
        verb="merge",
        artifact="merged_model",
        presentation=AssetPresentation(
            "model",
            frozenset({"huggingface", "safetensors"}),
            "A complete Hugging Face model folder: the base with the adapter merged in, tokenizer and template "
            "included.",
        ),
        code_version="3",
        inputs=(
            Input("base_model"),
            Input("consolidated_weights"),
            Input("tokenized_dataset", ("chat_template.jinja", "special_tokens.json")),
        ),
        # It decides whether the template is written in addition to the base's own.
        decided_by=("dataset.chat_template",),
        checks=(
            Check(
                "changed_tensors_are_the_targets",
                "Exactly the tensors that the adapter targets differ from the base.",
            ),
            Check("untouched_bytes_are_the_bases", "Every other byte of the weights equals the base model's."),
        ),
    ),
    Step(
        verb="evaluate",
        artifact="evaluation",
        presentation=AssetPresentation(
            "model",
            frozenset({"huggingface", "pytorch"}),
            "Held-out loss and answers of the merged model beside its base. A model that is worse is stopped here.",
        ),
        code_version="1",
        inputs=(
            Input("merged_model"),
            Input("consolidated_weights"),
            Input("base_model"),
            Input("tokenized_dataset"),
        ),
        # Not evaluation.threads: it changes a loss in its last digits and no verdict.
        decided_by=("evaluation.prompts", "evaluation.max_new_tokens", "evaluation.min_improvement", "graph.dtype"),
        checks=(
            *GATES,
            Check("merged_equals_base_plus_adapter", "The merged weights compute what base and adapter compute."),
        ),
    ),
)

BY_ARTIFACT = {step.artifact: step for step in STEPS}
BY_VERB = {step.verb: step for step in STEPS}


def upstream(step: Step) -> tuple[str, ...]:
    """Names of every artifact that must be finished before this step, the raw dataset included."""
    names = [item.artifact for item in step.inputs if item.artifact != PUBLISHED_MODEL]
    return tuple(dict.fromkeys([*names, *step.waits_for]))
