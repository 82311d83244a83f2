"""The training loop: exact arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from neuron_ops.steps.addresses import Lineage
from tests.neuron_ops.training.workbench import (
    checkpoints_of,
    history_of,
    make_lineage,
    make_model,
    make_recipe,
    train_here,
)

if TYPE_CHECKING:
    import torch

ONE_STEP: dict[str, Any] = {
    "training__max_steps": 1,
    "training__warmup_steps": 0,
    "training__eval_steps": 1,
    "training__save_steps": 1,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("published") / "model")


def first_step(
    model: Path, folder: Path, **overrides: Any
) -> tuple[Lineage, dict[str, float], dict[str, torch.Tensor]]:
    """One step of the loop: the run, the row of its history, and the tensors of its checkpoint."""
    from safetensors.torch import load

    lineage = make_lineage(folder, make_recipe(model, **ONE_STEP, **overrides))
    row = next(row for row in history_of(train_here(lineage)).rows if "loss" in row)
    checkpoint = checkpoints_of(lineage)["step-000001"]
    tensors = load(checkpoint.read("resume-00.safetensors")) | load(
        checkpoint.read("adapter/adapter_model.safetensors")
    )
    return lineage, row, tensors


def by_hand(model: Path, lineage: Lineage) -> tuple[float, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Loss, gradients and initial values of step 0, from the whole global batch in one forward and backward pass."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForCausalLM

    from neuron_ops.backends.adapter import set_first_values
    from neuron_ops.training.batches import Rows, Schedule

    lora, training = lineage.recipe.graph.lora, lineage.recipe.training
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config = LoraConfig(r=lora.r, lora_alpha=int(lora.lora_alpha), target_modules=sorted(lora.target_modules))
    adapted = get_peft_model(base, config)
    set_first_values(dict(adapted.named_parameters()), training.seed)
    with lineage.require("tokenized_dataset").local() as folder:
        rows = Rows(folder / "train")
        (batch,), tokens = Schedule(training.seed, micro_batch=4, accumulation=1, ranks=1, rank=0).train(rows, 0)
    logits = adapted(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum") / tokens
    loss.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
    trained = {name: value for name, value in adapted.named_parameters() if value.requires_grad}
    gradients = {name: value.grad for name, value in trained.items() if value.grad is not None}
    return float(loss.detach()), gradients, {name: value.detach() for name, value in trained.items()}


def norm_of(tensors: dict[str, torch.Tensor]) -> float:
    import torch

    return float(torch.sqrt(sum((tensor.square().sum() for tensor in tensors.values()), torch.zeros(()))))


def test_a_step_is_the_hand_written_one(model: Path, tmp_path: Path) -> None:
    import torch

    lineage, row, tensors = first_step(model, tmp_path)
    rate = lineage.recipe.training.learning_rate

    loss, gradients, initial = by_hand(model, lineage)

    assert row["loss"] == pytest.approx(loss, rel=1e-6)
    assert row["grad_norm"] == pytest.approx(norm_of(gradients), rel=1e-5)
    assert norm_of(gradients) < lineage.recipe.training.max_grad_norm, "nothing was clipped"
    for name, value in initial.items():
        first, second = (tensors[f"optimizer/{name}/{key}"] for key in ("exp_avg", "exp_avg_sq"))
        torch.testing.assert_close(first, 0.1 * gradients[name], rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(second, 0.001 * gradients[name].square(), rtol=1e-4, atol=1e-12)
        # Adam's first step: both moments corrected for their start at zero.
        step = rate * (first / 0.1) / ((second / 0.001).sqrt() + 1e-8)
        saved = tensors[name.replace(".default", "")]
        torch.testing.assert_close(saved, value - step, rtol=1e-5, atol=1e-7)


def test_gradients_are_clipped_to_the_global_norm_and_the_norm_before_is_reported(model: Path, tmp_path: Path) -> None:
    _, free, _ = first_step(model, tmp_path / "free", training__max_grad_norm=100.0)

    _, clipped, tensors = first_step(model, tmp_path / "clipped", training__max_grad_norm=0.05)

    assert clipped["grad_norm"] == free["grad_norm"] > 0.05
    moments = {name: value for name, value in tensors.items() if name.endswith("/exp_avg")}
    assert norm_of(moments) == pytest.approx(0.1 * 0.05, rel=1e-4)


@pytest.mark.slow
def test_weight_decay_is_what_the_recipe_says_and_zero_by_default(model: Path, tmp_path: Path) -> None:
    import torch

    # The second factor starts at zero, so in the first step nothing but decay can move the first one.
    lineage, _, plain = first_step(model, tmp_path / "plain")
    _, _, decayed = first_step(model, tmp_path / "decayed", training__weight_decay=0.5)

    _, _, initial = by_hand(model, lineage)

    for name, value in initial.items():
        if "lora_A" in name:
            saved = name.replace(".default", "")
            assert torch.equal(plain[saved], value)
            torch.testing.assert_close(decayed[saved], value * (1 - lineage.recipe.training.learning_rate * 0.5))


@pytest.mark.parametrize(
    "other",
    [{"graph__gradient_checkpointing": True}, {"graph__attn_implementation": "eager"}],
    ids=["recomputed", "eager"],
)
@pytest.mark.slow
def test_how_activations_and_attention_are_computed_does_not_change_losses(
    other: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    expected = history_of(train_here(make_lineage(tmp_path / "plain", make_recipe(model)))).rows

    rows = history_of(train_here(make_lineage(tmp_path / "other", make_recipe(model, **other)))).rows

    for row, plain in zip(rows, expected, strict=True):
        assert row == pytest.approx(plain, rel=1e-5)
