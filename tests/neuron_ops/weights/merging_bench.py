"""What the tests of merging work with: how folders are read, merged, compared and damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_ops.weights.merge_proof import verify_merge
from neuron_ops.weights.merging import MergeReport, WeightedAdapter, merge_adapters

if TYPE_CHECKING:
    import torch

FIXTURES = Path(__file__).parents[2] / "fixtures" / "neuron_checkpoints"
REPOSITORY = Path(__file__).parents[3]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MakeBase = Callable[..., Path]
MakeAdapter = Callable[..., Path]
VARIANTS: dict[str, dict[str, Any]] = {
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


def load(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}


def peft_merged(base: Path, adapter: Path, dtype: torch.dtype | str = "auto") -> dict[str, torch.Tensor]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), adapter)
    return dict(model.merge_and_unload().state_dict())


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    import torch

    with torch.no_grad():
        logits: torch.Tensor = model(torch.arange(2, 18)[None]).logits.float()
        return logits


def assert_logits_are_those_of_base_and_adapter(base: Path, adapter: Path, out: Path, tolerance: float) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

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
    import torch

    words = [tensor.view(torch.int16).int() for tensor in (found, expected)]
    ordered = [torch.where(word < 0, -(word & 0x7FFF), word) for word in words]
    return (ordered[0] - ordered[1]).abs()


def rewrite_adapter(adapter: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    save_file({name: change(name, tensor) for name, tensor in load_file(path).items()}, path)
    return adapter


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
