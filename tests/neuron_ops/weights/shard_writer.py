"""A shard writer that cuts a known model the way optimum-neuron 0.4.5 does, so that consolidating must give it back.

It follows the library's `models/training/transformations_utils.py`. It needs torch, so tests import it themselves.
"""

import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.neuron_ops.weights.layouts import Layout

Tensors = dict[str, "torch.Tensor"]


HIDDEN, MIDDLE, HEADS, HEAD_DIM, VOCABULARY = 32, 48, 8, 4, 64


def specs_of(layout: Layout, layer: int, prefix: str, peft: str | None) -> list[dict[str, Any]]:
    """The transformation specs of one decoder layer, as the library's metadata has them."""
    kv_rows = layout.kv_heads * layout.kv_repeat * HEAD_DIM // layout.tp
    common = {"bias": False, "tp_size": layout.tp, "peft_type": peft}
    attention: list[Any] = []
    if layout.kv_repeat > 1:
        fields: dict[str, Any] = {
            f"{name}_projection_name": f"{name[0]}_proj" for name in ("query", "key", "value", "output")
        }
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


def write_adapter_checkpoint(checkpoint: Path, layout: Layout, adapter: Tensors, name: str = "default") -> Path:
    """Save an adapter of a model as the library does; the adapter's own folder."""
    folder = checkpoint / f"adapter_{name}"
    ranks = [cut_adapter(adapter, layout, rank) for rank in range(layout.tp)]
    write_shards(folder / "adapter_shards", layout, ranks, "base_model.model.", name)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    return folder


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


def random_adapter(layout: Layout) -> Tensors:
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
            adapter[f"{prefix}lora_A.weight"] = torch.randn(4, columns, generator=generator)
            adapter[f"{prefix}lora_B.weight"] = torch.randn(rows, 4, generator=generator)
        prefix = f"base_model.model.model.layers.{layer}."
        shared = [("mlp.up_proj", "mlp.gate_proj")]
        if layout.fuse_qkv or layout.kv_repeat > 1:
            shared += [("self_attn.k_proj", "self_attn.q_proj"), ("self_attn.v_proj", "self_attn.q_proj")]
        for name, first in shared:
            adapter[f"{prefix}{name}.lora_A.weight"] = adapter[f"{prefix}{first}.lora_A.weight"]
    return adapter
