"""What consolidating 8 tensor-parallel ranks costs: ours against `cp -r` and load-cat-save, on Llama's shapes.

python benchmarks/consolidate.py [--shapes 1b|3b|8b] [--runs 5] [--folder /dev/shm] [--torch]
"""

import argparse
import importlib.util
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_shapes import LINEARS, OURS, SHAPES, Programs, Shapes, compare, generate, python

RANKS = 8

CONSOLIDATE = """
import sys
from pathlib import Path
from neuron_ops.weights.consolidation import BaseModelName, consolidate_checkpoint
consolidate_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), base_model=BaseModelName("base"))
"""

# What optimum-neuron's own consolidation does: every rank in memory, one cat per tensor, one save.
LOAD_CAT_SAVE = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
shards, out = Path(sys.argv[1]), Path(sys.argv[2])
out.mkdir(parents=True)
metadata = json.loads((shards / "mp_metadata_pp_rank_0.json").read_text())["parameters"]
ranks = [torch.load(path, weights_only=True) for path in sorted((shards / "model").glob("*.pt"))]
result = {}
for name, fields in metadata.items():
    key = name.replace(".default", "")
    if not fields["tensor_model_parallel"]:
        result[key] = ranks[0][key]
    elif "gate_up" in name:
        parts = [rank[key].chunk(2) for rank in ranks]
        for index, linear in enumerate(("gate_proj", "up_proj")):
            result[key.replace("gate_up_proj", linear)] = torch.cat([part[index] for part in parts])
    else:
        result[key] = torch.cat([rank[key] for rank in ranks], dim=fields["partition_dim"])
save_file({name: tensor.contiguous().clone() for name, tensor in result.items()}, out / "model.safetensors")
"""


def write_checkpoint(folder: Path, shapes: Shapes, adapter: bool) -> None:
    """A checkpoint in optimum-neuron's layout with random tensors: column, row, fused and replicated ones."""
    import torch

    if adapter:
        shards, tensors = folder / "adapter_default" / "adapter_shards", adapter_shapes(shapes)
        (folder / "adapter_default").mkdir(parents=True)
        config = {"peft_type": "LORA", "r": 16, "target_modules": list(LINEARS)}
        (folder / "adapter_default" / "adapter_config.json").write_text(json.dumps(config))
    else:
        shards, tensors = folder / "shards", fused_shapes(shapes)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(shapes.config()))
    (shards / "model").mkdir(parents=True)
    parameters = {name: parameter_fields(name) for name in tensors}
    for rank in range(RANKS):
        held = {}
        for index, (name, shape) in enumerate(tensors.items()):
            cut, fields = list(shape), parameters[name]
            if fields["tensor_model_parallel"]:
                cut[fields["partition_dim"]] //= RANKS
            torch.manual_seed(index if not fields["tensor_model_parallel"] else index * RANKS + rank)
            held[name.replace(".default", "")] = torch.randn(cut, dtype=torch.float32 if adapter else torch.bfloat16)
        torch.save(held, shards / "model" / f"dp_rank_00_tp_rank_{rank:02d}_pp_rank_00.pt")
    prefix = "base_model.model." if adapter else ""
    metadata = {"parameters": parameters, "model_weight_transformation_specs": fused_specs(shapes, prefix)}
    (shards / "mp_metadata_pp_rank_0.json").write_text(json.dumps(metadata))
    (shards / "done").write_text("1")


def fused_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The full model's tensors with gate and up in one."""
    fused: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.tensors().items():
        if "gate_proj" in name:
            fused[name.replace("gate_proj", "gate_up_proj")] = (2 * shape[0], shape[1])
        elif "up_proj" not in name:
            fused[name] = shape
    return fused


def adapter_shapes(shapes: Shapes, rank: int = 16) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in fused_shapes(shapes).items():
        if "_proj" in name:
            prefix = f"base_model.model.{name.removesuffix('.weight')}"
            found[f"{prefix}.lora_A.default.weight"] = (rank, shape[1])
            found[f"{prefix}.lora_B.default.weight"] = (shape[0], rank)
    return found


def parameter_fields(name: str) -> dict[str, Any]:
    by_columns = "o_proj" in name or "down_proj" in name
    if "norm" in name or (by_columns and "lora_B" in name) or (not by_columns and "lora_A" in name):
        return {"tensor_model_parallel": False}
    return {"tensor_model_parallel": True, "partition_dim": int(by_columns), "num_partitions": RANKS}


def fused_specs(shapes: Shapes, prefix: str) -> list[dict[str, Any]]:
    names: Mapping[str, Any] = {"fused_linear_name": "gate_up_proj", "linear_names": ["gate_proj", "up_proj"]}
    fields = {**names, "bias": False, "fuse_axis": 0, "original_dims": [shapes.intermediate] * 2, "tp_size": RANKS}
    return [
        {"module_fully_qualified_name": f"{prefix}model.layers.{layer}.mlp", "specs": [["FusedLinearsSpec", fields]]}
        for layer in range(shapes.layers)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=SHAPES, default="1b")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to put some gigabytes; a tmpfs gives the steadiest numbers")
    parser.add_argument(
        "--torch", action="store_true", help="measure load-cat-save too (needs twice the model in memory)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        for kind in ("model", "adapter"):
            checkpoint, out = folder / kind, folder / "out"
            call = "write_checkpoint(m.Path(sys.argv[1]), m.SHAPES[sys.argv[2]], sys.argv[3] == 'adapter')"
            generate(f"consolidate.{call}", checkpoint, arguments.shapes, kind)
            print(f"\n{arguments.shapes}, {RANKS} ranks, {kind}")
            programs: Programs = {
                "cp -r": (["cp", "-r", str(checkpoint), str(out)], None),
                "consolidate": (python(CONSOLIDATE, checkpoint, out), OURS),
            }
            if arguments.torch and importlib.util.find_spec("torch"):
                shards = checkpoint / ("shards" if kind == "model" else "adapter_default/adapter_shards")
                programs["load, cat, save"] = (python(LOAD_CAT_SAVE, shards, out), None)
            compare(programs, out, arguments.runs)


if __name__ == "__main__":
    main()
