"""Which artifacts each recipe field decides: every field of the schema, and the same table as docs/recipe.md shows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from neuron_ops.recipe.first_defaults import FIRST_DEFAULTS, field_values
from neuron_ops.recipe.json_schema import recipe_schema
from neuron_ops.recipe.schema import Recipe, package_path
from tests.neuron_ops.steps.finishing import finish_all, open_lineage

PAGE = Path(__file__).parents[3] / "docs" / "recipe.md"
TINY, LLAMA = "tiny_llama_cpu", "llama3_8b_lora_trn1"
COMMIT = {"base_model.path": None, "base_model.name": None, "base_model.repository": "me/llama"}
GRAPH = "compiled_graph_cache, lora_checkpoints"
PACKED = {"dataset.packing": False}
EAGER = {"graph.attn_implementation": "eager"}

# Field: what to change, beside which other fields, and the artifacts that this decides. What is made from those moves
# as far as their contents change.
FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "name": ({"name": "another"}, {}, ""),
    "base_model.repository": ({"base_model.repository": "me/llama"}, {}, "base_model, consolidated_weights"),
    "base_model.revision": ({"base_model.revision": "a" * 40}, {}, "base_model, consolidated_weights"),
    "base_model.path": ({"base_model.path": "OTHER"}, {}, "base_model"),
    "base_model.name": ({"base_model.name": "me/renamed"}, {}, "consolidated_weights"),
    "dataset.format": ({"dataset.format": "ANOTHER"}, {}, "tokenized_dataset"),
    "dataset.chat_template": ({"dataset.chat_template": "llama3"}, {}, "tokenized_dataset, merged_model"),
    "dataset.pad_token": ({"dataset.pad_token": "<pad>"}, {}, "tokenized_dataset"),
    "dataset.system_prompt": ({"dataset.system_prompt": "Be brief."}, {}, "tokenized_dataset"),
    "dataset.holdout_fraction": ({"dataset.holdout_fraction": 0.2}, {}, "tokenized_dataset"),
    "dataset.overlong": ({"dataset.overlong": "drop"}, {}, "tokenized_dataset"),
    "dataset.max_rejected_fraction": ({"dataset.max_rejected_fraction": 0.2}, {}, "tokenized_dataset"),
    "dataset.packing": (PACKED, {}, "tokenized_dataset"),
    "graph.sequence_length": ({"graph.sequence_length": 512}, {}, f"tokenized_dataset, {GRAPH}"),
    "graph.micro_batch_size": ({"graph.micro_batch_size": 3}, {}, GRAPH),
    "graph.gradient_accumulation_steps": ({"graph.gradient_accumulation_steps": 2}, {}, GRAPH),
    "graph.dtype": ({"graph.dtype": "bfloat16"}, {}, f"{GRAPH}, evaluation"),
    "graph.attn_implementation": (EAGER, {}, GRAPH),
    "graph.gradient_checkpointing": ({"graph.gradient_checkpointing": True}, {}, GRAPH),
    "graph.torch_compile": ({"graph.torch_compile": True}, {}, GRAPH),
    "graph.lora.r": ({"graph.lora.r": 4}, {}, GRAPH),
    "graph.lora.lora_alpha": ({"graph.lora.lora_alpha": 4.0}, {}, GRAPH),
    "graph.lora.lora_dropout": ({"graph.lora.lora_dropout": 0.5}, {}, GRAPH),
    "graph.lora.target_modules": ({"graph.lora.target_modules": ["k_proj"]}, {}, GRAPH),
    "training.seed": ({"training.seed": 1}, {}, "lora_checkpoints"),
    "training.max_steps": ({"training.max_steps": 60}, {}, "lora_checkpoints"),
    "training.num_train_epochs": (
        {"training.num_train_epochs": 2.0},
        {"training.max_steps": None, "training.num_train_epochs": 1.0},
        "lora_checkpoints",
    ),
    "training.learning_rate": ({"training.learning_rate": 1e-5}, {}, "lora_checkpoints"),
    "training.lr_scheduler_type": ({"training.lr_scheduler_type": "constant"}, {}, "lora_checkpoints"),
    "training.warmup_steps": ({"training.warmup_steps": 1}, {}, "lora_checkpoints"),
    "training.weight_decay": ({"training.weight_decay": 0.5}, {}, "lora_checkpoints"),
    "training.adam_beta1": ({"training.adam_beta1": 0.5}, {}, "lora_checkpoints"),
    "training.adam_beta2": ({"training.adam_beta2": 0.5}, {}, "lora_checkpoints"),
    "training.max_grad_norm": ({"training.max_grad_norm": 0.5}, {}, "lora_checkpoints"),
    "training.logging_steps": ({"training.logging_steps": 5}, {}, ""),
    "training.eval_steps": ({"training.eval_steps": 10}, {}, ""),
    "training.save_steps": ({"training.save_steps": 120}, {}, "lora_checkpoints"),
    "training.save_total_limit": ({"training.save_total_limit": 5}, {}, ""),
    "training.early_stopping_patience": ({"training.early_stopping_patience": 2}, {}, "lora_checkpoints"),
    "hardware.backend": ({"hardware.backend": "cuda"}, {}, GRAPH),
    "hardware.instance_type": ({"hardware.instance_type": "trn2.48xlarge"}, {}, GRAPH),
    "hardware.nodes": ({"hardware.nodes": 2}, {}, GRAPH),
    "hardware.processes": ({"hardware.processes": 2}, {}, GRAPH),
    "hardware.threads": ({"hardware.threads": 2}, {}, "lora_checkpoints"),
    "hardware.tensor_parallel_size": ({"hardware.tensor_parallel_size": 4}, {}, GRAPH),
    # Refused beyond 1 by every backend of today.
    "hardware.pipeline_parallel_size": ({}, {}, ""),
    "hardware.stall_minutes": ({"hardware.stall_minutes": 5.0}, {}, ""),
    "hardware.multi_node": ({"hardware.multi_node": "pytorch_job"}, {}, ""),
    "hardware.max_restarts": ({"hardware.max_restarts": 1}, {}, ""),
    "hardware.usd_per_hour": ({"hardware.usd_per_hour": 1.0}, {}, ""),
    "evaluation.prompts": ({"evaluation.prompts": 2}, {}, "evaluation"),
    "evaluation.max_new_tokens": ({"evaluation.max_new_tokens": 8}, {}, "evaluation"),
    "evaluation.threads": ({"evaluation.threads": 2}, {}, ""),
    "evaluation.min_improvement": ({"evaluation.min_improvement": 0.1}, {}, "evaluation"),
}
OF_A_REPOSITORY = ("base_model.repository", "base_model.revision")
OF_TRAINIUM = ("hardware.instance_type", "hardware.tensor_parallel_size")


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of every value in the schema, with its field."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields_of(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def moved(tmp_path: Path, recipe: str, before: dict[str, Any], changes: dict[str, Any]) -> set[str]:
    """The artifacts whose address a change moves while every other artifact stays as it is."""
    raw = str(package_path("package:demo/raw"))
    old, new = (
        finish_all(open_lineage(recipe, str(tmp_path / "store"), raw, "demo-v1", overrides))
        for overrides in (before, {**before, **changes})
    )
    return {name for name in old if old[name] != new[name]}


def test_the_table_has_every_field_and_no_other() -> None:
    assert list(FIELDS) == [name for name, _ in fields_of(Recipe)]


@pytest.mark.parametrize("field", list(FIELDS))
def test_a_field_decides_these_artifacts_and_no_others(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, before, artifacts = FIELDS[field]
    if field in OF_A_REPOSITORY:
        before = {**COMMIT, "base_model.repository": "you/llama", "base_model.revision": "0" * 40}
    if field == "base_model.path":
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "model.safetensors").write_bytes(b"other weights")
        changes = {"base_model.path": str(tmp_path / "other")}
    if field == "dataset.format":
        from neuron_ops import registry

        monkeypatch.setitem(registry.ROW_FORMATS, "ANOTHER", registry.ROW_FORMATS["dolly"])

    recipe = LLAMA if field in OF_TRAINIUM else TINY

    assert moved(tmp_path, recipe, before, changes) == set(filter(None, artifacts.split(", ")))


@pytest.mark.parametrize(
    ("recipe", "before", "changes", "artifacts"),
    [
        # Trainium's graphs hold the optimizer's constants, and no sum of its depends on the host's threads.
        (LLAMA, {}, {"training.weight_decay": 0.5}, {"compiled_graph_cache", "lora_checkpoints"}),
        (LLAMA, {}, {"training.adam_beta1": 0.5}, {"compiled_graph_cache", "lora_checkpoints"}),
        (LLAMA, {}, {"training.adam_beta2": 0.5}, {"compiled_graph_cache", "lora_checkpoints"}),
        (LLAMA, {}, {"training.max_grad_norm": 0.5}, {"compiled_graph_cache", "lora_checkpoints"}),
        (LLAMA, {}, {"training.learning_rate": 1e-3}, {"lora_checkpoints"}),
        (LLAMA, {}, {"hardware.threads": 4}, set()),
        # An instance type of the same chips is the same hardware to a graph.
        (LLAMA, {}, {"hardware.instance_type": "trn1n.32xlarge"}, set()),
        # torch writes the number of threads into its programs for a CPU.
        (TINY, {"graph.torch_compile": True}, {"hardware.threads": 2}, {"compiled_graph_cache", "lora_checkpoints"}),
        # Evaluations that are counted by early stopping decide where a training ends.
        (TINY, {"training.early_stopping_patience": 2}, {"training.eval_steps": 10}, {"lora_checkpoints"}),
        # The same world of processes, on one machine or on two.
        (TINY, {"hardware.processes": 2}, {"hardware.processes": 1, "hardware.nodes": 2}, set()),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_what_a_field_decides_may_depend_on_others(
    tmp_path: Path, recipe: str, before: dict[str, Any], changes: dict[str, Any], artifacts: set[str]
) -> None:
    assert moved(tmp_path, recipe, before, changes) == artifacts


def test_every_default_is_on_record_as_it_was_first() -> None:
    """A field that is new needs its line; a default that changes keeps the old one, and so moves addresses."""
    with_default = {name for name, field in fields_of(Recipe) if not field.is_required()}

    recorded = {name for name in FIRST_DEFAULTS if not name.startswith("layout.")}

    assert recorded == with_default


def test_a_field_that_holds_its_first_default_is_no_part_of_an_address(tmp_path: Path) -> None:
    recipe = open_lineage(TINY, str(tmp_path), str(tmp_path), "v1", {"graph.lora.r": 16, "training.seed": 7}).recipe

    assert field_values(recipe, ("graph.lora.r", "training.seed")) == {"training.seed": 7}


def rows_of_the_page() -> list[str]:
    """One row for each field: its default, what the schema says about it, and what it decides."""
    described = dict(fields_of(Recipe))
    texts = descriptions(recipe_schema())
    return [
        f"| `{name}` | {default_of(described[name])} | {texts[name]} | {quoted(artifacts)} |"
        for name, (_, _, artifacts) in FIELDS.items()
    ]


def descriptions(schema: dict[str, Any]) -> dict[str, str]:
    """Dotted names with the schema's description as one line."""

    def walk(part: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
        for name, found in part["properties"].items():
            section = found.get("$ref", "").rpartition("/")[2]
            if section in schema["$defs"] and "properties" in schema["$defs"][section]:
                yield from walk(schema["$defs"][section], f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", " ".join(found["description"].split())

    return dict(walk(schema, ""))


def default_of(field: Any) -> str:
    """As YAML would have it."""
    return "required" if field.is_required() else f"`{json.dumps(field.default)}`"


def quoted(artifacts: str) -> str:
    return ", ".join(f"`{name}`" for name in artifacts.split(", ")) if artifacts else "nothing"


def test_the_documentation_shows_this_table() -> None:
    shown = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]

    assert shown == rows_of_the_page()
