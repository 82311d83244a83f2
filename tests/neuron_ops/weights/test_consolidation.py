"""Consolidation: the trainers' own checkpoints bit for bit, and layouts that a shard writer below makes from a model.

The writer follows optimum-neuron 0.4.5 (`models/training/transformations_utils.py`): it cuts a known model the way the
library does, so consolidating must give that model back.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from neuron_ops.errors import CorruptArtifact, InvalidInput, MissingArtifact
from neuron_ops.weights.consolidation import BaseModelName, consolidate_checkpoint

FIXTURES = Path(__file__).parents[2] / "fixtures" / "neuron_checkpoints"
BASE = BaseModelName("meta-llama/Llama-3.2-1B", "4e20de362430cd3b72f300e6b0f18e50e7166e08")
Tensors = dict[str, torch.Tensor]
HIDDEN, MIDDLE, HEADS, HEAD_DIM, VOCABULARY = 32, 48, 8, 4, 64


def consolidate(checkpoint: Path, out: Path, **options: Any) -> Path:
    consolidate_checkpoint(checkpoint, out, base_model=BASE, **options)
    return out


@pytest.mark.parametrize("case", ["a_tp2_qv_pt", "a2_tp2_dp2_qv_xser", "b_tp2_all_pt", "c_tp4_kv2_all_pt"])
def test_a_sharded_adapter_becomes_the_very_file_that_the_library_makes(case: str, tmp_path: Path) -> None:
    out = consolidate(FIXTURES / case / "checkpoint-4", tmp_path / "out")

    expected = FIXTURES / case / "expected" / "consolidated" / "adapter_model.safetensors"
    assert (out / "adapter_model.safetensors").read_bytes() == expected.read_bytes()
    assert sorted(path.name for path in out.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_sharded_model_becomes_the_very_file_that_the_library_makes(tmp_path: Path) -> None:
    out = consolidate(FIXTURES / "e_full_tp2_pt" / "checkpoint-4", tmp_path / "out")

    expected = FIXTURES / "e_full_tp2_pt" / "expected" / "consolidated"
    assert (out / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    assert (out / "config.json").read_bytes() == (expected / "config.json").read_bytes()
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "model.safetensors",
        "special_tokens_map.json",
    ]


def test_the_config_names_the_base_model_so_that_any_machine_finds_it(tmp_path: Path) -> None:
    out = consolidate(FIXTURES / "b_tp2_all_pt" / "checkpoint-4", tmp_path / "out")

    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == BASE.id
    assert config["revision"] == BASE.revision
    assert config["inference_mode"] is True
    assert config["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert config["r"] == 4


@pytest.mark.parametrize("case", ["a_tp2_qv_pt", "c_tp4_kv2_all_pt"])
def test_the_adapter_loads_in_peft_and_gives_the_logits_of_the_sharded_model(case: str, tmp_path: Path) -> None:
    base = FIXTURES / "bases" / ("llama-h8-kv2-bf16" if case.startswith("c") else "llama-h8-kv4-bf16")
    out = consolidate(FIXTURES / case / "checkpoint-4", tmp_path / "out")

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), out)
    with torch.no_grad():
        logits = model(torch.arange(4, 36)[None]).logits.float()

    sharded = load_file(FIXTURES / case / "expected" / "sharded_model_logits.safetensors")["logits"].float()
    assert (logits.reshape(sharded.shape) - sharded).abs().max() < 0.01
    assert sharded.abs().max() > 0.5


def test_the_report_counts_what_was_read_and_hashes_what_was_written(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = consolidate_checkpoint(
        FIXTURES / "c_tp4_kv2_all_pt" / "checkpoint-4",
        tmp_path / "out",
        base_model=BASE,
        progress=lambda done, total: seen.append((done, total)),
    )

    assert (report.kind, report.layout, report.tensor_parallel_size, report.num_tensors) == ("adapter", "neuron", 4, 56)
    assert report.num_parameters == 17408
    assert report.num_replicas_compared == 64
    assert {file.name: file.bytes for file in report.files} == {
        path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()
    }
    assert all(file.xxh3_128 is not None and len(file.xxh3_128) == 32 for file in report.files)
    assert seen[-1][0] == seen[-1][1]


def test_a_refused_checkpoint_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact):
        consolidate(FIXTURES / "b2_tp2_all_sp_default_diverged" / "checkpoint-4", tmp_path / "out")

    assert list(tmp_path.iterdir()) == []


def test_a_failure_halfway_leaves_nothing_behind(tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(FIXTURES / "a_tp2_qv_pt" / "checkpoint-4", tmp_path / "checkpoint"))
    config = checkpoint / "adapter_default" / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 4', '"r": 8'))

    with pytest.raises(InvalidInput, match="rank 8"):
        consolidate(checkpoint, tmp_path / "out")

    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_taken_output_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")

    with pytest.raises(InvalidInput, match="already exists"):
        consolidate(FIXTURES / "a_tp2_qv_pt" / "checkpoint-4", tmp_path)

    assert (tmp_path / "precious").read_text() == "mine"


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    leftover = tmp_path / ".out.partial-abc"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")

    consolidate(FIXTURES / "a_tp2_qv_pt" / "checkpoint-4", tmp_path / "out")

    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_unknown_adapter_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match=r"adapter_style/adapter_shards.*adapter_default"):
        consolidate(FIXTURES / "a_tp2_qv_pt" / "checkpoint-4", tmp_path / "out", adapter="style")


def test_a_peft_folder_is_checked_and_its_weights_copied(tmp_path: Path) -> None:
    source = FIXTURES / "b_tp2_all_pt" / "expected" / "consolidated"

    out = consolidate(source, tmp_path / "out")

    assert (out / "adapter_model.safetensors").read_bytes() == (source / "adapter_model.safetensors").read_bytes()
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == BASE.id


def test_a_training_loop_that_saves_peft_in_adapter_default_is_understood(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "a_tp2_qv_pt" / "expected" / "consolidated", tmp_path / "step-4" / "adapter_default")

    report = consolidate_checkpoint(tmp_path / "step-4", tmp_path / "out", base_model=BASE)

    assert (report.layout, report.num_tensors) == ("peft", 16)


def test_an_adapter_saved_as_a_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(FIXTURES / "a_tp2_qv_pt" / "expected" / "consolidated" / "adapter_config.json", tmp_path / "in")
    (tmp_path / "in" / "adapter_model.bin").write_bytes(b"pickle")

    with pytest.raises(MissingArtifact, match=r"adapter_model\.bin, a pickle"):
        consolidate(tmp_path / "in", tmp_path / "out")


def test_a_whole_model_folder_is_copied_without_the_state_of_its_training(tmp_path: Path) -> None:
    source = Path(shutil.copytree(FIXTURES / "bases" / "llama-h8-kv4-bf16", tmp_path / "in"))
    (source / "training_args.bin").write_bytes(b"pickle")
    (source / "trainer_state.json").write_text("{}")

    out = consolidate(source, tmp_path / "out")

    assert (out / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert not {"training_args.bin", "trainer_state.json"} & {path.name for path in out.iterdir()}


# --- the shard writer -------------------------------------------------------------------------------------------------


@dataclass
class Layout:
    """How a run was parallelized."""

    tp: int = 2
    pp: int = 1
    kv_heads: int = 8
    fuse_qkv: bool = False
    xser: bool = False
    layers: int = 2
    kv_repeat: int = field(init=False)

    def __post_init__(self) -> None:
        self.kv_repeat = max(1, self.tp // self.kv_heads)

    def stage_of(self, name: str) -> int:
        if ".layers." in name:
            return int(name.split(".layers.")[1].split(".")[0]) * self.pp // self.layers
        return 0 if "embed_tokens" in name else self.pp - 1


def specs_of(layout: Layout, layer: int, prefix: str, peft: str | None) -> list[dict[str, Any]]:
    """The transformation specs of one decoder layer, as the library's metadata has them."""
    kv_rows = layout.kv_heads * layout.kv_repeat * HEAD_DIM // layout.tp
    common = {"bias": False, "tp_size": layout.tp, "peft_type": peft}
    attention: list[Any] = []
    if layout.kv_repeat > 1:
        fields = {f"{name}_projection_name": f"{name[0]}_proj" for name in ("query", "key", "value", "output")}
        fields |= {"gqa_qkv_projection_name": "qkv_proj", "num_attention_heads": HEADS, **common}
        fields |= {"num_key_value_heads": layout.kv_heads, "kv_size_multiplier": layout.kv_repeat}
        fields |= {
            "q_output_size_per_partition": HEADS * HEAD_DIM // layout.tp,
            "kv_output_size_per_partition": kv_rows,
        }
        attention = [["GQAQKVColumnParallelLinearSpec", {**fields, "fuse_qkv": layout.fuse_qkv}]]
    elif layout.fuse_qkv:
        names = {"fused_linear_name": "qkv_proj", "linear_names": ["q_proj", "k_proj", "v_proj"]}
        attention = [["FusedLinearsSpec", {**names, "fuse_axis": 0, "original_dims": [HEADS * HEAD_DIM] * 3, **common}]]
    names = {"fused_linear_name": "gate_up_proj", "linear_names": ["gate_proj", "up_proj"]}
    mlp = [["FusedLinearsSpec", {**names, "fuse_axis": 0, "original_dims": [MIDDLE, MIDDLE], **common}]]
    return [
        {"module_fully_qualified_name": f"{prefix}model.layers.{layer}.self_attn", "specs": attention},
        {"module_fully_qualified_name": f"{prefix}model.layers.{layer}.mlp", "specs": mlp},
    ]


