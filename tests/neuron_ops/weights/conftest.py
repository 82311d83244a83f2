"""Bases and adapters as transformers and PEFT save them, and shards that a test may damage."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.neuron_ops.weights.merging_bench import ALL, MakeAdapter, MakeBase
from tests.neuron_ops.weights.shards import adapter_shards


@pytest.fixture
def make_base(tmp_path: Path) -> MakeBase:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(dtype_name: str = "bfloat16", shard_size: str = "1GB", name: str = "base", **changes: Any) -> Path:
        torch.manual_seed(3)
        dtype = getattr(torch, dtype_name)
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
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

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


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A copy that may be damaged: TP 2, all linears, plain .pt."""
    return Path(shutil.copytree(adapter_shards("b_tp2_all_pt"), tmp_path / "adapter_shards"))


@pytest.fixture
def xser_shards(tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapter_shards("a2_tp2_dp2_qv_xser"), tmp_path / "adapter_shards"))
