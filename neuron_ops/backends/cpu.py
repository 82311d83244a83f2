"""The loop's device on any computer: accelerate.Accelerator, a Hugging Face model, PEFT's LoRA."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from neuron_ops.errors import InvalidInput
from neuron_ops.recipe import Recipe


class CpuBackend:
    """One process of one or several (gloo) on the CPU."""

    def __init__(self, recipe: Recipe) -> None:
        self.summed_loss: dict[str, Any] = {"num_items_in_batch": 1}  # transformers' name for "divide by one"
        torch.set_num_threads(recipe.hardware.threads)
        self._accelerator = self._open()
        self.rank: int = self._accelerator.process_index
        self.data_parallel_rank: int = self.rank
        self.data_parallel_size: int = self._accelerator.num_processes
        self.device: torch.device = self._accelerator.device

    def _open(self) -> Accelerator:
        return Accelerator(cpu=True)

    def load_model(self, folder: Path, recipe: Recipe) -> nn.Module:
        """The base in the recipe's dtype, frozen; the adapter in float32, seeded alike on every rank."""
        graph = recipe.graph
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, graph.dtype),
            attn_implementation=graph.attention,
            local_files_only=True,
        )
        model.config.use_cache = False
        # PEFT writes this name into the adapter: the model's id, not the path that it happens to lie at here.
        model.name_or_path = recipe.base_model.id
        if graph.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(recipe.training.seed)  # the adapter's random factor, equal on every rank
        adapted = get_peft_model(model, _lora_config(recipe))
        # Dropout: another stream on each data-parallel rank.
        torch.manual_seed(recipe.training.seed + 1 + self.data_parallel_rank)
        prepared: nn.Module = self._accelerator.prepare_model(adapted)
        return prepared

    def trainable(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The adapter's parameters by name."""
        bare = self._accelerator.unwrap_model(model)
        return {name: parameter for name, parameter in bare.named_parameters() if parameter.requires_grad}

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

    def barrier(self) -> None:
        """Wait for every rank."""
        self._accelerator.wait_for_everyone()

    def rng_states(self) -> dict[str, torch.Tensor]:
        """The host generator of every rank, by `cpu/<rank>`."""
        states = self._accelerator.gather(torch.get_rng_state()[None].to(self.device)).cpu()
        return {f"cpu/{rank}": state.clone() for rank, state in enumerate(states)}

    def restore_rng(self, states: dict[str, torch.Tensor]) -> None:
        """Continue this rank's stream."""
        torch.set_rng_state(states[f"cpu/{self.rank}"])

    def save_adapter(self, model: nn.Module, folder: Path) -> None:
        """A PEFT folder with sorted keys, so that equal adapters are equal bytes."""
        if self.rank != 0:
            return
        bare = self._accelerator.unwrap_model(model)
        state = get_peft_model_state_dict(bare, save_embedding_layers=False)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: state[name].detach().cpu().contiguous() for name in sorted(state)}, folder / ADAPTER_WEIGHTS)
        config = bare.peft_config["default"].to_dict()
        text = json.dumps(config, indent=2, sort_keys=True, default=sorted)  # PEFT keeps module names in sets
        (folder / ADAPTER_CONFIG).write_text(text + "\n")

    def load_adapter(self, model: nn.Module, folder: Path) -> None:
        """Replace the adapter's values."""
        result = set_peft_model_state_dict(self._accelerator.unwrap_model(model), load_file(folder / ADAPTER_WEIGHTS))
        if result.unexpected_keys:
            raise InvalidInput(
                f"{folder / ADAPTER_WEIGHTS} holds {result.unexpected_keys[0]!r}, which this model has no place for. "
                "Remove the checkpoint and train again."
            )


ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


def _lora_config(recipe: Recipe) -> LoraConfig:
    lora = recipe.graph.lora
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha if lora.alpha % 1 else int(lora.alpha),
        lora_dropout=lora.dropout,
        target_modules=sorted(lora.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=recipe.base_model.id,
        revision=recipe.base_model.revision,
    )
