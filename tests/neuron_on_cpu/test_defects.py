"""Each defect of the libraries that touches us: there when our repair is taken back, and not there with it.

Found in optimum-neuron 0.4.5 and neuronx-distributed 0.15.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from neuron_ops.backends import refuse_model
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.schema import Recipe
from tests.neuron_on_cpu.bench import TP2, TP4, make_lineage, make_recipe
from tests.neuron_ops.training.workbench import VERSION, Ended, Trainer, arguments

pytestmark = pytest.mark.neuron_on_cpu

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EVERY_LAYER: dict[str, Any] = {
    "graph__lora__target_modules": ALL,
    "training__max_steps": 2,
    "training__warmup_steps": 0,
}
REPLICATED = 12
"""Factors that every rank holds whole, in two layers: lora_A of q, k, v, gate with up; lora_B of o, down."""


def drift(trainer: Trainer, folder: Path, recipe: Recipe, changes: dict[str, Any]) -> dict[str, Any]:
    """After two steps: which replicated factors differ between ranks, and the gradient norms."""
    lineage = make_lineage(folder, recipe)
    file, out = folder / "recipe.json", folder / "drift.json"
    file.write_text(recipe.to_json())
    argv = [str(file), lineage.store.url, lineage.raw.url, VERSION, json.dumps(changes), str(out)]
    ended = trainer.request(argv, ranks=2, call="tests.neuron_on_cpu.probes:write_drift")
    assert set(ended.codes) == {0}, ended.log
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def train(trainer: Trainer, folder: Path, recipe: Recipe, ranks: int, changes: dict[str, Any]) -> Ended:
    lineage = make_lineage(folder, recipe)
    argv = [json.dumps(changes), *arguments(lineage, folder)]
    return trainer.request(argv, ranks, call="tests.neuron_on_cpu.probes:train_with_changes")


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({"marks": False}, "float32"),
        ({"zero_1": True}, "bfloat16"),
        ({"config": {"sequence_parallel_enabled": False}}, "bfloat16"),
    ],
    ids=["replicated factors are not marked", "ZeRO-1 keeps gradients elsewhere", "without sequence parallelism"],
)
def test_replicated_factors_drift_apart_only_without_our_settings(
    changes: dict[str, Any], dtype: str, trainer: Trainer, model: Path, tmp_path: Path
) -> None:
    recipe = make_recipe(model, **TP2, **EVERY_LAYER, graph__dtype=dtype)

    defective = drift(trainer, tmp_path / "theirs", recipe, changes)
    ours = drift(trainer, tmp_path / "ours", recipe, {})

    # After two steps some gradients are too small to show in bfloat16.
    assert REPLICATED / 2 < len(defective["differing"]) <= REPLICATED, defective
    assert ours["differing"] == []


def test_a_checkpoint_of_drifted_ranks_is_refused_by_name_and_not_published(
    trainer: Trainer, model: Path, tmp_path: Path
) -> None:
    recipe = make_recipe(model, **TP2, **EVERY_LAYER)

    ended = train(trainer, tmp_path, recipe, ranks=2, changes={"marks": False})

    assert ended.codes == [2, 2], ended.log
    (error,) = [line for line in ended.log.splitlines() if line.startswith("error: ")]
    assert "The checkpoint is not published" in error
    assert "down_proj.lora_B" in error
    assert "sequence_parallel_enabled" in error
    assert "Traceback" not in ended.log


def test_on_trn2_copies_of_key_value_heads_drift_apart_and_the_recipe_is_refused(
    trainer: Trainer, model: Path, tmp_path: Path
) -> None:
    recipe = make_recipe(model, **TP4, **EVERY_LAYER)
    on_trn2 = make_recipe(model, **{**TP4, "hardware__instance_type": "ml.trn2.48xlarge"}, **EVERY_LAYER)

    right = train(trainer, tmp_path / "trn1", recipe, ranks=4, changes={})
    wrong = train(trainer, tmp_path / "trn2", recipe, ranks=4, changes={"platform": "trn2"})

    assert set(right.codes) == {0}, right.log
    assert set(wrong.codes) == {2}, wrong.log
    assert "qkv_proj.lora_B.weight_k" in wrong.log
    with pytest.raises(InvalidInput, match="gradients of different heads"):
        refuse_model(on_trn2, config_of(model))


@pytest.mark.parametrize("max_norm", [1e30, 0.05], ids=["not clipped", "clipped"])
def test_copies_of_key_value_heads_count_once_in_the_gradient_norm(
    max_norm: float, trainer: Trainer, model: Path, tmp_path: Path
) -> None:
    """Against a norm that takes each value from the first rank that holds it; the library's would be a fifth larger."""
    recipe = make_recipe(model, **TP4, **EVERY_LAYER, training__max_grad_norm=max_norm)
    lineage = make_lineage(tmp_path, recipe)
    file, out = tmp_path / "recipe.json", tmp_path / "norms.json"
    file.write_text(recipe.to_json())
    argv = [str(file), lineage.store.url, lineage.raw.url, VERSION, str(out)]

    ended = trainer.request(argv, ranks=4, call="tests.neuron_on_cpu.probes:write_norms")

    assert set(ended.codes) == {0}, ended.log
    for norm in json.loads(out.read_text()):
        assert norm["used"] == pytest.approx(min(norm["before"], max_norm), rel=1e-4)
        assert norm["with every copy"] > 1.05 * norm["used"]


def test_a_part_of_a_fused_layer_alone_fails_in_the_library_and_is_refused_by_us(
    trainer: Trainer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = {**EVERY_LAYER, "graph__lora__target_modules": ["q_proj", "v_proj"]}
    recipe = make_recipe(model, **TP4, **some)
    with pytest.raises(InvalidInput, match="Name all of them or none"):
        refuse_model(recipe, config_of(model))

    monkeypatch.setattr("neuron_ops.steps.addresses.refuse_model", lambda recipe, config: None)
    failed = train(trainer, tmp_path, recipe, ranks=4, changes={"refusals": False})

    assert set(failed.codes) == {1}, failed.log
    assert "k_proj" in failed.log


def config_of(model: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((model / "config.json").read_bytes())
    return config