def query_heads(layout: Layout, rank: int) -> list[int]:
    """The library's compute_query_indices_for_rank, written as the search it stands for."""
    per_rank, slots = HEADS // layout.tp, layout.kv_heads * layout.kv_repeat // layout.tp
    group, taken = HEADS // layout.kv_heads, HEADS // (layout.kv_heads * layout.kv_repeat)
    keys = (list(range(layout.kv_heads)) * layout.kv_repeat)[rank * slots : (rank + 1) * slots]
    copy = rank * slots // layout.kv_heads
    heads = [key * group + copy * taken + i for key in keys for i in range(taken)]
    assert len(heads) == per_rank
    return heads


def cut_heads(tensor: torch.Tensor, heads: list[int], axis: int) -> torch.Tensor:
    return torch.cat([tensor.narrow(axis, head * HEAD_DIM, HEAD_DIM) for head in heads], axis)


def chunk(tensor: torch.Tensor, layout: Layout, rank: int, axis: int = 0) -> torch.Tensor:
    return tensor.chunk(layout.tp, axis)[rank]


def cut_qkv(tensors: Mapping[str, torch.Tensor], suffix: str, layout: Layout, rank: int) -> Tensors:
    """The rows of q, k and v that a rank holds."""
    q, k, v = (tensors[f"{name}_proj.{suffix}"] for name in "qkv")
    if layout.kv_repeat == 1:
        return {"q": chunk(q, layout, rank), "k": chunk(k, layout, rank), "v": chunk(v, layout, rank)}
    repeated = (torch.cat([tensor] * layout.kv_repeat) for tensor in (k, v))
    k, v = (chunk(tensor, layout, rank) for tensor in repeated)
    return {"q": cut_heads(q, query_heads(layout, rank), 0), "k": k, "v": v}


