"""The recipe of one fine-tuning: six sections, each field documented by the string under it, with its unit.

The allowed values belong here and to `graph`, the largest section; reading a file belongs to `file`, and the meaning of
a section to the step that reads it. `fine-tune recipe schema` shows the same strings.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from neuron_ops.recipe.graph import GraphSection
from neuron_ops.recipe.registered import Registered
from neuron_ops.recipe.section import Count, Fraction, Section
from neuron_ops.registry import BACKENDS, ROW_FORMATS

PACKAGE_SCHEME = "package:"


class BaseModelSection(Section):
    """Which published model is fine-tuned: a Hugging Face repository at a commit, or a folder."""

    repository: str | None = None
    """Hugging Face repository id, such as meta-llama/Llama-3.1-8B. Either this or `path`."""
    revision: str | None = None
    """Commit of `repository`: 40 hexadecimal digits. A branch name would change under a finished artifact."""
    path: str | None = None
    """Folder with the published files: a local path, s3://bucket/folder, or package:folder within neuron_ops."""
    name: str | None = None
    """Id of a model from `path`, for adapters and model cards. Needed only with `path`."""

    @field_validator("repository")
    @classmethod
    def _on_the_hub(cls, repository: str | None) -> str | None:
        word = r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?"
        well_formed = repository is None or re.fullmatch(rf"({word}/)?{word}", repository, flags=re.ASCII)
        if not well_formed or re.search(r"--|\.\.|\.git$", str(repository)):
            raise ValueError("must be the id of a Hugging Face repository, such as meta-llama/Llama-3.1-8B")
        return repository

    @field_validator("revision")
    @classmethod
    def _pinned(cls, revision: str | None) -> str | None:
        if revision is not None and not re.fullmatch(r"[0-9a-f]{40}", revision):
            raise ValueError("must be a full commit id (40 hexadecimal digits), not a branch or a tag")
        return revision

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.repository is None) == (self.path is None):
            raise ValueError("give either repository (with revision) or path (with name)")
        if self.repository is not None and self.revision is None:
            raise ValueError("repository needs revision, the commit to fetch")
        if self.path is not None and self.name is None:
            raise ValueError("path needs name, the id for model cards and adapters")
        return self

    @property
    def id(self) -> str:
        """The name by which adapters and cards refer to the model; never a path on one machine."""
        name = self.repository or self.name
        assert name is not None, "the validator requires one of them"
        return name


class DatasetSection(Section):
    """How raw rows become token rows."""

    format: Annotated[str, Registered(ROW_FORMATS, described_by="FORMAT")] = "dolly"
    """Which columns the raw rows have, and how they become conversations."""
    chat_template: Literal["model", "llama3"] = "model"
    """Template that renders conversations: the base model's own, or ours in Llama 3's layout for bases without one."""
    pad_token: str | None = None
    """Token that pads sequences, for base models whose tokenizer names none; never the end-of-turn token."""
    system_prompt: str = ""
    """System message rendered before every conversation; none when empty."""
    holdout_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.05
    """Share of rows kept out of training and used for evaluation, chosen by a hash of each row."""
    overlong: Literal["error", "drop"] = "error"
    """What to do with a row that has more tokens than graph.sequence_length: stop, or drop and count it."""
    max_rejected_fraction: Fraction = 0.05
    """Largest share of rows that may be rejected (duplicates, empty answers, overlong rows) before the step fails."""
    packing: bool = True
    """Pack several rows into one sequence, positions restarting at each. False: one row per sequence, padded."""


