"""The training loop: exact arithmetic, exact resume after SIGKILL at any moment, one clear end for what cannot work."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load

from neuron_ops.launch import process
from neuron_ops.steps import commands
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import BY_VERB
from neuron_ops.training.history import Row
from tests.neuron_ops.training.workbench import (
    VERSION,
    Kill,
    Trainer,
    arguments,
    checkpoints_of,
    contents,
    damage,
    history_of,
    make_lineage,
    make_model,
    make_recipe,
    open_lineage,
    start_server,
    train_here,
)

if TYPE_CHECKING:
    import torch

BACKWARD = "neuron_ops.backends.cpu_process:CpuProcess.backward"
SAVE_RESUME = "neuron_ops.training.checkpoints:_save_resume"
CREATE, REMOVE = "neuron_ops.store.files:LocalFiles.create", "neuron_ops.store.files:LocalFiles.remove"
PUBLISH = "neuron_ops.steps.train:draw_losses"

# Dropout draws random numbers in every step, so a generator in another state would show.
DROPOUT: dict[str, Any] = {"graph__lora__lora_dropout": 0.2}
TWO_PROCESSES: dict[str, Any] = {"graph__micro_batch_size": 1, "hardware__processes": 2}
ONE_STEP: dict[str, Any] = {
    "training__max_steps": 1,
    "training__warmup_steps": 0,
    "training__eval_steps": 1,
    "training__save_steps": 1,
}
# So fast that the held-out loss is lowest after the first step.
TOO_FAST: dict[str, Any] = {
    "training__max_steps": 5,
    "training__learning_rate": 0.3,
    "training__warmup_steps": 0,
    "training__lr_scheduler_type": "constant",
    "training__eval_steps": 1,
    "training__save_steps": 1,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("published") / "model")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    trainer = start_server(tmp_path_factory.mktemp("trainings"))
    yield trainer
    trainer.close()


# Steps have two backward passes each, and every second one ends with a checkpoint.
MOMENTS = {
    "before the first step": (Kill(BACKWARD, call=1), 0),
    "in the middle of accumulation": (Kill(BACKWARD, call=5, after=True), 2),
    "in the middle of the last accumulation": (Kill(BACKWARD, call=11, after=True), 4),
    "after an update": (Kill("torch.optim:AdamW.step", call=5, after=True), 4),
    "with only the adapter saved": (Kill(SAVE_RESUME, call=2), 2),
    "with all files saved but not durable": (Kill(SAVE_RESUME, call=3, after=True), 4),
    "before a checkpoint's manifest": (Kill(CREATE, call=2), 2),
    "after a checkpoint's manifest": (Kill(CREATE, call=2, after=True), 4),
    "while an old checkpoint is removed": (Kill(REMOVE, call=1, after=True), 6),
    "after the last checkpoint, before publishing": (Kill(PUBLISH, call=1), 6),
    "at a random moment": (Kill(BACKWARD, call=random.randint(5, 12)), None),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_training_ends_with_the_bytes_of_an_undisturbed_one(
    moment: str, trainer: Trainer, model: Path, tmp_path: Path
) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, **DROPOUT))
    kill, newest = MOMENTS[moment]

    killed = trainer.train(lineage, kill)
    ended = trainer.train(lineage)

    assert killed.codes == [-signal.SIGKILL], killed.log
    assert ended.codes == [0], ended.log
    resumed = open_lineage(tmp_path, lineage.recipe)
    assert newest in (None, resumed.require("lora_checkpoints").manifest.metrics["resumed_from_step"])
    assert contents(resumed) == trainer.uninterrupted(lineage), kill
    assert_nothing_is_left_over(lineage)


@pytest.mark.slow
def test_a_bfloat16_training_killed_twice_ends_with_the_same_bytes(
    trainer: Trainer, model: Path, tmp_path: Path
) -> None:
    lineage = make_lineage(
        tmp_path, make_recipe(model, graph__dtype="bfloat16", graph__gradient_checkpointing=True, **DROPOUT)
    )

    trainer.train(lineage, Kill(BACKWARD, call=7))
    trainer.train(lineage, Kill(SAVE_RESUME, call=1))
    ended = trainer.train(lineage)

    assert ended.codes == [0], ended.log
    assert contents(open_lineage(tmp_path, lineage.recipe)) == trainer.uninterrupted(lineage)


@pytest.mark.slow
def test_a_resumed_training_says_so(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, **DROPOUT))
    trainer.train(lineage, Kill(BACKWARD, call=11))

    ended = trainer.train(lineage)

    assert "resuming from the checkpoint at step 4" in ended.log
    metrics = open_lineage(tmp_path, lineage.recipe).require("lora_checkpoints").manifest.metrics
    assert metrics["resumed_from_step"] == 4
    assert metrics["steps"] == 6


@pytest.mark.slow
def test_the_program_survives_sigkill_from_outside(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, **DROPOUT))
    argv = [sys.executable, "-m", "neuron_ops.steps.train", *arguments(lineage, tmp_path)]
    last = f"step {random.randint(3, 5)}/6"

    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(last in line for line in process.stderr)
        process.kill()
    ended = trainer.train(lineage)

    assert process.returncode == -signal.SIGKILL
    assert ended.codes == [0], ended.log
    assert contents(open_lineage(tmp_path, lineage.recipe)) == trainer.uninterrupted(lineage)


@pytest.mark.slow
def test_two_processes_resume_exactly_under_torchrun(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, **TWO_PROCESSES, **DROPOUT))
    killed = trainer.train(lineage, Kill(BACKWARD, call=7, rank=1))
    recipe = tmp_path / "two.json"
    recipe.write_text(lineage.recipe.to_json())

    argv = commands.command(
        BY_VERB["train"], lineage.recipe, recipe, lineage.store.url, f"{lineage.store.url}/raw", VERSION
    )
    code = process.execute(argv, {})

    assert killed.codes[1] == -signal.SIGKILL, killed.log
    assert killed.codes[0] not in (0, None), "a rank whose peer died must not go on"
    assert code == 0
    resumed = open_lineage(tmp_path, lineage.recipe)
    assert resumed.require("lora_checkpoints").manifest.metrics["resumed_from_step"] == 2
    assert contents(resumed) == trainer.uninterrupted(lineage)


@pytest.mark.slow
def test_how_a_global_batch_is_split_does_not_matter(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    histories: list[list[Row]] = []
    for split in (
        {"graph__micro_batch_size": 4, "graph__gradient_accumulation_steps": 1},
        {"graph__micro_batch_size": 2, "graph__gradient_accumulation_steps": 2},
        {"graph__micro_batch_size": 1, "graph__gradient_accumulation_steps": 4},
        {"graph__micro_batch_size": 1, "graph__gradient_accumulation_steps": 2, "hardware__processes": 2},
        {"graph__micro_batch_size": 2, "graph__gradient_accumulation_steps": 1, "hardware__processes": 2},
    ):
        folder = tmp_path / str(len(histories))
        lineage = make_lineage(folder, make_recipe(model, **split))
        ended = trainer.train(lineage)
        assert set(ended.codes) == {0}, ended.log
        histories.append(history_of(open_lineage(folder, lineage.recipe).require("lora_checkpoints")).rows)

    for other in histories[1:]:
        assert len(other) == len(histories[0])
        for row, expected in zip(other, histories[0], strict=True):
            assert row == pytest.approx(expected, rel=2e-6), "float32 sums in another order, and nothing more"


def first_step(
    model: Path, folder: Path, **overrides: Any
) -> tuple[Lineage, dict[str, float], dict[str, torch.Tensor]]:
    """One step of the loop: the run, the row of its history, and the tensors of its checkpoint."""
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


def test_of_two_checkpoints_that_are_kept_one_is_the_newest_and_one_the_best(model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, **TOO_FAST))

    artifact = train_here(lineage)

    losses = history_of(artifact).evaluations()
    best = min((step for step in losses if step), key=lambda step: losses[step])
    assert best < 4, "the test needs a training that gets worse"
    kept = checkpoints_of(lineage)
    assert set(kept) == {f"step-{step:06d}" for step in (best, 5)}
    assert json.loads(artifact.read("best.json")) == {
        "step": best,
        "part": f"step-{best:06d}",
        "digest": kept[f"step-{best:06d}"].manifest.digest,
        "eval_loss": losses[best],
    }
    assert artifact.manifest.metrics["best_step"] == best
    assert artifact.manifest.metrics["best_eval_loss"] == losses[best]


@pytest.mark.slow
def test_early_stopping_saves_its_last_step_and_a_resume_does_not_undo_it(
    trainer: Trainer, model: Path, tmp_path: Path
) -> None:
    patience = {"training__early_stopping_patience": 2, "training__save_steps": 4, "training__max_steps": 8}
    lineage = make_lineage(tmp_path, make_recipe(model, **{**TOO_FAST, **patience}))

    killed = trainer.train(lineage, Kill(PUBLISH, call=1))
    ended = trainer.train(lineage)

    assert killed.codes == [-signal.SIGKILL]
    assert ended.codes == [0], ended.log
    artifact = open_lineage(tmp_path, lineage.recipe).require("lora_checkpoints")
    losses = history_of(artifact).evaluations()
    stopped = max(losses)
    assert stopped % 4, "the test needs a stop between two checkpoints"
    assert min(losses.values()) == losses[stopped - 2], "two evaluations without improvement, and then none"
    assert f"step-{stopped:06d}" in checkpoints_of(lineage)
    assert artifact.manifest.metrics["stopped_early"]
    assert artifact.manifest.metrics["resumed_from_step"] == stopped
    assert contents(lineage) == trainer.uninterrupted(lineage)


@pytest.mark.parametrize("file", ["w/resume-00.safetensors", "w/adapter/adapter_model.safetensors", "manifest.json"])
@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_an_older_one_is_used(
    file: str, trainer: Trainer, model: Path, tmp_path: Path
) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, **DROPOUT))
    trainer.train(lineage, Kill(PUBLISH, call=1))
    damage(checkpoints_of(lineage)["step-000006"], file.replace("w/", "") if file[0] == "w" else f"../{file}")

    ended = trainer.train(lineage)

    assert ended.codes == [0], ended.log
    assert "checkpoint step-000006 is damaged" in ended.log
    assert "resuming from the checkpoint at step 4" in ended.log
    assert contents(open_lineage(tmp_path, lineage.recipe)) == trainer.uninterrupted(lineage)


@pytest.mark.slow
def test_with_every_checkpoint_damaged_training_begins_again(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, **DROPOUT))
    trainer.train(lineage, Kill(PUBLISH, call=1))
    for checkpoint in checkpoints_of(lineage).values():
        damage(checkpoint, "resume-00.safetensors")

    ended = trainer.train(lineage)

    assert ended.codes == [0], ended.log
    assert ended.log.count("is damaged") == 2
    assert contents(open_lineage(tmp_path, lineage.recipe)) == trainer.uninterrupted(lineage)


def assert_refused(trainer: Trainer, lineage: Lineage, code: int, words: str) -> None:
    """One sentence, the right exit code, no traceback, and no artifact."""
    ended = trainer.train(lineage)
    assert ended.codes == [code], ended.log
    errors = [line for line in ended.log.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert words in errors[0]
    assert "Traceback" not in ended.log
    assert open_lineage(Path(lineage.store.url).parent, lineage.recipe).find("lora_checkpoints") is None
    assert_nothing_is_left_over(lineage)


def assert_nothing_is_left_over(lineage: Lineage) -> None:
    """Every folder is a finished artifact, or belongs to one."""
    fresh = open_lineage(Path(lineage.store.url).parent, lineage.recipe)
    artifact, kept = fresh.find("lora_checkpoints"), checkpoints_of(fresh)
    expected = {*kept, *(("manifest.json", artifact.manifest.data) if artifact else ())}
    address = fresh.provenance("lora_checkpoints").address
    assert set(fresh.store.files.children(str(address))) == expected
    for part in kept.values():
        assert set(fresh.store.files.children(str(part.address))) == {"manifest.json", part.manifest.data}


def test_a_training_that_diverges_ends_with_one_sentence(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, training__learning_rate=1e30, training__max_grad_norm=1e30))

    assert_refused(trainer, lineage, 2, "Lower training.learning_rate (now 1e+30)")


def test_a_training_that_dies_of_finite_numbers_ends_too(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    """Behind the layer norm nothing is left of activations whose squares overflow: each token is as likely as any."""
    huge = {"training__learning_rate": 1e30, "training__max_grad_norm": 1e30}
    lineage = make_lineage(tmp_path, make_recipe(model, graph__lora__target_modules=["o_proj"], **huge))

    assert_refused(trainer, lineage, 2, "the gradient of step 2 is zero")


def test_a_base_model_that_gives_no_number_is_refused_before_the_first_step(trainer: Trainer, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = make_model(tmp_path / "model")
    broken = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        broken.lm_head.weight[3, 3] = torch.nan
    broken.save_pretrained(folder)
    lineage = make_lineage(tmp_path, make_recipe(folder))

    assert_refused(trainer, lineage, 2, "before any training")


@pytest.mark.usefixtures("without_gpu")
def test_cuda_without_a_gpu_is_refused(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, hardware__backend="cuda"))

    assert_refused(trainer, lineage, 2, "torch sees no GPU here")


def test_a_truncated_base_model_is_named_before_training_starts(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model))
    damage(lineage.require("base_model"), "model.safetensors")

    assert_refused(trainer, lineage, 4, "model.safetensors is missing or has another size")