def cut_layer(tensors: Mapping[str, torch.Tensor], layout: Layout, rank: int, rows: str, columns: str) -> Tensors:
    """One rank's part of a layer: `rows` is the suffix of what is cut by rows, `columns` of what is cut by columns."""
    attention = {name.removeprefix("self_attn."): t for name, t in tensors.items() if name.startswith("self_attn.")}
    parts = cut_qkv(attention, rows, layout, rank)
    cut: Tensors = {}
    if layout.kv_repeat > 1 and layout.fuse_qkv:
        cut[f"self_attn.qkv_proj.{rows}_qkv"] = torch.cat(list(parts.values()))
    elif layout.kv_repeat > 1:
        cut = {f"self_attn.qkv_proj.{rows}_{letter}": part for letter, part in parts.items()}
    elif layout.fuse_qkv:
        cut[f"self_attn.qkv_proj.{rows}"] = torch.cat(list(parts.values()))
    else:
        cut = {f"self_attn.{letter}_proj.{rows}": part for letter, part in parts.items()}
    gate, up = (chunk(tensors[f"mlp.{name}_proj.{rows}"], layout, rank) for name in ("gate", "up"))
    cut[f"mlp.gate_up_proj.{rows}"] = torch.cat([gate, up])
    output = tensors[f"self_attn.o_proj.{columns}"]
    heads = query_heads(layout, rank) if layout.kv_repeat > 1 else None
    cut[f"self_attn.o_proj.{columns}"] = cut_heads(output, heads, 1) if heads else chunk(output, layout, rank, 1)
    cut[f"mlp.down_proj.{columns}"] = chunk(tensors[f"mlp.down_proj.{columns}"], layout, rank, 1)
    return cut


