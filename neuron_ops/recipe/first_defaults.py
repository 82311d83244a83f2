"""The default with which each recipe field was introduced. A fingerprint leaves out a field with this value.

So a field that is added later, with its line here, changes no address of an existing artifact. Never change a line:
when a field's default changes in the schema, the new default is a value like any other, and recipes that rely on it
get new addresses, as they should. tests/addresses.json pins the resulting addresses.
"""

from collections.abc import Mapping
from functools import reduce
from operator import getitem
from typing import Any

from neuron_ops.recipe.schema import Recipe

FIRST_DEFAULTS: Mapping[str, Any] = {  # Any: the JSON of a recipe's values
    "base_model.repository": None,
    "base_model.revision": None,
    "base_model.path": None,
    "base_model.name": None,
    "dataset.format": "dolly",
    "dataset.chat_template": "model",
    "dataset.pad_token": None,
    "dataset.system_prompt": "",
    "dataset.holdout_fraction": 0.05,
    "dataset.overlong": "error",
    "dataset.max_rejected_fraction": 0.05,
    "dataset.packing": True,
    "graph.sequence_length": 1024,
    "graph.micro_batch_size": 1,
    "graph.gradient_accumulation_steps": 1,
    "graph.dtype": "bfloat16",
    "graph.attn_implementation": "sdpa",
    "graph.gradient_checkpointing": False,
    "graph.torch_compile": False,
    "graph.lora.r": 16,
    "graph.lora.lora_alpha": 16.0,
    "graph.lora.lora_dropout": 0.05,
    "graph.lora.target_modules": ["q_proj", "v_proj"],
    "training.seed": 42,
    "training.max_steps": None,
    "training.num_train_epochs": None,
    "training.learning_rate": 2e-4,
    "training.lr_scheduler_type": "cosine",
    "training.warmup_steps": 0,
    "training.weight_decay": 0.0,
    "training.adam_beta1": 0.9,
    "training.adam_beta2": 0.999,
    "training.max_grad_norm": 1.0,
    "training.logging_steps": 10,
    "training.eval_steps": 100,
    "training.save_steps": 100,
    "training.save_total_limit": 2,
    "training.early_stopping_patience": None,
    "hardware.backend": "cpu",
    "hardware.instance_type": None,
    "hardware.nodes": 1,
    "hardware.processes": None,
    "hardware.threads": 1,
    "hardware.tensor_parallel_size": 1,
    "hardware.pipeline_parallel_size": 1,
    "hardware.stall_minutes": 30.0,
    "hardware.multi_node": "indexed_job",
    "hardware.max_restarts": 3,
    "hardware.usd_per_hour": None,
    "evaluation.prompts": 4,
    "evaluation.max_new_tokens": 64,
    "evaluation.threads": 1,
    "evaluation.min_improvement": 0.0,
    # Derived from `hardware`: how processes share a training.
    "layout.data_parallel_size": 1,
    "layout.tensor_parallel_size": 1,
    "layout.pipeline_parallel_size": 1,
    "layout.threads": 1,
}


def field_values(recipe: Recipe, fields: tuple[str, ...]) -> dict[str, Any]:  # Any: JSON
    """The named fields (`graph.lora.r`) as JSON, without those that hold their first default.

    Raises:
        KeyError: a name that the schema does not have; this is a defect of the calling code.
    """
    whole = recipe.model_dump(mode="json")
    return without_first_defaults({name: reduce(getitem, name.split("."), whole) for name in fields})


def without_first_defaults(values: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON
    """The values that are not the field's first default."""
    return {name: value for name, value in values.items() if value != FIRST_DEFAULTS.get(name, _NO_DEFAULT)}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:  # Any: JSON
    """Nested mappings as one mapping with dotted names: `{"layout": {"threads": 2}}` as `{"layout.threads": 2}`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def with_first_defaults(values: Mapping[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:  # Any: JSON
    """The values, with the fields that `field_values` left out, to show to a person."""
    return {name: values.get(name, FIRST_DEFAULTS.get(name)) for name in fields} | dict(values)


_NO_DEFAULT = object()
