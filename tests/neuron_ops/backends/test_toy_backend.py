"""A backend is one file and one line: this file is one, in plain torch, and the steps' own programs train with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from neuron_ops import backends, registry
from neuron_ops.backends.backend import Backend
from neuron_ops.backends.booking import Booking
from neuron_ops.errors import InvalidInput, Unavailable
from neuron_ops.recipe.json_schema import recipe_schema
from neuron_ops.recipe.schema import Recipe
from tests.neuron_ops.training.workbench import (
    checkpoints_of,
    contents,
    history_of,
    make_lineage,
    make_model,
    make_recipe,
    open_lineage,
    train_here,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

CHIP = "example.org/toy"


class ToyProcess:
    """The process half: one process, no accelerate."""

    def __init__(self) -> None:
        import torch

        self.rank = self.data_parallel_rank = self.shard = 0
        self.data_parallel_size, self.saves, self.device = 1, True, torch.device("cpu")
        self.summed_loss: dict[str, Any] = {"num_items_in_batch": 1}

    def load_model(self, folder: Path, recipe: Recipe) -> nn.Module:
        import torch
        from peft import get_peft_model
        from transformers import AutoModelForCausalLM

        from neuron_ops.backends.adapter import lora_config, set_first_values

        base = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, recipe.graph.dtype))
        base.name_or_path = recipe.base_model.id
        adapted: nn.Module = get_peft_model(base, lora_config(recipe))
        set_first_values(dict(adapted.named_parameters()), recipe.training.seed)
        return adapted

    def trainable(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return {name: value for name, value in model.named_parameters() if value.requires_grad}

    def prepare_optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        return optimizer

    def accumulate(self, model: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        import torch

        BACKEND.spend_power()
        torch.autograd.backward(loss)

    def clip_and_step(
        self, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], max_norm: float
    ) -> torch.Tensor:
        from torch import nn

        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    def sum_over_ranks(self, value: torch.Tensor) -> torch.Tensor:
        return value

    def sync(self) -> None:
        """The chip does what it is told at once."""

    def seed_generators(self, seed: int) -> None:
        import torch

        torch.manual_seed(seed)

    def save_adapter(self, model: nn.Module, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True)
        state = {name: value.detach().contiguous() for name, value in sorted(self.trainable(model).items())}
        save_file(state, folder / "adapter_model.safetensors")


class ToyBackend(Backend):
    """The launch half: a chip that takes part in one training at a time."""

    place = "each toy"
    accelerator_resources = (CHIP,)
    power = 10**9
    """Backward passes until somebody has to change the batteries."""

    def open_process(self, recipe: Recipe) -> ToyProcess:
        return ToyProcess()

    def refuse_recipe(self, recipe: Recipe) -> None:
        super().refuse_recipe(recipe)
        if recipe.hardware.nodes > 1:
            raise InvalidInput("hardware.nodes is above 1, but toys do not share. Set it to 1.")

    def booking(self, hardware: Any) -> Booking:
        return Booking({CHIP: 1}, taint=CHIP)

    def spend_power(self) -> None:
        self.power -= 1
        if self.power < 0:
            raise Unavailable("The batteries are empty. Change them and try again.")


BACKEND = ToyBackend()


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(registry.BACKENDS, "toy", __name__)
    yield
    BACKEND.power = 10**9


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    model = make_model(tmp_path / "published" / "model")
    return make_recipe(model, hardware__backend="toy", graph__lora__lora_dropout=0.2)


def test_it_trains_and_publishes_checkpoints(recipe: Recipe, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, recipe)

    artifact = train_here(lineage)

    losses = history_of(artifact).evaluations()
    assert losses[6] < losses[0]
    assert artifact.manifest.reads["derived"]["layout.backend"] == "toy"
    assert set(checkpoints_of(lineage)) == {"step-000004", "step-000006"}
    names = {file.name for file in checkpoints_of(lineage)["step-000006"].manifest.files}
    assert "adapter/adapter_model.safetensors" in names


def test_it_resumes_where_its_batteries_ran_out(recipe: Recipe, tmp_path: Path) -> None:
    undisturbed = make_lineage(tmp_path / "undisturbed", recipe)
    train_here(undisturbed)
    lineage = make_lineage(tmp_path, recipe)
    BACKEND.power = 7  # two for each step, and a checkpoint after every second one
    with pytest.raises(Unavailable, match="batteries"):
        train_here(lineage)
    BACKEND.power = 10**9

    artifact = train_here(open_lineage(tmp_path, recipe))

    assert artifact.manifest.metrics["resumed_from_step"] == 2
    assert contents(open_lineage(tmp_path, recipe)) == contents(undisturbed)


def test_whoever_asks_a_backend_asks_it_too(recipe: Recipe) -> None:
    names = recipe_schema()["$defs"]["HardwareSection"]["properties"]["backend"]["enum"]

    assert names == ["cpu", "cuda", "neuron", "toy"]
    assert CHIP in backends.accelerator_resources()
    assert backends.layout(recipe).as_json()["backend"] == "toy"
    with pytest.raises(InvalidInput, match="toys do not share"):
        backends.layout(recipe.model_copy(update={"hardware": recipe.hardware.model_copy(update={"nodes": 2})}))
