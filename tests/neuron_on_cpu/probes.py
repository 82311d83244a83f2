"""What tests ask of the ranks of a training; each function is called once in every rank."""

import inspect
import json
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

import neuron_ops.steps.addresses
from neuron_ops.backends import neuron_process, open_backend
from neuron_ops.recipe.file import load_recipe
from neuron_ops.steps import program, train
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.artifacts import ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets
from neuron_ops.training.batches import Rows
from neuron_ops.training.checkpoints import Checkpoints
from neuron_ops.training.loop import Loop
from neuron_ops.training.ranks import Ranks
from tests.neuron_on_cpu import empty_packages

KEY_VALUE_HEADS = 2
"""Of the tests' model."""


def open_loop(recipe: str, store_url: str, raw_url: str, version: str) -> tuple[Lineage, Loop, Checkpoints]:
    """The loop as `train` makes it, before its first step."""
    store = ArtifactStore(store_url)
    lineage = Lineage(load_recipe(recipe), store, RawDatasets(raw_url), version)
    process = open_backend(lineage.recipe)
    checkpoints = Checkpoints(store, lineage.provenance("lora_checkpoints"), process, Ranks())
    rows, base = (Path(lineage.require(name).location) for name in ("tokenized_dataset", "base_model"))
    return lineage, Loop(lineage.recipe, process, rows, base, checkpoints=checkpoints), checkpoints


def write_logits(recipe: str, store_url: str, raw_url: str, version: str, out: str) -> None:
    """Logits of the sharded model after its last checkpoint, on the first held-out rows."""
    lineage, loop, checkpoints = open_loop(recipe, store_url, raw_url, version)
    state = loop._state
    checkpoints.restore_newest(state)
    batch = Rows(Path(lineage.require("tokenized_dataset").location) / "holdout").first(4)
    state.model.eval()
    with torch.no_grad():
        part = state.model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits
    parallel: Any = neuron_process
    group = parallel.parallel_state.get_tensor_model_parallel_group()
    parts = [torch.empty_like(part) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, part.contiguous(), group=group)
    if dist.get_rank() == 0:
        save_file({**batch, "logits": torch.cat(parts, -1).float()}, out)


def train_with_changes(changes: str, *arguments: str) -> None:
    """The program `train`, with the backend's repairs taken back as told."""
    _take_back(json.loads(changes))
    sys.argv = ["train", *arguments]
    program.main("train", train.build)


def write_drift(recipe: str, store_url: str, raw_url: str, version: str, changes: str, out: str) -> None:
    """Train two steps with the backend's repairs taken back as told; which replicated factors then differ by rank."""
    _take_back(json.loads(changes))
    _, loop, _ = open_loop(recipe, store_url, raw_url, version)
    norms = []
    for step in range(2):
        loop.train_step(step)
        norms.append(float(loop._pending[-1][2]))
    differing = sorted(
        name
        for name, parameter in loop._state.parameters.items()
        if not getattr(parameter, "tensor_model_parallel", False) and _differs(parameter)
    )
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps({"differing": differing, "norms": norms}))


def write_norms(recipe: str, store_url: str, raw_url: str, version: str, out: str) -> None:
    """Of two steps: the norm that the loop reports, and those of the gradients that the update used."""
    _, loop, _ = open_loop(recipe, store_url, raw_url, version)
    norms: list[dict[str, float]] = []

    def measure(optimizer: torch.optim.Optimizer, *_: object) -> None:
        used, copied = torch.zeros(1), torch.zeros(1)
        for name, parameter in loop._state.parameters.items():
            if parameter.grad is None:
                continue
            square, first = parameter.grad.norm() ** 2, dist.get_rank() == 0
            cut = getattr(parameter, "tensor_model_parallel", False)
            is_copy = name.endswith(("weight_k", "weight_v")) and dist.get_rank() >= KEY_VALUE_HEADS
            used += square if (cut or first) and not is_copy else 0
            copied += square if cut or first else 0
        for total in (used, copied):
            dist.all_reduce(total)
        norms.append({"used": float(used.sqrt()), "with every copy": float(copied.sqrt())})

    loop._state.optimizer.optimizer.register_step_pre_hook(measure)  # type: ignore[attr-defined]
    for step in range(2):
        loop.train_step(step)
        norms[-1]["before"] = float(loop._pending[-1][2])
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps(norms))


def _differs(parameter: torch.Tensor) -> bool:
    copies = [torch.empty_like(parameter) for _ in range(dist.get_world_size())]
    dist.all_gather(copies, parameter.detach().contiguous())
    return any(not torch.equal(copies[0], copy) for copy in copies)


def _take_back(changes: dict[str, Any]) -> None:
    """Use the libraries as they come, in the named respects."""
    module: Any = neuron_process
    if "marks" in changes:
        module._mark_replicated_factors = lambda model: None
    if "zero_1" in changes:
        accelerator, precision = module.NeuronAccelerator, module.MixedPrecisionConfig
        # The library's defaults: master weights, and gradients accumulated in float32.
        defaults = {"optimizer_use_master_weights": True, "optimizer_use_fp32_grad_acc": True}
        module.MixedPrecisionConfig = lambda mode: precision("FULL_BF16", **defaults)
        module.NeuronAccelerator = lambda **kwargs: accelerator(**{**kwargs, "zero_1": True})
        _let_zero_1_take_host_tensors()
    if "config" in changes:
        config = module.TrainingNeuronConfig
        module.TrainingNeuronConfig = lambda **kwargs: config(**{**kwargs, **changes["config"]})
    if "refusals" in changes:
        addresses: Any = neuron_ops.steps.addresses
        addresses.refuse_model = lambda recipe, config: None
    if "platform" in changes:
        os.environ[empty_packages.PLATFORM] = changes["platform"]


def _let_zero_1_take_host_tensors() -> None:
    from torch_xla.distributed import zero_redundancy_optimizer as module

    source = textwrap.dedent(inspect.getsource(module.ZeroRedundancyOptimizer._shard_parameters))
    scope: dict[str, Any] = {}
    exec(source.replace("assert self.device.type == 'xla'", "pass"), vars(module), scope)
    module.ZeroRedundancyOptimizer._shard_parameters = scope["_shard_parameters"]
