"""Reading PEFT adapters and pairing each of their tensors with a base tensor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from neuron_ops.errors import InvalidInput, MissingArtifact
from neuron_ops.weights.lora import read_adapter
from neuron_ops.weights.lora_targets import WeightedAdapter, plan_changes
from neuron_ops.weights.safetensors_io import read_model_folder

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

MODULE = "model.layers.0.self_attn.q_proj"
KEY = f"base_model.model.{MODULE}"


def tiny_llama() -> LlamaForCausalLM:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=32))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_llama().save_pretrained(folder)
    return folder


def write_adapter(folder: Path, tensors: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    """An adapter of one module, rank 4, unless told otherwise."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8} | config))
    if tensors is None:
        tensors = {f"{KEY}.lora_A.weight": np.ones((4, 16)), f"{KEY}.lora_B.weight": np.ones((16, 4))}
    as_floats = {name: t.astype(np.float32) if t.dtype == np.float64 else t for name, t in tensors.items()}
    save_file(as_floats, folder / "adapter_model.safetensors")
    return folder


def plan(base: Path, *adapters: Path, weight: float = 1.0) -> dict[str, Any]:
    return dict(plan_changes(read_model_folder(base), [WeightedAdapter(path, weight) for path in adapters]))


PATTERNS = [
    {},
    {"use_rslora": True},
    {"alpha_pattern": {"q_proj": 3, "layers.1.self_attn.v_proj": 5}},
    {"rank_pattern": {r"model\.layers\.0\..*q_proj": 2}, "alpha_pattern": {"^v_proj": 7, "mlp.down_proj": 9}},
    {"rank_pattern": {"q_proj": 2, "down_proj": 8}, "use_rslora": True},
]


