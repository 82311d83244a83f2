"""The names of recipe fields elsewhere: in earlier versions of this project, transformers, TRL, PEFT and Axolotl.

A recipe cannot use these names: a name with a slightly different meaning must not pass for ours. They only decide what
the error about an unknown field says; building the whole error belongs to `mistakes`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from pydantic import BaseModel

from neuron_ops.recipe.schema import Recipe


@dataclass(frozen=True, slots=True)
class Here:
    """The recipe field with the same meaning, or with the closest one."""

    field: str
    difference: str = ""
    """A clause on the difference, if the meaning is not quite the same."""

    def __str__(self) -> str:
        return f"use {self.field}: {self.difference}" if self.difference else f"it is called {self.field}"


SAME_LENGTH = "every sequence has exactly this length"
PER_RANK = "it counts per data-parallel rank, and tensor-parallel devices share one"
ONE_DTYPE = "one of float32 and bfloat16"
ATTENTION = "one of eager, sdpa and flash_attention_2"

FORMER = {
    "steps": Here("training.max_steps"),
    "schedule": Here("training.lr_scheduler_type"),
    "log_every": Here("training.logging_steps"),
    "evaluate_every": Here("training.eval_steps"),
    "checkpoint_every": Here("training.save_steps"),
    "keep_checkpoints": Here("training.save_total_limit"),
    "gradient_accumulation": Here("graph.gradient_accumulation_steps"),
    "attention": Here("graph.attn_implementation"),
    "alpha": Here("graph.lora.lora_alpha"),
    "dropout": Here("graph.lora.lora_dropout"),
    "tensor_parallel": Here("hardware.tensor_parallel_size"),
    "pipeline_parallel": Here("hardware.pipeline_parallel_size"),
}
"""Earlier versions of this project."""

TRANSFORMERS = {
    "run_name": Here("name"),
    "model_name_or_path": Here("base_model.repository", "with base_model.revision, the commit"),
    "max_length": Here("graph.sequence_length", SAME_LENGTH),
    "max_seq_length": Here("graph.sequence_length", SAME_LENGTH),
    "per_device_train_batch_size": Here("graph.micro_batch_size", PER_RANK),
    "per_device_eval_batch_size": Here("graph.micro_batch_size", "evaluation uses the same, so that it is one graph"),
    "bf16": Here("graph.dtype", ONE_DTYPE),
    "fp16": Here("graph.dtype", ONE_DTYPE),
    "torch_dtype": Here("graph.dtype", ONE_DTYPE),
    "warmup_ratio": Here("training.warmup_steps", "it counts optimizer steps"),
    "lr": Here("training.learning_rate"),
    "data_seed": Here("training.seed", "one seed is for initialization, dropout and data order"),
    "logging_strategy": Here("training.logging_steps", "it counts optimizer steps"),
    "eval_strategy": Here("training.eval_steps", "it counts optimizer steps"),
    "evaluation_strategy": Here("training.eval_steps", "it counts optimizer steps"),
    "save_strategy": Here("training.save_steps", "it counts optimizer steps"),
    "no_cuda": Here("hardware.backend", "cpu"),
    "use_cpu": Here("hardware.backend", "cpu"),
    "ddp_timeout": Here("hardware.stall_minutes", "it counts minutes, for one micro-batch"),
}
"""transformers' TrainingArguments, and what TRL's SFTConfig and ModelConfig add to it."""

PEFT = {
    "base_model_name_or_path": Here("base_model.repository", "with base_model.revision, the commit"),
    "rank": Here("graph.lora.r"),
    "lora_r": Here("graph.lora.r"),
    "lora_target_modules": Here("graph.lora.target_modules"),
}
"""PEFT's LoraConfig, and the names of its fields on common command lines."""

AXOLOTL = {
    "revision_of_model": Here("base_model.revision", "a commit, not a branch"),
    "datasets": Here("dataset.format", "the rows themselves are delivered with `fine-tune dataset add`"),
    "val_set_size": Here("dataset.holdout_fraction", "a share, chosen by a hash of each row"),
    "test_datasets": Here("dataset.holdout_fraction", "a share of the same rows is held out"),
    "default_system_message": Here("dataset.system_prompt"),
    "special_tokens": Here("dataset.pad_token", "the other special tokens are the base model's"),
    "excess_length_strategy": Here("dataset.overlong", "error or drop; no row is cut short"),
    "sample_packing": Here("dataset.packing"),
    "eval_sample_packing": Here("dataset.packing", "held-out rows are packed as the others are"),
    "sequence_len": Here("graph.sequence_length", SAME_LENGTH),
    "eval_batch_size": Here("graph.micro_batch_size", "evaluation uses the same, so that it is one graph"),
    "bfloat16": Here("graph.dtype", ONE_DTYPE),
    "float16": Here("graph.dtype", ONE_DTYPE),
    "float32": Here("graph.dtype", ONE_DTYPE),
    "eager_attention": Here("graph.attn_implementation", ATTENTION),
    "sdp_attention": Here("graph.attn_implementation", ATTENTION),
    "flash_attention": Here("graph.attn_implementation", ATTENTION),
    "xformers_attention": Here("graph.attn_implementation", ATTENTION),
    "lora_target_linear": Here("graph.lora.target_modules", "name each of the layers"),
    "num_epochs": Here("training.num_train_epochs"),
    "lr_scheduler": Here("training.lr_scheduler_type"),
    "evals_per_epoch": Here("training.eval_steps", "it counts the optimizer steps between two"),
    "saves_per_epoch": Here("training.save_steps", "it counts the optimizer steps between two"),
    "eval_max_new_tokens": Here("evaluation.max_new_tokens"),
}
"""Axolotl's configuration, which has no sections."""