def cut_model(model: Tensors, layout: Layout, rank: int) -> Tensors:
    """A full model's tensors on one tensor-parallel rank."""
    cut: Tensors = {}
    for layer in range(layout.layers):
        prefix = f"model.layers.{layer}."
        inside = {name.removeprefix(prefix): tensor for name, tensor in model.items() if name.startswith(prefix)}
        cut |= {prefix + name: t for name, t in cut_layer(inside, layout, rank, "weight", "weight").items()}
        cut |= {prefix + name: tensor for name, tensor in inside.items() if "norm" in name}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        cut[name] = chunk(model[name], layout, rank)
    return cut | {"model.norm.weight": model["model.norm.weight"]}


def cut_adapter(adapter: Tensors, layout: Layout, rank: int) -> Tensors:
    """An adapter's tensors on one rank; fused linears have one lora_A."""
    cut: Tensors = {}
    for layer in range(layout.layers):
        prefix = f"base_model.model.model.layers.{layer}."
        inside = {name.removeprefix(prefix): tensor for name, tensor in adapter.items() if name.startswith(prefix)}
        cut |= {
            prefix + name: t for name, t in cut_layer(inside, layout, rank, "lora_B.weight", "lora_A.weight").items()
        }
        names = ["o_proj.lora_B", "q_proj.lora_A", "k_proj.lora_A", "v_proj.lora_A"]
        if layout.fuse_qkv or layout.kv_repeat > 1:
            cut[f"{prefix}self_attn.qkv_proj.lora_A.weight"] = inside["self_attn.q_proj.lora_A.weight"]
            names = names[:1]
        cut |= {f"{prefix}self_attn.{name}.weight": inside[f"self_attn.{name}.weight"] for name in names}
        cut[f"{prefix}mlp.gate_up_proj.lora_A.weight"] = inside["mlp.gate_proj.lora_A.weight"]
        cut[f"{prefix}mlp.down_proj.lora_B.weight"] = inside["mlp.down_proj.lora_B.weight"]
    return cut


def parameter_fields(name: str, layout: Layout, peft: bool) -> dict[str, Any]:
    by_columns = any(f"{linear}.{'lora_A' if peft else 'weight'}" in name for linear in ("o_proj", "down_proj"))
    by_rows = any(part in name for part in ("q_proj", "k_proj", "v_proj", "qkv_proj", "gate_up", "embed", "lm_head"))
    if (peft and by_rows and "lora_A" in name) or not (by_rows or by_columns) or (peft and "o_proj.lora_B" in name):
        return {"tensor_model_parallel": False}
    axis = int(by_columns)
    fields = {"partition_dim": axis, "partition_stride": 2 if "gate_up" in name else 1, "num_partitions": layout.tp}
    return {"tensor_model_parallel": True, **fields}


