"""Merging: equal to PEFT's, whatever the adapter targets, however the base is stored."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from neuron_ops.weights.merging import WeightedAdapter, merge_adapters
from tests.neuron_ops.weights.merging_bench import (
    FIXTURES,
    REPOSITORY,
    VARIANTS,
    MakeAdapter,
    MakeBase,
    assert_logits_are_those_of_base_and_adapter,
    load,
    merge,
    peft_merged,
    ulps,
)


@pytest.mark.parametrize("case", ["a_tp2_qv_pt", "b_tp2_all_pt", "c_tp4_kv2_all_pt"])
def test_a_consolidated_adapter_merges_into_what_peft_makes_of_it(case: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    base = FIXTURES / "bases" / ("llama-h8-kv2-bf16" if case.startswith("c") else "llama-h8-kv4-bf16")

    merge(base, FIXTURES / case / "expected" / "consolidated", out=tmp_path / "out")

    expected = load_file(FIXTURES / case / "expected" / "merged" / "model.safetensors")
    found = load(tmp_path / "out")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("variant", "dtype_name"),
    [
        *((variant, "bfloat16") for variant in VARIANTS),
        *((variant, dtype) for variant in ("plain", "dora", "embedding") for dtype in ("float16", "float32")),
    ],
)
def test_every_variant_merges_as_in_peft(
    variant: str, dtype_name: str, make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    import torch

    base = make_base(dtype_name)
    adapter = make_adapter(base, **VARIANTS[variant])

    merge(base, adapter, out=tmp_path / "out")

    # PEFT rounds the change of an embedding before it adds it; with an fp32 base it can't, and rounding once is left.
    found, expected = (
        load(tmp_path / "out"),
        peft_merged(base, adapter, torch.float32 if variant == "embedding" else "auto"),
    )
    assert found.keys() == expected.keys()
    dtype = getattr(torch, dtype_name)
    for name, tensor in ((name, tensor.to(dtype)) for name, tensor in expected.items()):
        assert found[name].dtype == dtype
        if dtype == torch.float32:
            assert torch.allclose(found[name], tensor, rtol=1e-5, atol=1e-7), name
        else:
            distance = ulps(found[name], tensor)
            assert distance.max() <= 1, name
            assert (distance > 0).float().mean() < 0.01, name


@pytest.mark.parametrize("variant", ["dora", "modules_to_save"])
def test_the_merged_model_says_what_base_and_adapter_say(
    variant: str, make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:

    base = make_base("float32")
    adapter = make_adapter(base, **VARIANTS[variant])

    merge(base, adapter, out=tmp_path / "out")

    assert_logits_are_those_of_base_and_adapter(base, adapter, tmp_path / "out", 1e-5)


TIED = {
    "untouched": ({"target_modules": ["q_proj"]}, False),
    "embedding": ({"target_modules": ["embed_tokens"]}, True),
    "head": ({"target_modules": ["lm_head"]}, True),
    "both": ({"target_modules": ["embed_tokens", "lm_head"]}, True),
    "saved_embedding": ({"modules_to_save": ["embed_tokens"], "target_modules": ["q_proj"]}, True),
    "saved_head": ({"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]}, True),
}


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings=True`")
@pytest.mark.parametrize(
    ("case", "shard_size"), [*((case, "1GB") for case in TIED), ("embedding", "10KB"), ("head", "10KB")]
)
def test_a_tied_embedding_is_separated_exactly_when_one_half_changes(
    case: str, shard_size: str, make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:

    base = make_base("float32", shard_size, tie_word_embeddings=True)
    options, separated = TIED[case]
    adapter = make_adapter(base, **options)

    report = merge(base, adapter, out=tmp_path / "out")

    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is not separated
    assert report.added == (("lm_head.weight",) if separated else ())
    assert ("lm_head.weight" in load(tmp_path / "out")) is separated
    assert_logits_are_those_of_base_and_adapter(base, adapter, tmp_path / "out", 1e-5)


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings=True`")
def test_the_index_of_a_separated_model_counts_its_bytes(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:

    base = make_base("bfloat16", "10KB", tie_word_embeddings=True)

    merge(base, make_adapter(base, target_modules=["lm_head"]), out=tmp_path / "out")

    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    weights = load(tmp_path / "out")
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in weights.values())
    assert index["weight_map"].keys() == weights.keys()


def test_a_bias_is_replaced_or_shifted(make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    import torch

    base = make_base("float32", attention_bias=True)
    targets = ["q_proj", "o_proj"]
    trained = make_adapter(base, "trained", bias="all", target_modules=targets)
    added = make_adapter(base, "added", lora_bias=True, target_modules=targets)

    for adapter in (trained, added):
        report = merge(base, adapter, out=tmp_path / f"out_{adapter.name}")

        found, expected = load(tmp_path / f"out_{adapter.name}"), peft_merged(base, adapter)
        assert all(torch.allclose(found[name], tensor, atol=1e-6) for name, tensor in expected.items())
        assert "model.layers.0.self_attn.q_proj.bias" in {tensor.name for tensor in report.changed}


def test_several_adapters_add_up_with_their_weights_and_one_rounding(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    import torch

    base = make_base("bfloat16")
    adapters = [make_adapter(base, name, seed, r=r) for name, seed, r in (("a", 1, 4), ("b", 2, 8), ("c", 3, 3))]
    weights = [0.5, -1.25, 0.3]

    merge_adapters(base, [WeightedAdapter(*pair) for pair in zip(adapters, weights, strict=True)], tmp_path / "out")

    found, weight = load(tmp_path / "out"), "model.layers.1.mlp.up_proj.weight"
    exact = load(base)[weight].double()
    for path, factor, rank in zip(adapters, weights, (4, 8, 3), strict=True):
        tensors = load(path)
        a, b = (tensors[f"base_model.model.model.layers.1.mlp.up_proj.lora_{x}.weight"].double() for x in "AB")
        exact += factor * 8 / rank * (b @ a)
    assert ulps(found[weight], exact.to(torch.bfloat16)).max() <= 1
    assert (ulps(found[weight], exact.to(torch.bfloat16)) > 0).float().mean() < 0.001


def test_weighted_adapters_of_one_embedding_add_up(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    import torch

    base = make_base("float32")
    adapters = [make_adapter(base, name, seed, target_modules=["embed_tokens"]) for name, seed in (("a", 1), ("b", 2))]

    merge_adapters(base, [WeightedAdapter(adapters[0], 0.5), WeightedAdapter(adapters[1], 2)], tmp_path / "out")

    name = "model.embed_tokens.weight"
    expected = load(base)[name]
    for adapter, weight in zip(adapters, (0.5, 2), strict=True):
        expected = expected + weight * (peft_merged(base, adapter)[name] - load(base)[name])
    assert torch.allclose(load(tmp_path / "out")[name], expected, atol=1e-6)


def test_an_unchanged_copy_of_a_base_tensor_is_no_change(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    base = make_base()
    adapter = make_adapter(base, target_modules=["q_proj"])
    weights = load_file(adapter / "adapter_model.safetensors")
    embedding = load(base)["model.embed_tokens.weight"]
    save_file(
        weights | {"base_model.model.model.embed_tokens.weight": embedding.float()},
        adapter / "adapter_model.safetensors",
    )

    report = merge(base, adapter, out=tmp_path / "out")

    assert report.unchanged_copies == ("model.embed_tokens.weight",)
    assert len(report.changed) == 2


def test_the_sharding_the_headers_and_all_other_files_stay(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    import torch

    base = make_base("bfloat16", "10KB")
    (base / "original").mkdir()
    (base / "original" / "params.json").write_text("{}")
    (base / "pytorch_model.bin").write_bytes(b"the base's weights again")
    (base / "README.md").write_text("the base's card")
    adapter = make_adapter(base, target_modules=["q_proj", "v_proj"])

    report = merge(base, adapter, out=tmp_path / "out")

    assert report.left_out == ("README.md", "pytorch_model.bin")
    names = {path.relative_to(base) for path in base.rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()} == {
        name for name in names if str(name) not in report.left_out
    }
    assert len(list(base.glob("*.safetensors"))) > 2
    changed = {tensor.name for tensor in report.changed}
    assert changed == {f"model.layers.{i}.self_attn.{x}_proj.weight" for i in (0, 1) for x in "qv"}
    before, after = load(base), load(tmp_path / "out")
    assert {name for name in before if not torch.equal(before[name], after[name])} == changed
    for name in ("config.json", "tokenizer.json", "LICENSE", "original/params.json", "model.safetensors.index.json"):
        assert (base / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_neither_merging_nor_consolidating_imports_torch() -> None:
    modules = ("merging", "merge_proof", "consolidation")
    code = f"import sys, {', '.join(f'neuron_ops.weights.{name}' for name in modules)}; print(*sys.modules)"

    loaded = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert not {"torch", "transformers", "peft", "safetensors"} & set(loaded.stdout.split())


def test_consolidating_does_not_import_numpy_either_because_bytes_are_only_moved() -> None:
    code = "import sys, neuron_ops.weights.consolidation; print('numpy' in sys.modules)"

    loaded = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "False"
