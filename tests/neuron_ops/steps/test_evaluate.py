"""`evaluate`: the same losses as training saw, a gate that stops a worse model, and a merge that is checked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps import program
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import BY_VERB
from neuron_ops.store.artifacts import Artifact
from neuron_ops.store.manifest import CheckRecord
from tests.neuron_ops.training.workbench import (
    END,
    checkpoints_of,
    history_of,
    make_lineage,
    make_model,
    make_recipe,
    make_rows,
    make_tokenizer,
    publish,
    train_here,
)

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

    from neuron_ops.steps import evaluate


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("published") / "model")


@pytest.fixture
def lineage(model: Path, tmp_path: Path) -> Lineage:
    """A store with a finished training that helped."""
    fast = {"training__learning_rate": 0.05, "training__max_steps": 6, "training__eval_steps": 2}
    lineage = make_lineage(tmp_path, make_recipe(model, **fast))
    train_here(lineage)
    return lineage


def evaluate_adapter(
    lineage: Lineage, model: Path, folder: Path, *, merged_scale: float = 1.0, sign: float = 1.0
) -> Artifact:
    """Evaluate the last checkpoint's adapter (times `sign`), merged at `merged_scale` times its own scale."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from neuron_ops.steps import evaluate

    adapter = folder / "adapter"
    adapter.mkdir()
    newest = checkpoints_of(lineage)["step-000006"]
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (adapter / name).write_bytes(newest.read(f"adapter/{name}"))
    turn(adapter, sign)
    publish(lineage, "consolidated_weights", adapter)
    turn(adapter, merged_scale)
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), str(adapter)).merge_and_unload()
    merged.save_pretrained(folder / "merged")
    make_tokenizer().save_pretrained(folder / "merged")
    publish(lineage, "merged_model", folder / "merged")
    program.make(BY_VERB["evaluate"], lineage, evaluate.build)
    artifact = lineage.store.find(lineage.provenance("evaluation").address)
    assert artifact is not None
    return artifact


def turn(adapter: Path, factor: float) -> None:
    from safetensors.torch import load_file, save_file

    from neuron_ops.backends.cpu_process import ADAPTER_WEIGHTS

    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    changed = {name: value * factor if "lora_B" in name else value for name, value in tensors.items()}
    save_file(changed, adapter / ADAPTER_WEIGHTS)


def check(artifact: Artifact, name: str) -> CheckRecord:
    return next(check for check in artifact.manifest.checks if check.name == name)


def test_the_losses_are_those_that_training_measured(lineage: Lineage, model: Path, tmp_path: Path) -> None:
    evaluations = history_of(lineage.require("lora_checkpoints")).evaluations()

    artifact = evaluate_adapter(lineage, model, tmp_path)

    metrics = artifact.manifest.metrics
    assert metrics["base_loss"] == pytest.approx(evaluations[0], rel=1e-6)
    assert metrics["tuned_loss"] == pytest.approx(evaluations[6], rel=1e-5), "merged, so rounded once"
    assert evaluations[6] < evaluations[0], "the test needs a training that helped"
    assert all(check.passed for check in artifact.manifest.checks)
    assert lineage.require("evaluation").address == artifact.address


@pytest.mark.parametrize("scale", [2.0, 0.5])
@pytest.mark.slow
def test_an_adapter_merged_at_another_scale_is_noticed(
    scale: float, lineage: Lineage, model: Path, tmp_path: Path
) -> None:
    artifact = evaluate_adapter(lineage, model, tmp_path, merged_scale=scale)

    assert not check(artifact, "merged_equals_base_plus_adapter").passed


def test_a_model_worse_than_its_base_is_stopped(lineage: Lineage, model: Path, tmp_path: Path) -> None:
    artifact = evaluate_adapter(lineage, model, tmp_path, sign=-1.0)

    assert check(artifact, "merged_equals_base_plus_adapter").passed
    assert not check(artifact, "better_than_base").passed
    with pytest.raises(InvalidInput, match="failed its check 'better_than_base'"):
        lineage.require("evaluation")