@pytest.mark.parametrize("options", PATTERNS)
def test_the_scaling_of_every_module_is_pefts(options: dict[str, Any], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    targets = ["q_proj", "v_proj", "down_proj"]
    model = get_peft_model(tiny_llama(), LoraConfig(r=4, lora_alpha=6, target_modules=targets, **options))
    model.save_pretrained(tmp_path, save_embedding_layers=False)

    adapter = read_adapter(tmp_path)

    checked = 0
    for name, module in model.base_model.model.named_modules():
        if isinstance(module, LoraLayer):
            assert adapter.scaling(name) == module.scaling["default"], name
            assert adapter.rank(name) == module.r["default"], name
            checked += 1
    assert checked == 6


def test_each_pair_of_factors_is_one_change(base: Path, tmp_path: Path) -> None:
    changes = plan(base, write_adapter(tmp_path / "a"), weight=0.5)

    assert list(changes) == [f"{MODULE}.weight"]
    assert changes[f"{MODULE}.weight"].low_rank[0].scale == 8 / 4 * 0.5


def test_keys_that_nobody_needs_are_tolerated_in_the_config(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a", some_future_key={"a": [1]}, corda_config=None)

    assert len(plan(base, adapter)) == 1


def test_a_module_that_the_base_does_not_have_is_refused(base: Path, tmp_path: Path) -> None:
    other = KEY.replace("layers.0", "layers.7")
    adapter = write_adapter(
        tmp_path / "a", {f"{other}.lora_A.weight": np.ones((4, 16)), f"{other}.lora_B.weight": np.ones((16, 4))}
    )

    with pytest.raises(InvalidInput, match=r"layers\.7\.self_attn\.q_proj\.lora_B\.weight.*nothing consumes it"):
        plan(base, adapter)


def test_a_factor_without_its_partner_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a", {f"{KEY}.lora_A.weight": np.ones((4, 16))})

    with pytest.raises(InvalidInput, match="no lora_B: nothing consumes it"):
        plan(base, adapter)


@pytest.mark.parametrize("key", [f"{KEY}.lora_C.weight", f"{KEY}.token_adapter.trainable_tokens_delta"])
def test_a_tensor_that_nobody_understands_is_refused(base: Path, tmp_path: Path, key: str) -> None:
    tensors = {f"{KEY}.lora_A.weight": np.ones((4, 16)), f"{KEY}.lora_B.weight": np.ones((16, 4)), key: np.ones(3)}

    with pytest.raises(InvalidInput, match="nothing here knows"):
        plan(base, write_adapter(tmp_path / "a", tensors))


def test_a_name_outside_pefts_prefix_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"does not begin with 'base_model\.model\.'"):
        plan(base, write_adapter(tmp_path / "a", {f"{MODULE}.lora_A.weight": np.ones((4, 16))}))


def test_a_shape_that_does_not_fit_the_base_is_refused_with_both_shapes(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(
        tmp_path / "a", {f"{KEY}.lora_A.weight": np.ones((4, 20)), f"{KEY}.lora_B.weight": np.ones((16, 4))}
    )

    with pytest.raises(InvalidInput, match=r"\[16, 20\].*\[16, 16\]"):
        plan(base, adapter)


def test_a_rank_other_than_the_configs_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=rf"{MODULE} rank 8"):
        plan(base, write_adapter(tmp_path / "a", r=8))


def test_factors_that_are_no_floats_are_refused(base: Path, tmp_path: Path) -> None:
    tensors = {f"{KEY}.lora_A.weight": np.ones((4, 16), np.int8), f"{KEY}.lora_B.weight": np.ones((16, 4), np.int8)}

    with pytest.raises(InvalidInput, match=r"lora_A\.weight is I8"):
        plan(base, write_adapter(tmp_path / "a", tensors))


def test_a_quantized_base_is_refused(base: Path, tmp_path: Path) -> None:
    weights = load_file(base / "model.safetensors")
    (tmp_path / "base").mkdir()
    shutil.copy(base / "config.json", tmp_path / "base")
    quantized = {name: tensor.astype(np.int8) for name, tensor in weights.items()}
    save_file(quantized, tmp_path / "base" / "model.safetensors")

    with pytest.raises(InvalidInput, match=r"I8.*unquantized"):
        plan(tmp_path / "base", write_adapter(tmp_path / "a"))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"peft_type": "IA3"}, "LoRA adapter"),
        ({"fan_in_fan_out": True}, "Conv1D"),
        ({"use_qalora": True}, "QA-LoRA"),
        ({"target_parameters": ["experts.gate"]}, "experts"),
        ({"trainable_token_indices": [1, 2]}, "trainable tokens"),
        ({"layer_replication": [[0, 2]]}, "structure"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed the base weights"),
        ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
        ({"use_dora": True}, "DoRA magnitude"),
    ],
)
def test_what_cannot_be_merged_exactly_is_refused_with_its_reason(
    base: Path, tmp_path: Path, config: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidInput, match=reason):
        plan(base, write_adapter(tmp_path / "a", **config))


def test_two_adapters_add_up_on_one_tensor(base: Path, tmp_path: Path) -> None:
    changes = plan(base, write_adapter(tmp_path / "a"), write_adapter(tmp_path / "b", lora_alpha=2))

    assert [update.scale for update in changes[f"{MODULE}.weight"].low_rank] == [2.0, 0.5]


def test_two_adapters_that_replace_one_tensor_are_refused(base: Path, tmp_path: Path) -> None:
    tensors = {"base_model.model.lm_head.weight": np.ones((32, 16))}
    adapters = [write_adapter(tmp_path / name, tensors, modules_to_save=["lm_head"]) for name in "ab"]

    with pytest.raises(InvalidInput, match="changed twice"):
        plan(base, *adapters)


def test_a_replaced_tensor_cannot_be_weighted(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a", {"base_model.model.lm_head.weight": np.ones((32, 16))})

    with pytest.raises(InvalidInput, match=r"weight 0\.5 can't scale"):
        plan(base, adapter, weight=0.5)


@pytest.mark.parametrize("weight", [0.0, float("nan"), float("inf")])
def test_a_weight_that_merges_nothing_or_everything_is_refused(base: Path, tmp_path: Path, weight: float) -> None:
    with pytest.raises(InvalidInput, match="finite number other than 0"):
        plan(base, write_adapter(tmp_path / "a"), weight=weight)


def test_a_folder_without_an_adapter_is_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match=r"adapter_config\.json does not exist"):
        plan(base, tmp_path)


def test_an_adapter_without_tensors_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nothing was trained"):
        plan(base, write_adapter(tmp_path / "a", {}))