class TrainingSection(Section):
    """The optimizer, its schedule, evaluations and checkpoints."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seed of initialization, dropout and data order."""
    max_steps: Annotated[int, Field(ge=1, lt=1_000_000)] | None = None
    """Optimizer steps. Either this or `num_train_epochs`; `fine-tune plan` shows how many epochs this is."""
    num_train_epochs: Annotated[float, Field(gt=0.0, le=1000.0)] | None = None
    """Passes over the training rows, instead of `max_steps`; the number of steps is rounded up. For a recipe that gives
    steps, set both: `--set training.num_train_epochs=2 --set training.max_steps=null`."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 2e-4
    """Peak learning rate of AdamW."""
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "cosine"
    """Learning rate after warm-up: linear or cosine down to zero at the last step, or constant."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps over which the learning rate rises linearly to its peak."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled weight decay of AdamW."""
    adam_beta1: Fraction = 0.9
    """Decay of AdamW's first moment."""
    adam_beta2: Fraction = 0.999
    """Decay of AdamW's second moment."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Gradients are scaled down to this global 2-norm if they exceed it."""
    logging_steps: Count = 10
    """Steps between two lines of progress."""
    eval_steps: Count = 100
    """Steps between two evaluations on the held-out rows. The last step is always evaluated."""
    save_steps: Count = 100
    """Steps between two checkpoints; a multiple of eval_steps, so that each has an evaluation loss."""
    save_total_limit: Count = 2
    """Checkpoints that are kept, including the best one. With 1, the newest is kept in addition to the best one."""
    early_stopping_patience: Count | None = None
    """Evaluations in a row without a lower held-out loss after which training stops; null: never."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.save_steps % self.eval_steps:
            raise ValueError(
                f"save_steps ({self.save_steps}) must be a multiple of eval_steps "
                f"({self.eval_steps}), so that every checkpoint has an evaluation loss"
            )
        if self.max_steps is None and self.num_train_epochs is None:
            raise ValueError("neither max_steps nor num_train_epochs is given; give one of them")
        if self.max_steps is not None and self.num_train_epochs is not None:
            raise ValueError(
                "max_steps and num_train_epochs are both given; set one of them to null "
                "(for epochs: --set training.max_steps=null)"
            )
        if self.max_steps is not None and self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be below max_steps ({self.max_steps})")
        return self


class HardwareSection(Section):
    """What training runs on. This section alone decides processes, cores, pod limits and node selectors."""

    backend: Annotated[str, Registered(BACKENDS)] = "cpu"
    """Where the training loop runs."""
    instance_type: str | None = None
    """EC2 instance type, such as trn1.32xlarge; needed by neuron, which derives its processes from it."""
    nodes: Count = 1
    """Machines that train together."""
    processes: Count | None = None
    """Processes per node for cpu and cuda (default 1). neuron starts one per core of the instance."""
    threads: Count = 1
    """CPU threads of each process. Fixed, so that sums, and with them weights, do not depend on a machine's cores."""
    tensor_parallel_size: Count = 1
    """Ranks that share each layer."""
    pipeline_parallel_size: Count = 1
    """Groups of layers on different ranks."""
    stall_minutes: Annotated[float, Field(gt=0.0)] = 30.0
    """A training fails if no micro-batch ends for this long, instead of waiting in a collective forever."""
    multi_node: Literal["indexed_job", "pytorch_job"] = "indexed_job"
    """How several nodes run on Kubernetes: as an Indexed Job, or a Kubeflow PyTorchJob if its operator is installed."""
    max_restarts: Annotated[int, Field(ge=0, le=20)] = 3
    """How often a step on several nodes starts again, a training from its last checkpoint, before it fails."""
    usd_per_hour: Annotated[float, Field(ge=0.0)] | None = None
    """Price of one node, used only by `fine-tune plan`; null: the instance type's published on-demand price."""


class EvaluationSection(Section):
    """How the merged model is judged against its base."""

    prompts: Annotated[int, Field(ge=1, le=64)] = 4
    """Held-out prompts answered by both models in the report."""
    max_new_tokens: Count = 64
    """Longest answer, in tokens."""
    threads: Count = 1
    """CPU threads. With one, an 8B model takes a day or two. Their number changes only the last digits of a loss."""
    min_improvement: float = 0.0
    """The gate: held-out loss must fall by more than this many nats per token, or the model is stopped."""


class Recipe(Section):
    """One fine-tuning, from base model to verdict."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
    """Name of the recipe, for people; it changes no artifact's address."""
    base_model: BaseModelSection
    """The published model."""
    dataset: DatasetSection = DatasetSection()
    """How raw rows become token rows."""
    graph: GraphSection = GraphSection()
    """What is compiled."""
    training: TrainingSection
    """How the adapter is trained."""
    hardware: HardwareSection = HardwareSection()
    """What training runs on."""
    evaluation: EvaluationSection = EvaluationSection()
    """How the merged model is judged."""

    def to_json(self) -> str:
        """The recipe with every default spelled out; `load_recipe` reads it back."""
        return self.model_dump_json(indent=2)


def package_path(path: str) -> Path | None:
    """`package:demo/model` as a folder of this package, wherever that is installed; None for any other path."""
    if not path.startswith(PACKAGE_SCHEME):
        return None
    return Path(__file__).parent.parent / path.removeprefix(PACKAGE_SCHEME)
