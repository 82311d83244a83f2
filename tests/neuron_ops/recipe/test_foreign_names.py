"""Names that a recipe does not have, but that somebody will write: each is refused with the name that it has here."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from fine_tune_assets.cli.main import main
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.foreign_names import CALLED, FORMER, PEFT, VALUES, WITHOUT, field_names

OLD_RECIPE = """
name: mine
base_model: {path: package:demo/model, name: me/tiny}
graph: {gradient_accumulation: 2, attention: flash, lora: {r: 4, alpha: 8, dropout: 0.0}}
training: {steps: 10, schedule: linear, log_every: 1, evaluate_every: 5, checkpoint_every: 5, keep_checkpoints: 2}
hardware: {tensor_parallel: 1, pipeline_parallel: 1}
"""


def refusal(**overrides: object) -> str:
    with pytest.raises(InvalidInput) as caught:
        load_recipe("tiny_llama_cpu", {name.replace("__", "."): value for name, value in overrides.items()})
    return str(caught.value)


@pytest.mark.parametrize("name", CALLED)
def test_every_name_leads_to_a_field_that_exists_and_is_not_one_itself(name: str) -> None:
    assert CALLED[name].field in field_names()
    assert name not in {field.rpartition(".")[2] for field in field_names()}


@pytest.mark.parametrize("name", WITHOUT)
def test_a_name_without_a_counterpart_is_not_a_field_and_not_in_the_other_table(name: str) -> None:
    assert name not in {field.rpartition(".")[2] for field in field_names()} | CALLED.keys()


@pytest.mark.parametrize(("field", "value"), VALUES)
def test_every_value_leads_to_one_that_is_taken(field: str, value: str) -> None:
    load_recipe("tiny_llama_cpu", {field: VALUES[field, value]})

    assert refusal(**{field: value}).endswith(f"(got {value!r}); it is called {VALUES[field, value]!r}.")


def test_the_names_are_those_that_the_libraries_have() -> None:
    from peft import LoraConfig
    from transformers import TrainingArguments

    theirs = {field.name for config in (TrainingArguments, LoraConfig) for field in dataclasses.fields(config)}

    for name in ("per_device_train_batch_size", "bf16", "eval_strategy", "warmup_ratio", "use_cpu"):
        assert name in theirs & CALLED.keys()
    assert "base_model_name_or_path" in theirs & PEFT.keys()
    assert {"optim", "adam_epsilon", "use_dora", "modules_to_save", "report_to", "fsdp"} <= theirs & WITHOUT.keys()


@pytest.mark.parametrize("section", ["", "dataset.", "graph.", "graph.lora.", "training.", "hardware."])
@pytest.mark.parametrize("name", [*FORMER, "max_seq_length", "lora_r", "sample_packing"])
def test_a_foreign_name_is_answered_wherever_it_stands(section: str, name: str) -> None:
    assert f"{section}{name}: unknown field; {CALLED[name]}" in refusal(**{f"{section}{name}": 1})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("training.log_every", "training.log_every: unknown field; it is called training.logging_steps."),
        (
            "training.per_device_train_batch_size",
            "use graph.micro_batch_size: it counts per data-parallel rank, and tensor-parallel devices share",
        ),
        ("training.warmup_ratio", "unknown field; use training.warmup_steps: it counts optimizer steps."),
        ("datasets", "datasets: unknown field; use dataset.format: the rows themselves are delivered with"),
        (
            "training.optim",
            "training.optim: unknown field; there is no such field here: the optimizer is always AdamW.",
        ),
        ("learning_rate", "learning_rate: unknown field; here it is training.learning_rate."),
        ("lora", "lora: unknown field; here it is graph.lora."),
        ("graph.threads", "graph.threads: unknown field; here it is hardware.threads or evaluation.threads."),
    ],
)
def test_what_is_said(name: str, says: str) -> None:
    assert says in refusal(**{name: 1})


def test_a_recipe_of_an_earlier_version_fails_with_every_new_name(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(OLD_RECIPE)

    result = CliRunner().invoke(main, ["recipe", "show", "--recipe", str(path)])

    assert result.exit_code == 2
    assert [name for name in FORMER if CALLED[name].field not in result.output] == []
    assert "it is called graph.attn_implementation, and 'flash' is called 'flash_attention_2'." in result.output


def test_an_axolotl_configuration_fails_with_our_names() -> None:
    theirs = {"sequence_len": 2048, "micro_batch_size": 2, "num_epochs": 3, "lora_r": 8, "chat_template": "llama3"}

    said = refusal(**theirs)

    ours = ["graph.sequence_length", "graph.micro_batch_size", "training.num_train_epochs", "graph.lora.r"]
    assert [name for name in [*ours, "dataset.chat_template"] if f" {name}" not in said] == []
    assert len(said.splitlines()) == 1 + len(yaml.safe_load(yaml.safe_dump(theirs)))
