"""The loop's device on any computer: accelerate.Accelerator, a Hugging Face model, PEFT's LoRA."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM

from neuron_ops.backends.adapter import lora_config, set_first_values
from neuron_ops.compilers.inductor import compile_layers
from neuron_ops.recipe.schema import Recipe


class CpuProcess:
    """One process of one or several (gloo) on the CPU."""

    def __init__(self, recipe: Recipe) -> None:
        self.summed_loss: dict[str, Any] = {"num_items_in_batch": 1}  # transformers' name for "divide by one"
        torch.set_num_threads(recipe.hardware.threads)
        self._accelerator = self._open()
        self.rank: int = self._accelerator.process_index
        self.data_parallel_rank: int = self.rank
        self.data_parallel_size: int = self._accelerator.num_processes
        self.shard: int = 0
        self.saves: bool = self.rank == 0
        self.device: torch.device = self._accelerator.device

    def _open(self) -> Accelerator:
        return Accelerator(cpu=True)

    def load_model(self, folder: Path, recipe: Recipe) -> nn.Module:
        """The base in the recipe's dtype, frozen; the adapter in float32, equal on every rank."""
        graph = recipe.graph
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, graph.dtype),
            attn_implementation=graph.attn_implementation,
            local_files_only=True,
        )
        model.config.use_cache = False
        # PEFT writes this name into the adapter: the model's id, not the path that it happens to lie at here.
        model.name_or_path = recipe.base_model.id
        if graph.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        adapted = get_peft_model(model, lora_config(recipe))
        set_first_values(dict(adapted.named_parameters()), recipe.training.seed)
        if graph.torch_compile:
            compile_layers(adapted, self.device.type)
        prepared: nn.Module = self._accelerator.prepare_model(adapted)
        return prepared

    def trainable(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The adapter's parameters by name."""
        bare = self._accelerator.unwrap_model(model)
        return {name: parameter for name, parameter in bare.named_parameters() if parameter.requires_grad}

    def prepare_optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """As it is."""
        return optimizer

    @contextlib.contextmanager
    def accumulate(self, model: nn.Module, last: bool) -> Iterator[None]:
        """Without the gradient exchange until the last micro-batch."""
        with contextlib.nullcontext() if last else self._accelerator.no_sync(model):
            yield

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of `loss`, shape ()."""
        self._accelerator.backward(loss)

    def clip_and_step(
        self, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], max_norm: float
    ) -> torch.Tensor:
        """Clip, update, and return the norm before clipping, shape ()."""
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    def sum_over_ranks(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, on every rank."""
        total: torch.Tensor = self._accelerator.reduce(value, "sum")
        return total

    def sync(self) -> None:
        """Nothing to wait for: work is done when the call returns."""

    def seed_generators(self, seed: int) -> None:
        """The host's generator, and where there are GPUs theirs."""
        torch.manual_seed(seed)

    def save_adapter(self, model: nn.Module, folder: Path) -> None:
        """A PEFT folder with sorted keys, so that equal adapters are equal bytes."""
        if not self.saves:
            return
        bare = self._accelerator.unwrap_model(model)
        state = get_peft_model_state_dict(bare, save_embedding_layers=False)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: state[name].detach().cpu().contiguous() for name in sorted(state)}, folder / ADAPTER_WEIGHTS)
        config = bare.peft_config["default"].to_dict()
        text = json.dumps(config, indent=2, sort_keys=True, default=sorted)  # PEFT keeps module names in sets
        (folder / ADAPTER_CONFIG).write_text(text + "\n")


ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
