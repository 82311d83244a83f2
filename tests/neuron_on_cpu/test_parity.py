"""The same tokens and the same seed give the same training on Trainium's libraries as on one CPU process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from neuron_ops.steps import consolidate, merge, program
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import BY_VERB
from tests.neuron_on_cpu.bench import (
    TP2,
    TP2_DP2,
    make_demo_recipe,
    make_demo_run,
    make_lineage,
    make_recipe,
    open_demo_run,
)
from tests.neuron_ops.training.workbench import Trainer, history_of, open_lineage

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

pytestmark = pytest.mark.neuron_on_cpu

ROW_AND_COLUMN_LAYERS = {"graph__lora__target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]}
FLOAT32, BFLOAT16 = 1e-5, 3e-2
"""Relative differences of logits that rounding explains."""


def train(trainer: Trainer, folder: Path, model: Path, **overrides: Any) -> Lineage:
    lineage = make_lineage(folder, make_recipe(model, **overrides))
    ended = trainer.train(lineage)
    assert set(ended.codes) == {0}, ended.log
    return open_lineage(folder, lineage.recipe)


def rows_of(lineage: Lineage) -> list[dict[str, float]]:
    return history_of(lineage.require("lora_checkpoints")).rows


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "TP 2": (TP2, {}),
    "TP 2 x DP 2": (TP2_DP2, {}),
    "every step clipped": (TP2_DP2, {"training__max_grad_norm": 0.05}),
    "activations recomputed": (TP2, {"graph__gradient_checkpointing": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_norms_are_those_of_one_cpu_process(
    case: str, trainer: Trainer, cpu_trainer: Trainer, model: Path, tmp_path: Path
) -> None:
    layout, changes = CASES[case]
    expected = rows_of(train(cpu_trainer, tmp_path / "cpu", model, **ROW_AND_COLUMN_LAYERS, **changes))

    rows = rows_of(train(trainer, tmp_path / "neuron", model, **ROW_AND_COLUMN_LAYERS, **changes, **layout))

    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=2e-6), "float32 sums in another order, and nothing more"


def test_with_a_bfloat16_base_losses_differ_by_its_rounding_only(
    trainer: Trainer, cpu_trainer: Trainer, model: Path, tmp_path: Path
) -> None:
    bfloat16 = {**ROW_AND_COLUMN_LAYERS, "graph__dtype": "bfloat16"}
    expected = rows_of(train(cpu_trainer, tmp_path / "cpu", model, **bfloat16))

    rows = rows_of(train(trainer, tmp_path / "neuron", model, **bfloat16, **TP2_DP2))

    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=2e-2)


def sharded_logits(trainer: Trainer, lineage: Lineage, folder: Path) -> dict[str, torch.Tensor]:
    """Logits and inputs of the sharded model after the training's last checkpoint."""
    from safetensors.torch import load_file

    file, out = folder / "recipe.json", folder / "logits.safetensors"
    file.write_text(lineage.recipe.to_json())
    argv, call = (
        [str(file), lineage.store.url, lineage.raw.url, lineage.version, str(out)],
        "tests.neuron_on_cpu.probes:write_logits",
    )
    ended = trainer.request(argv, ranks=lineage.recipe.hardware.tensor_parallel_size, call=call)
    assert set(ended.codes) == {0}, ended.log
    return load_file(out)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", FLOAT32), ("bfloat16", BFLOAT16)])
def test_the_shipped_pipeline_from_rows_to_verdict(
    dtype: str, tolerance: float, trainer: Trainer, tmp_path: Path
) -> None:
    from peft import PeftModel

    from neuron_ops.steps import evaluate

    recipe = make_demo_recipe(**TP2, graph__dtype=dtype, training__max_steps=20)
    lineage = make_demo_run(tmp_path, recipe)
    ended = trainer.train(lineage)
    assert set(ended.codes) == {0}, ended.log

    lineage = open_demo_run(tmp_path, recipe)
    for verb, build in (("consolidate", consolidate.build), ("merge", merge.build), ("evaluate", evaluate.build)):
        program.make(BY_VERB[verb], lineage, build)

    sharded = sharded_logits(trainer, lineage, tmp_path)
    base, merged = (load(lineage.require(name).location, dtype) for name in ("base_model", "merged_model"))
    assert (
        distance(PeftModel.from_pretrained(base, lineage.require("consolidated_weights").location), sharded)
        <= tolerance
    )
    assert distance(merged, sharded) <= BFLOAT16, "the base is stored in bfloat16, so the merged model is as well"
    checks = [
        check for name in ("consolidated_weights", "evaluation") for check in lineage.require(name).manifest.checks
    ]
    assert {check.name for check in checks if check.passed} == {
        "adapter_is_complete",
        "better_than_base",
        "merged_equals_base_plus_adapter",
    }


def load(folder: str, dtype: str) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return model.eval()


def distance(model: torch.nn.Module, sharded: dict[str, torch.Tensor]) -> float:
    """The largest difference between a model's logits and those of the sharded one, relative to the largest logit."""
    import torch

    inputs = {name: sharded[name] for name in ("input_ids", "position_ids")}
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits.float()
    # Not at padding, where only one of the two masks what lies before.
    counted = sharded["labels"] != -100
    return float((logits - sharded["logits"])[counted].abs().max() / sharded["logits"][counted].abs().max())