CALLED = {**FORMER, **TRANSFORMERS, **PEFT, **AXOLOTL}

_OPTIMIZER = "the optimizer is always AdamW"
_LORA_ONLY = "the adapter is plain LoRA"
_NOT_QUANTIZED = "the base model is never quantized"
_LAYOUT = "the hardware section decides how processes share the model"
_STORE = "artifacts are stored where FINE_TUNE_STORE says"
_REPORTED = "progress and metrics are in Dagster's event log"
_RESUMES = "a training always resumes from its last checkpoint"
_BEST = "the checkpoint with the lowest held-out loss is always the best"
_FROM_CONFIG = "the base model's own files say so"

WITHOUT = {
    **dict.fromkeys(("optim", "optim_args", "optimizer", "adafactor"), _OPTIMIZER),
    "adam_epsilon": "AdamW's is always 1e-8",
    **dict.fromkeys(("use_dora", "use_rslora", "peft_use_dora", "peft_use_rslora", "bias", "lora_bias"), _LORA_ONLY),
    **dict.fromkeys(("modules_to_save", "lora_modules_to_save", "init_lora_weights", "adapter"), _LORA_ONLY),
    **dict.fromkeys(("load_in_4bit", "load_in_8bit", "gptq"), _NOT_QUANTIZED),
    **dict.fromkeys(("deepspeed", "fsdp", "fsdp_config", "ddp_backend"), _LAYOUT),
    **dict.fromkeys(("output_dir", "dataset_prepared_path", "logging_dir"), _STORE),
    **dict.fromkeys(("report_to", "wandb_project", "use_tensorboard"), _REPORTED),
    **dict.fromkeys(("resume_from_checkpoint", "auto_resume_from_checkpoints"), _RESUMES),
    **dict.fromkeys(("load_best_model_at_end", "metric_for_best_model", "greater_is_better"), _BEST),
    **dict.fromkeys(("model_type", "tokenizer_type", "task_type", "trust_remote_code"), _FROM_CONFIG),
    "batch_size": "it follows from graph.micro_batch_size, graph.gradient_accumulation_steps and the ranks",
    "pad_to_sequence_len": "every sequence has the length graph.sequence_length",
    "group_by_length": "every sequence has the length graph.sequence_length",
    "train_on_inputs": "only the assistant's turns are learned",
    "assistant_only_loss": "only the assistant's turns are learned",
    "dataset_exact_deduplication": "duplicates are always left out, and counted",
    "dataset_text_field": "dataset.format says which columns a row has",
    "push_to_hub": "nothing is uploaded to the hub; merged_model is a folder that can be",
}
"""Fields of other projects that have no counterpart here, and what this project does instead."""

VALUES = {
    ("graph.attn_implementation", "flash"): "flash_attention_2",
    ("graph.dtype", "bf16"): "bfloat16",
    ("graph.dtype", "fp32"): "float32",
    ("training.lr_scheduler_type", "constant_with_warmup"): "constant",
    ("dataset.chat_template", "tokenizer_default"): "model",
}
"""Values that have another name here, by field."""


def where_it_is(name: str, value: object) -> str | None:
    """The hint for an unknown field; None if no other project or section has a field of this name."""
    if name in CALLED:
        here = CALLED[name]
        renamed = renamed_value(here.field, value)
        return f"{here}" + (f", and {value!r} is called {renamed!r}" if renamed else "")
    if name in WITHOUT:
        return f"there is no such field here: {WITHOUT[name]}"
    own = [field for field in field_names() if field.rpartition(".")[2] == name]
    return f"here it is {' or '.join(own)}" if own else None


def renamed_value(field: str, value: object) -> str | None:
    """The name that a field's value has here; None if the value is not a known name from elsewhere."""
    return VALUES.get((field, value)) if isinstance(value, str) else None


@cache
def field_names() -> tuple[str, ...]:
    """Every field of a recipe, such as graph.lora.r, and every section."""
    return tuple(_names(Recipe, ""))


def _names(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _names(field.annotation, f"{prefix}{name}.")
