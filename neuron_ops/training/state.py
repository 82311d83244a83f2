"""What a training changes as it goes: made here, changed by the loop, saved and restored by checkpoints.py."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from neuron_ops.backends.process import BackendProcess
from neuron_ops.recipe.schema import Recipe


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Everything that a step of the loop reads and changes, the history apart."""

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer


def new_state(process: BackendProcess, base: Path, recipe: Recipe) -> TrainingState:
    """The base model with a fresh adapter, and AdamW for it."""
    section = recipe.training
    model = process.load_model(base, recipe)
    parameters = process.trainable(model)
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=section.learning_rate,
        betas=(section.adam_beta1, section.adam_beta2),
        weight_decay=section.weight_decay,
    )
    return TrainingState(model, parameters, process.prepare_optimizer(optimizer))
