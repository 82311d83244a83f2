"""What cannot be merged is refused by name, and nothing is written."""

from pathlib import Path

import pytest

from neuron_ops.errors import InvalidInput
from tests.neuron_ops.weights.merging_bench import MakeAdapter, MakeBase, merge, rewrite_adapter


def test_a_bias_that_the_base_does_not_have_is_refused(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:

    donor = make_base("float32", name="donor", attention_bias=True)
    adapter = make_adapter(donor, lora_bias=True, target_modules=["q_proj"])

    with pytest.raises(InvalidInput, match=r"q_proj\.lora_B\.bias.*no such tensor"):
        merge(make_base("float32"), adapter, out=tmp_path / "out")


def test_an_adapter_that_lost_a_layer_is_refused(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    base = make_base()
    path = make_adapter(base, target_modules=["q_proj", "v_proj"]) / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if "layers.1.self_attn.v" not in name}, path)

    with pytest.raises(InvalidInput, match=r"holds no change of model\.layers\.1\.self_attn\.v_proj\.weight"):
        merge(base, path.parent, out=tmp_path / "out")


def test_an_adapter_that_was_never_trained_is_refused(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    import torch

    base = make_base()
    adapter = rewrite_adapter(
        make_adapter(base), lambda name, t: torch.zeros_like(t) if "layers.1.mlp.up_proj.lora_B" in name else t
    )

    with pytest.raises(InvalidInput, match=r"layers\.1\.mlp\.up_proj\.weight, but its change is zero"):
        merge(base, adapter, out=tmp_path / "out")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_a_change_that_rounds_away_is_refused(make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    base = make_base()
    adapter = rewrite_adapter(make_adapter(base), lambda name, tensor: tensor * 1e-9)

    with pytest.raises(InvalidInput, match="too small to alter any BF16 weight"):
        merge(base, adapter, out=tmp_path / "out")


def test_an_adapter_with_nan_is_refused(make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    base = make_base()
    adapter = rewrite_adapter(make_adapter(base), lambda name, t: t * float("nan") if "k_proj.lora_A" in name else t)

    with pytest.raises(InvalidInput, match=r"k_proj\.lora_A\.weight holds NaN"):
        merge(base, adapter, out=tmp_path / "out")


def test_a_result_too_large_for_the_dtype_is_refused(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:

    base = make_base("float16")
    adapter = rewrite_adapter(make_adapter(base), lambda name, tensor: tensor * 1000)

    with pytest.raises(InvalidInput, match="becomes NaN or infinite in F16"):
        merge(base, adapter, out=tmp_path / "out")


def test_an_adapter_trained_on_other_embeddings_is_refused(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    base = make_base()
    adapter = rewrite_adapter(
        make_adapter(base, target_modules=["embed_tokens"]), lambda name, t: t + 1 if "base_layer" in name else t
    )

    with pytest.raises(InvalidInput, match="trained on another"):
        merge(base, adapter, out=tmp_path / "out")


def test_a_full_disk_is_noticed_before_the_first_byte(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base()
    adapter = make_adapter(base)
    monkeypatch.setattr("os.statvfs", lambda _: type("Full", (), {"f_bavail": 1, "f_frsize": 4096}))

    with pytest.raises(InvalidInput, match=r"has 0\.00 GB free"):
        merge(base, adapter, out=tmp_path / "out")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]
