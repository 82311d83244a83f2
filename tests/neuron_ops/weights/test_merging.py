"""Merging: equal to PEFT's, byte for byte the base's where nothing is targeted, and whole or not there at all."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from neuron_ops.errors import CorruptArtifact, InvalidInput
from neuron_ops.weights.merge_proof import verify_merge
from neuron_ops.weights.merging import MergeReport, WeightedAdapter, merge_adapters

FIXTURES = Path(__file__).parents[2] / "fixtures" / "neuron_checkpoints"
REPOSITORY = Path(__file__).parents[3]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MakeBase = Callable[..., Path]
MakeAdapter = Callable[..., Path]


@pytest.fixture
def make_base(tmp_path: Path) -> MakeBase:
    def make(dtype: torch.dtype = torch.bfloat16, shard_size: str = "1GB", name: str = "base", **changes: Any) -> Path:
        torch.manual_seed(3)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
        config = LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=64, dtype=dtype, **changes)
        folder = tmp_path / name
        LlamaForCausalLM(config).to(dtype).save_pretrained(folder, max_shard_size=shard_size)
        (folder / "tokenizer.json").write_text('{"version": "1.0"}')
        (folder / "LICENSE").write_text("some licence")
        return folder

    return make


@pytest.fixture
def make_adapter(tmp_path: Path) -> MakeAdapter:
    def make(base: Path, name: str = "adapter", seed: int = 4, **options: Any) -> Path:
        """An adapter saved by PEFT, every tensor of it random."""
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ALL, "task_type": "CAUSAL_LM"} | options)
        peft_model = get_peft_model(model, config)
        with torch.no_grad():
            for parameter_name, parameter in peft_model.named_parameters():
                if parameter.requires_grad:
                    noise = torch.randn_like(parameter) * 0.05
                    if any(part in parameter_name for part in ("lora_A", "lora_B", "lora_embedding")):
                        parameter.copy_(noise * 4)
                    else:  # a magnitude, a bias or a whole module: near what it was
                        parameter.add_(noise)
        peft_model.save_pretrained(tmp_path / name, save_embedding_layers="embed_tokens" in str(options))
        return tmp_path / name

    return make


def load(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}


def peft_merged(base: Path, adapter: Path, dtype: torch.dtype | str = "auto") -> dict[str, torch.Tensor]:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), adapter)
    return dict(model.merge_and_unload().state_dict())


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(2, 18)[None]).logits.float()


def assert_logits_are_those_of_base_and_adapter(base: Path, adapter: Path, out: Path, tolerance: float) -> None:
    unmerged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), adapter)
    merged, problems = AutoModelForCausalLM.from_pretrained(out, dtype="auto", output_loading_info=True)
    assert not any(problems.values())
    expected, found, untrained = (
        logits_of(model) for model in (unmerged, merged, AutoModelForCausalLM.from_pretrained(base, dtype="auto"))
    )
    assert (found - expected).abs().max() < tolerance
    assert (untrained - expected).abs().max() > 5 * tolerance


def merge(base: Path, *adapters: Path, out: Path) -> MergeReport:
    report = merge_adapters(base, [WeightedAdapter(adapter) for adapter in adapters], out)
    verify_merge(base, out, report, reread_base=True)
    return report


def ulps(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """How many representable numbers lie between, for 16-bit floats."""
    words = [tensor.view(torch.int16).int() for tensor in (found, expected)]
    ordered = [torch.where(word < 0, -(word & 0x7FFF), word) for word in words]
    return (ordered[0] - ordered[1]).abs()


@pytest.mark.parametrize("case", ["a_tp2_qv_pt", "b_tp2_all_pt", "c_tp4_kv2_all_pt"])
def test_a_consolidated_adapter_merges_into_what_peft_makes_of_it(case: str, tmp_path: Path) -> None:
    base = FIXTURES / "bases" / ("llama-h8-kv2-bf16" if case.startswith("c") else "llama-h8-kv4-bf16")

    merge(base, FIXTURES / case / "expected" / "consolidated", out=tmp_path / "out")

    expected = load_file(FIXTURES / case / "expected" / "merged" / "model.safetensors")
    found = load(tmp_path / "out")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


VARIANTS = {
    "plain": {},
    "qv": {"target_modules": ["q_proj", "v_proj"], "lora_alpha": 7},
    "rslora": {"use_rslora": True, "r": 6},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 32}},
    "dora": {"use_dora": True},
    "dora_rslora": {"use_dora": True, "use_rslora": True, "target_modules": ["o_proj", "up_proj"]},
    "modules_to_save": {"modules_to_save": ["lm_head", "norm"], "target_modules": ["q_proj"]},
    "head": {"target_modules": ["lm_head", "v_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "embedding_dora": {"target_modules": ["embed_tokens"], "use_dora": True},
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_merges_as_in_peft(
    variant: str, dtype: torch.dtype, make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    base = make_base(dtype)
    adapter = make_adapter(base, **VARIANTS[variant])

    merge(base, adapter, out=tmp_path / "out")

    # PEFT rounds the change of an embedding before it adds it; with an fp32 base it can't, and rounding once is left.
    found, expected = (
        load(tmp_path / "out"),
        peft_merged(base, adapter, torch.float32 if variant == "embedding" else "auto"),
    )
    assert found.keys() == expected.keys()
    for name, tensor in ((name, tensor.to(dtype)) for name, tensor in expected.items()):
        assert found[name].dtype == dtype
        if dtype == torch.float32:
            assert torch.allclose(found[name], tensor, rtol=1e-5, atol=1e-7), name
        else:
            distance = ulps(found[name], tensor)
            assert distance.max() <= 1, name
            assert (distance > 0).float().mean() < 0.01, name


@pytest.mark.parametrize("variant", ["plain", "dora", "modules_to_save", "embedding"])
def test_the_merged_model_says_what_base_and_adapter_say(
    variant: str, make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    base = make_base(torch.float32)
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
@pytest.mark.parametrize("shard_size", ["1GB", "10KB"], ids=["one_file", "sharded"])
@pytest.mark.parametrize("case", TIED)
def test_a_tied_embedding_is_separated_exactly_when_one_half_changes(
    case: str, shard_size: str, make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    base = make_base(torch.float32, shard_size, tie_word_embeddings=True)
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
    base = make_base(torch.bfloat16, "10KB", tie_word_embeddings=True)

    merge(base, make_adapter(base, target_modules=["lm_head"]), out=tmp_path / "out")

    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    weights = load(tmp_path / "out")
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in weights.values())
    assert index["weight_map"].keys() == weights.keys()


def test_a_bias_is_replaced_or_shifted(make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    base = make_base(torch.float32, attention_bias=True)
    targets = ["q_proj", "o_proj"]
    trained = make_adapter(base, "trained", bias="all", target_modules=targets)
    added = make_adapter(base, "added", lora_bias=True, target_modules=targets)

    for adapter in (trained, added):
        report = merge(base, adapter, out=tmp_path / f"out_{adapter.name}")

        found, expected = load(tmp_path / f"out_{adapter.name}"), peft_merged(base, adapter)
        assert all(torch.allclose(found[name], tensor, atol=1e-6) for name, tensor in expected.items())
        assert "model.layers.0.self_attn.q_proj.bias" in {tensor.name for tensor in report.changed}


def test_a_bias_that_the_base_does_not_have_is_refused(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    donor = make_base(torch.float32, name="donor", attention_bias=True)
    adapter = make_adapter(donor, lora_bias=True, target_modules=["q_proj"])

    with pytest.raises(InvalidInput, match=r"q_proj\.lora_B\.bias.*no such tensor"):
        merge(make_base(torch.float32), adapter, out=tmp_path / "out")


def test_several_adapters_add_up_with_their_weights_and_one_rounding(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    base = make_base(torch.bfloat16)
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


def test_the_sharding_the_headers_and_all_other_files_stay(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    base = make_base(torch.bfloat16, "10KB")
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


def test_the_report_accounts_for_every_byte(make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    base = make_base(torch.bfloat16)
    adapter = make_adapter(base)
    seen: list[tuple[int, int]] = []

    report = merge_adapters(
        base, [WeightedAdapter(adapter)], tmp_path / "out", progress=lambda done, total: seen.append((done, total))
    )

    size = (base / "model.safetensors").stat().st_size
    assert report.bytes_copied + report.bytes_computed == size
    assert seen[-1] == (size, size)
    assert {file.name: file.bytes for file in report.files} == {
        path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()
    }
    proof = verify_merge(base, tmp_path / "out", report, targets=frozenset(t.name for t in report.changed))
    assert (proof.num_changed, proof.bytes_equal_to_base) == (14, report.bytes_copied)


def test_the_reported_norms_and_errors_are_true(make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    base = make_base(torch.bfloat16)
    for variant in ("qv", "dora", "modules_to_save"):
        adapter = make_adapter(base, variant, **VARIANTS[variant])

        report = merge(base, adapter, out=tmp_path / f"out_{variant}")

        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto").double()
        exact = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).double().merge_and_unload()
        before, after = load(base), load(tmp_path / f"out_{variant}")
        for tensor in report.changed:
            target = exact.state_dict()[tensor.name]
            assert tensor.delta_norm == pytest.approx((target - before[tensor.name].double()).norm().item(), rel=1e-4)
            assert (after[tensor.name].double() - target).abs().max() <= tensor.max_abs_error
            assert tensor.max_abs_error < 0.02


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings=True`")
def test_a_dry_run_says_what_would_be_written_and_writes_nothing(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    base = make_base(torch.bfloat16, "10KB", tie_word_embeddings=True)
    adapter = [WeightedAdapter(make_adapter(base, target_modules=["q_proj", "lm_head"]))]

    foreseen = merge_adapters(base, adapter, tmp_path / "out", dry_run=True)

    assert foreseen.dry_run
    assert not (tmp_path / "out").exists()
    made = merge_adapters(base, adapter, tmp_path / "out")
    assert [(file.name, file.bytes) for file in foreseen.files] == [(file.name, file.bytes) for file in made.files]
    assert [(t.name, t.delta_norm) for t in foreseen.changed] == [(t.name, t.delta_norm) for t in made.changed]


def rewrite_adapter(adapter: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
    path = adapter / "adapter_model.safetensors"
    save_file({name: change(name, tensor) for name, tensor in load_file(path).items()}, path)
    return adapter


def test_an_adapter_that_lost_a_layer_is_refused(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    base = make_base()
    path = make_adapter(base, target_modules=["q_proj", "v_proj"]) / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if "layers.1.self_attn.v" not in name}, path)

    with pytest.raises(InvalidInput, match=r"holds no change of model\.layers\.1\.self_attn\.v_proj\.weight"):
        merge(base, path.parent, out=tmp_path / "out")


def test_an_adapter_that_was_never_trained_is_refused(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
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
    base = make_base(torch.float16)
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


def test_an_unchanged_copy_of_a_base_tensor_is_no_change(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
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


def test_weighted_adapters_of_one_embedding_add_up(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    base = make_base(torch.float32)
    adapters = [make_adapter(base, name, seed, target_modules=["embed_tokens"]) for name, seed in (("a", 1), ("b", 2))]

    merge_adapters(base, [WeightedAdapter(adapters[0], 0.5), WeightedAdapter(adapters[1], 2)], tmp_path / "out")

    name = "model.embed_tokens.weight"
    expected = load(base)[name]
    for adapter, weight in zip(adapters, (0.5, 2), strict=True):
        expected = expected + weight * (peft_merged(base, adapter)[name] - load(base)[name])
    assert torch.allclose(load(tmp_path / "out")[name], expected, atol=1e-6)


def test_neither_merging_nor_consolidating_imports_torch() -> None:
    modules = ("merging", "merge_proof", "consolidation")
    code = f"import sys, {', '.join(f'neuron_ops.weights.{name}' for name in modules)}; print(*sys.modules)"

    loaded = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert not {"torch", "transformers", "peft", "safetensors"} & set(loaded.stdout.split())


def test_consolidating_does_not_import_numpy_either_because_bytes_are_only_moved() -> None:
    code = "import sys, neuron_ops.weights.consolidation; print('numpy' in sys.modules)"

    loaded = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "False"


def test_a_full_disk_is_noticed_before_the_first_byte(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base()
    adapter = make_adapter(base)
    monkeypatch.setattr("os.statvfs", lambda _: type("Full", (), {"f_bavail": 1, "f_frsize": 4096}))

    with pytest.raises(InvalidInput, match=r"has 0\.00 GB free"):
        merge(base, adapter, out=tmp_path / "out")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("place", ["untouched", "changed", "header", "restored", "other"])
def test_the_proof_fails_when_a_single_bit_of_the_result_is_wrong(
    place: str, make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    base = make_base()
    report = merge(base, make_adapter(base, target_modules=["q_proj"]), out=tmp_path / "out")
    weights = tmp_path / "out" / "model.safetensors"
    if place == "untouched":
        flip(weights, report.untouched[1].start)
    elif place == "changed":
        flip(weights, report.changed[0].start)
    elif place == "header":
        weights.write_bytes(weights.read_bytes().replace(b'"format"', b'"FORMAT"'))
    elif place == "restored":
        shutil.copy(base / "model.safetensors", weights)
    else:
        flip(tmp_path / "out" / "tokenizer.json", 3)

    with pytest.raises(CorruptArtifact):
        verify_merge(base, tmp_path / "out", report)


def test_the_proof_compares_the_changed_tensors_with_the_expected_ones(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    base = make_base()
    report = merge(base, make_adapter(base, target_modules=["q_proj"]), out=tmp_path / "out")

    with pytest.raises(CorruptArtifact, match=r"k_proj"):
        verify_merge(base, tmp_path / "out", report, targets=frozenset(["model.layers.0.self_attn.k_proj.weight"]))


KILLED = """
import sys
from pathlib import Path
from neuron_ops.weights.merging import WeightedAdapter, merge_adapters
base, adapter, out = map(Path, sys.argv[1:])
print("ready", flush=True)
merge_adapters(base, [WeightedAdapter(adapter)], out)
"""


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.02, 0.05])
def test_a_killed_merge_leaves_nothing_that_looks_finished_and_the_next_one_cleans_up(
    delay: float, make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    base = make_base(torch.bfloat16)
    adapter = make_adapter(base)
    padding = {"model.padding.weight": torch.ones(16, 1 << 20, dtype=torch.bfloat16)}  # some tens of milliseconds
    save_file(load(base) | padding, base / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(base), str(adapter), str(out)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    if out.exists():  # the kill came too late
        shutil.rmtree(out)

    report = merge(base, adapter, out=out)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "out"]
    assert len(report.changed) == 14