def test_the_report_shows_every_prompt_answered_by_both(lineage: Lineage, model: Path, tmp_path: Path) -> None:
    artifact = evaluate_adapter(lineage, model, tmp_path)

    report = json.loads(artifact.read("report.json"))

    assert len(report["answers"]) == 3
    assert report["losses"]["improvement"] == pytest.approx(
        report["losses"]["base_loss"] - report["losses"]["tuned_loss"]
    )
    text = artifact.read("report.md").decode()
    assert text.count("*base:*") == text.count("*tuned:*") == 3


NASTY = "# Title\n\n```\n| a | b |\n|---|---|\n<script>alert(1)</script><!--\n[x](javascript:y) `q\u2028`` *b* \\"


def test_no_words_of_a_model_or_a_row_can_break_the_report(tmp_path: Path) -> None:
    import torch

    from neuron_ops.steps import evaluate

    said = evaluate.ModelEvaluation(torch.zeros(1), (evaluate.Answer(NASTY, stopped=False),))
    prompt = evaluate.Prompt(text=NASTY, rendered=NASTY, reference=NASTY)

    evaluate._write_report(tmp_path, {"base_loss": 1.0, "tuned_loss": 0.5}, [prompt], said, said)

    code = r"`[^`\n]+`"
    known = rf"\| .*|\|---.*|\*\*Prompt 1\*\*|>|> {code}|\*(base|tuned|dataset):\* {code}|"
    for line in (tmp_path / "report.md").read_text().split("\n"):
        assert re.fullmatch(known, line), line
    assert json.loads((tmp_path / "report.json").read_text())["answers"][0]["base"] == NASTY


@pytest.fixture
def recipe(model: Path) -> Recipe:
    return make_recipe(model)


def speaking(model: Path, *tokens: int) -> LlamaForCausalLM:
    """A model that says these tokens, and then the last one for ever."""
    from transformers import AutoModelForCausalLM

    speaker: LlamaForCausalLM = AutoModelForCausalLM.from_pretrained(model).eval()
    said = iter([*tokens, *[tokens[-1]] * 100])

    def say(_module: torch.nn.Module, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        logits[:, -1, next(said)] = 1e4
        return logits

    speaker.lm_head.register_forward_hook(say)
    return speaker


def answer(recipe: Recipe, speaker: LlamaForCausalLM, folder: Path) -> evaluate.Answer:
    from neuron_ops.steps import evaluate
    from neuron_ops.training.batches import Rows

    make_rows(folder, number=1, seed=0)
    prompt = evaluate.Prompt(text="?", rendered="<bos> w1", reference="…")
    evaluator = evaluate.Evaluator(recipe, Rows(folder), [prompt])
    return evaluator._answer(speaker, make_tokenizer(), prompt)


def test_an_answer_ends_at_the_end_of_turn(model: Path, recipe: Recipe, tmp_path: Path) -> None:
    from neuron_ops.steps import evaluate

    said = answer(recipe, speaking(model, 10, 11, END, 12), tmp_path)

    assert said == evaluate.Answer("w6 w7", stopped=True)


def test_an_answer_also_ends_at_the_other_end_tokens_of_the_model(model: Path, recipe: Recipe, tmp_path: Path) -> None:
    from neuron_ops.steps import evaluate

    speaker = speaking(model, 10, 11, 3, 12)
    speaker.generation_config.eos_token_id = [END, 3]

    said = answer(recipe, speaker, tmp_path)

    assert said == evaluate.Answer("w6 w7", stopped=True)


def test_an_answer_without_an_end_is_cut_and_said_to_be(model: Path, recipe: Recipe, tmp_path: Path) -> None:
    from neuron_ops.steps import evaluate

    said = answer(recipe, speaking(model, 10), tmp_path)

    assert said == evaluate.Answer(" ".join(["w6"] * recipe.evaluation.max_new_tokens), stopped=False)


@pytest.mark.usefixtures("without_gpu")
def test_a_model_that_a_gpu_trained_is_judged_where_there_is_none(lineage: Lineage, model: Path) -> None:
    import torch

    from neuron_ops.steps import evaluate
    from neuron_ops.training.batches import Rows

    recipe = make_recipe(model, hardware__backend="cuda", evaluation__threads=2)
    with lineage.require("tokenized_dataset").local() as data:
        evaluator = evaluate.Evaluator(recipe, Rows(data / "holdout"), ())

        evaluation = evaluator.evaluate(evaluator.load(model), make_tokenizer())

    assert torch.isfinite(evaluation.losses).all()
    assert torch.get_num_threads() == 2