def write_shards(folder: Path, layout: Layout, ranks: list[Tensors], prefix: str, adapter: str | None) -> None:
    """Rank files and metadata; each stage's file holds everything, stale (zero) where it isn't the stage's own."""
    (folder / "model").mkdir(parents=True)
    for stage in range(layout.pp):
        own = {name for name in ranks[0] if layout.stage_of(name) == stage}
        for rank, tensors in enumerate(ranks):
            held = tensors if adapter else {name: tensors[name] for name in own}
            held = {name: t.clone() if name in own else torch.zeros_like(t) for name, t in held.items()}
            save_rank(folder / "model" / f"dp_rank_00_tp_rank_{rank:02d}_pp_rank_{stage:02d}.pt", held, layout.xser)
        parameters = {
            with_adapter(name, adapter): parameter_fields(name, layout, adapter is not None) for name in sorted(own)
        }
        peft = "lora" if adapter else None
        layers = [layer for layer in range(layout.layers) if layer * layout.pp // layout.layers == stage]
        specs = [spec for layer in layers for spec in specs_of(layout, layer, prefix, peft)]
        metadata = {"parameters": parameters, "model_weight_transformation_specs": specs}
        (folder / f"mp_metadata_pp_rank_{stage}.json").write_text(json.dumps(metadata, indent=4))
    for name in ("checkpoint", "done"):
        (folder / name).write_text("1")


def with_adapter(name: str, adapter: str | None) -> str:
    for part in (".lora_A.", ".lora_B."):
        name = name.replace(part, f"{part}{adapter}.") if adapter else name
    return name


class TensorReference:
    """Pickled under torch_xla's name; see save_rank."""

    def __init__(self, tid: int) -> None:
        self.tid = tid


TensorReference.__module__ = "torch_xla.utils.serialization"


def save_rank(path: Path, tensors: Tensors, xser: bool) -> None:
    if not xser:
        torch.save(tensors, path)
        return
    folder = path.with_name(path.name + ".tensors")
    folder.mkdir()
    for tid, tensor in enumerate(tensors.values()):
        torch.save(tensor, folder / f"tensor_{tid}.pt")
    with pytest.MonkeyPatch.context() as patch:  # pickle looks the class up where it says it lives
        import sys
        import types

        module = types.ModuleType("torch_xla.utils.serialization")
        module.TensorReference = TensorReference  # type: ignore[attr-defined]
        for name in ("torch_xla", "torch_xla.utils"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        patch.setitem(sys.modules, "torch_xla.utils.serialization", module)
        torch.save({name: TensorReference(tid) for tid, name in enumerate(tensors)}, path)


def llama(layout: Layout, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        hidden_size=HIDDEN,
        intermediate_size=MIDDLE,
        num_attention_heads=HEADS,
        num_key_value_heads=layout.kv_heads,
        num_hidden_layers=layout.layers,
        vocab_size=VOCABULARY,
        dtype=torch.bfloat16,
        **changes,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16)


def random_adapter(layout: Layout, dtype: torch.dtype = torch.float32) -> Tensors:
    """Of all seven linears; what the library fuses shares one lora_A."""
    generator = torch.Generator().manual_seed(2)
    kv_rows = layout.kv_heads * HEAD_DIM
    sizes = {"self_attn.q": (HIDDEN, HIDDEN), "self_attn.k": (kv_rows, HIDDEN), "self_attn.v": (kv_rows, HIDDEN)}
    sizes |= {"self_attn.o": (HIDDEN, HIDDEN), "mlp.gate": (MIDDLE, HIDDEN), "mlp.up": (MIDDLE, HIDDEN)}
    sizes |= {"mlp.down": (HIDDEN, MIDDLE)}
    adapter = {}
    for layer in range(layout.layers):
        for name, (rows, columns) in sizes.items():
            prefix = f"base_model.model.model.layers.{layer}.{name}_proj."
            adapter[f"{prefix}lora_A.weight"] = torch.randn(4, columns, generator=generator).to(dtype)
            adapter[f"{prefix}lora_B.weight"] = torch.randn(rows, 4, generator=generator).to(dtype)
        prefix = f"base_model.model.model.layers.{layer}."
        shared = [("mlp.up_proj", "mlp.gate_proj")]
        if layout.fuse_qkv or layout.kv_repeat > 1:
            shared += [("self_attn.k_proj", "self_attn.q_proj"), ("self_attn.v_proj", "self_attn.q_proj")]
        for name, first in shared:
            adapter[f"{prefix}{name}.lora_A.weight"] = adapter[f"{prefix}{first}.lora_A.weight"]
    return adapter


LAYOUTS = {
    "tp2": Layout(),
    "pp2": Layout(pp=2),
    "tp2_pp2_xser": Layout(pp=2, xser=True),
    "tp1": Layout(tp=1),
    "fused_qkv": Layout(fuse_qkv=True),
    "kv_repeat_2": Layout(tp=4, kv_heads=2),
    "kv_repeat_4": Layout(tp=8, kv_heads=2, pp=2),
    "kv_repeat_2_fused": Layout(tp=4, kv_heads=2, fuse_qkv=True),
    "kv_repeat_2_fused_xser": Layout(tp=4, kv_heads=2, fuse_qkv=True, xser=True),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_full_model_comes_back_from_any_layout(layout: Layout, tmp_path: Path) -> None:
    model = llama(layout)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    checkpoint = tmp_path / "checkpoint"
    write_shards(checkpoint / "shards", layout, [cut_model(weights, layout, r) for r in range(layout.tp)], "", None)
    model.config.save_pretrained(checkpoint)

    out = consolidate(checkpoint, tmp_path / "out", max_shard_bytes=20_000)

    loaded, problems = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(problems.values())
    assert len(list(out.glob("model-*.safetensors"))) > 1
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("name", ["default", "style"])
def test_an_adapter_comes_back_from_any_layout(layout: Layout, name: str, tmp_path: Path) -> None:
    adapter = random_adapter(layout)
    folder = tmp_path / "checkpoint" / f"adapter_{name}"
    ranks = [cut_adapter(adapter, layout, rank) for rank in range(layout.tp)]
    write_shards(folder / "adapter_shards", layout, ranks, "base_model.model.", name)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))

    out = consolidate(tmp_path / "checkpoint", tmp_path / "out", adapter=name)

    found = load_file(out / "adapter_model.safetensors")
    assert found.keys() == adapter.keys()
    for key, tensor in found.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, adapter[key]), key


