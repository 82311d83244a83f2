"""The loop's device on Trainium: optimum-neuron's accelerator, model, LoRA layers and checkpoint format.

Made for optimum-neuron 0.4.5 and neuronx-distributed 0.15; what they get wrong is worked round here, each time with the
reason. Run on a stand-in for the device (docs/trainium.md); not run on Trainium. Which processes there are belongs to
`neuron`, the launch half.
"""

import contextlib
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch_xla.core.xla_model as xm
from neuronx_distributed.parallel_layers import parallel_state
from optimum.neuron.accelerate import NeuronAccelerator
from optimum.neuron.accelerate.utils.dataclasses import MixedPrecisionConfig
from optimum.neuron.models.training import NeuronModelForCausalLM
from optimum.neuron.models.training.config import TrainingNeuronConfig
from optimum.neuron.peft import get_peft_model
from torch import nn

from neuron_ops.backends import neuron_clipping
from neuron_ops.backends.adapter import lora_config, set_first_values
from neuron_ops.recipe.schema import Recipe


class NeuronProcess:
    """One process on one NeuronCore, of tensor-parallel groups that each take a share of the batch."""

    def __init__(self, recipe: Recipe) -> None:
        self.summed_loss: dict[str, Any] = {"reduction": "sum"}  # optimum-neuron's name; it ignores transformers'
        torch.set_num_threads(recipe.hardware.threads)
        # First of all: it sets the rounding mode, which the runtime reads once, when the next line starts it. No mixed
        # precision: the base comes in its own dtype, adapter and optimizer stay in float32.
        precision = MixedPrecisionConfig("NO")
        self._config = _config(recipe)
        # Without ZeRO-1: it keeps gradients where the library's sum over sequence-parallel ranks does not look.
        self._accelerator = NeuronAccelerator(trn_config=self._config, zero_1=False, mixed_precision_config=precision)
        self.rank: int = self._accelerator.process_index
        self.data_parallel_rank: int = parallel_state.get_data_parallel_rank()
        self.data_parallel_size: int = parallel_state.get_data_parallel_size()
        self.shard: int = parallel_state.get_tensor_model_parallel_rank()
        self.saves: bool = self.data_parallel_rank == 0
        self.device: torch.device = self._accelerator.device
        self._max_norm, self._norm = math.inf, torch.zeros(())

    def load_model(self, folder: Path, recipe: Recipe) -> nn.Module:
        """This rank's part of the base in the recipe's dtype, frozen, and of the adapter in float32."""
        model = NeuronModelForCausalLM.from_pretrained(
            str(folder),
            self._config,
            dtype=getattr(torch, recipe.graph.dtype),
            attn_implementation=recipe.graph.attn_implementation,
        )
        # PEFT writes this name into the adapter: the model's id, not the path that it happens to lie at here.
        model.name_or_path = recipe.base_model.id
        adapted = get_peft_model(model, lora_config(recipe))
        ranks = parallel_state.get_tensor_model_parallel_size()
        set_first_values(dict(adapted.named_parameters()), recipe.training.seed, shards=ranks, shard=self.shard)
        prepared: nn.Module = self._accelerator.prepare_model(adapted)
        if self._config.sequence_parallel_enabled:
            _mark_replicated_factors(prepared)  # now: moving to the device made new parameters
        neuron_clipping.mark_copies(prepared)
        return prepared

    def trainable(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """This rank's part of the adapter's parameters, by name."""
        return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

    def prepare_optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The library's wrapper, whose step sums and averages gradients before the update."""
        # Clipping comes between the two: before the sums the gradients are not those of the whole batch.
        optimizer.register_step_pre_hook(self._clip)
        prepared: torch.optim.Optimizer = self._accelerator.prepare_optimizer(optimizer)
        return prepared

    @contextlib.contextmanager
    def accumulate(self, model: nn.Module, last: bool) -> Iterator[None]:
        """Nothing to hold back: gradients are exchanged by the optimizer's step, not by the backward pass."""
        yield

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of `loss`, shape ()."""
        self._accelerator.backward(loss)

    def clip_and_step(
        self, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], max_norm: float
    ) -> torch.Tensor:
        """Clip, update, and return the norm before clipping, shape ()."""
        self._max_norm = max_norm
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return self._norm.reshape(())

    def _clip(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        # Not the accelerator's own, which averages gradients of different weights over tensor-parallel ranks.
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._norm = neuron_clipping.clip(parameters, self._max_norm)

    def sum_over_ranks(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over data-parallel ranks only: tensor-parallel ranks hold the same value already."""
        total: torch.Tensor = xm.all_reduce(
            xm.REDUCE_SUM, value, groups=parallel_state.get_data_parallel_replica_groups()
        )
        return total

    def sync(self) -> None:
        """Execute what was recorded."""
        xm.mark_step()

    def seed_generators(self, seed: int) -> None:
        """The host's generator, and the device's, which every synchronization moves."""
        torch.manual_seed(seed)
        xm.set_rng_state(seed)

    def save_adapter(self, model: nn.Module, folder: Path) -> None:
        """optimum-neuron's sharded checkpoint, a file for each rank of the first data-parallel group."""
        first = self.rank == 0
        # Every rank calls it, and it takes every rank for the main one unless told.
        model.save_pretrained(  # type: ignore[operator]
            str(folder), is_main_process=first, save_embedding_layers=False
        )
        if first:
            (folder / "README.md").unlink()  # a model card of the base, with nothing about this adapter in it
            _sort_config(folder / "adapter_default" / "adapter_config.json")


def _config(recipe: Recipe) -> TrainingNeuronConfig:
    """How ranks share the model; making it starts the process groups."""
    parts = recipe.hardware.tensor_parallel_size
    return TrainingNeuronConfig(
        tensor_parallel_size=parts,
        # Never without: in bfloat16 the library drops the summed gradients of a layer's inputs otherwise.
        sequence_parallel_enabled=parts > 1,
        gradient_checkpointing=recipe.graph.gradient_checkpointing,
        # Plain files, written before the call returns: the others cannot be read with plain torch, or are announced
        # as done before they are there.
        use_xser=False,
        async_save=False,
    )


def _mark_replicated_factors(model: nn.Module) -> None:
    """Have the gradients of factors that every rank holds whole summed over the ranks.

    Each rank sees a part of the sequence, so each has a part of their gradient. The library sums what carries this
    mark, and forgets to mark them; the copies then drift apart.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_" in name and not getattr(parameter, "tensor_model_parallel", False):
            parameter.sequence_parallel_enabled = True  # type: ignore[attr-defined]


def _sort_config(path: Path) -> None:
    """PEFT keeps module names in sets, whose order is chance; equal adapters should be equal bytes."""
    config = json.loads(path.read_bytes())
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