def test_a_pipeline_stage_that_is_missing_altogether_is_noticed(tmp_path: Path) -> None:
    layout = Layout(pp=2)
    folder = tmp_path / "checkpoint" / "adapter_default"
    ranks = [cut_adapter(random_adapter(layout), layout, rank) for rank in range(2)]
    write_shards(folder / "adapter_shards", layout, ranks, "base_model.model.", "default")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    (folder / "adapter_shards" / "mp_metadata_pp_rank_1.json").unlink()
    for path in (folder / "adapter_shards" / "model").glob("*pp_rank_01.pt"):
        path.unlink()

    with pytest.raises(InvalidInput, match="A pipeline stage's files are missing"):
        consolidate(tmp_path / "checkpoint", tmp_path / "out")


def test_optimizer_files_of_zero_are_neither_read_nor_needed(tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(FIXTURES / "e_full_tp2_pt" / "checkpoint-4", tmp_path / "checkpoint"))
    (checkpoint / "shards" / "optim").mkdir()
    (checkpoint / "shards" / "optim" / "dp_rank_00_tp_rank_00_pp_rank_00.pt").write_bytes(b"not even a zip")

    out = consolidate(checkpoint, tmp_path / "out")

    expected = FIXTURES / "e_full_tp2_pt" / "expected" / "consolidated" / "model.safetensors"
    assert (out / "model.safetensors").read_bytes() == expected.read_bytes()


def test_another_adapter_of_the_same_save_is_left_out(tmp_path: Path) -> None:
    save_file({"base_model.model.a.lora_A.weight": torch.ones(2, 3)}, tmp_path / "unrelated.safetensors")
    layout = Layout()
    adapter = random_adapter(layout)
    folder = tmp_path / "checkpoint" / "adapter_default"
    ranks = [cut_adapter(adapter, layout, rank) for rank in range(2)]
    write_shards(folder / "adapter_shards", layout, ranks, "base_model.model.", "default")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    path = folder / "adapter_shards" / "mp_metadata_pp_rank_0.json"
    metadata = json.loads(path.read_text())
    others = {name.replace(".default.", ".style."): fields for name, fields in metadata["parameters"].items()}
    path.write_text(json.dumps({**metadata, "parameters": {**others, **metadata["parameters"]}}))

    out = consolidate(tmp_path / "checkpoint", tmp_path / "out")

    assert load_file(out / "adapter_model.safetensors").keys() == adapter.keys()
