"""A stand-in for the Neuron device: the real optimum-neuron and neuronx-distributed run on CPU tensors and gloo.

Two layers are replaced, and no model, LoRA layer, optimizer or checkpoint code: the packages that only exist with a
Neuron SDK become empty names, and the calls with which torch_xla reaches a device do the same with host tensors at
once. So nothing here tests the compiler, laziness, the flash kernel, rounding or memory of the device.

`install()` comes before every other import of a process.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

from tests.neuron_on_cpu import empty_packages
from tests.neuron_on_cpu.generator import Generator

ONE, FOUR_CORES, TWO_CORES_AND_FABRIC = "stand-in.1core", "stand-in.4core", "stand-in.2core"


def install() -> None:
    """Replace the device in this process."""
    os.environ.setdefault("PJRT_DEVICE", "CPU")
    os.environ.setdefault("NXD_CPU_MODE", "1")
    os.environ.setdefault("NXD_LOG_LEVEL", "error")
    import torch.distributed as dist

    new_group = dist.new_group
    import torch_xla  # the real one, before the empty packages: it looks for libneuronxla when it is imported

    dist.new_group = dist.distributed_c10d.new_group = new_group  # torch_xla's wants groups of its own kind
    empty_packages.install(torch_xla)
    _replace_process_group()
    _replace_collectives()
    _replace_device(torch_xla)
    _make_host_tensors_behave()
    register_machine()


def _replace_process_group() -> None:
    """Whoever asks for backend xla gets gloo, and finds the kind of group that it asked for."""
    import torch.distributed as dist
    import torch_xla.distributed.xla_backend as xla_backend

    init = dist.init_process_group

    def init_gloo(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        init("gloo" if backend in (None, "xla") else backend, *args, **kwargs)
        xla_backend.ProcessGroupXla = type(dist.group.WORLD)

    dist.init_process_group = init_gloo
    for name in ("all_reduce", "all_gather", "broadcast", "get_world_size", "get_rank", "get_process_group_ranks"):
        setattr(dist, name, _with_groups_of_ranks(getattr(dist, name)))


def _with_groups_of_ranks(function: Callable[..., Any]) -> Callable[..., Any]:
    """neuronx-distributed sometimes gives lists of ranks where torch wants a process group."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if isinstance(kwargs.get("group"), list):
            kwargs["group"] = _group(kwargs["group"])
        return function(*args, **kwargs)

    return call


_GROUPS: dict[tuple[tuple[int, ...], ...], Any] = {}


def _group(groups: Sequence[Sequence[int]] | None) -> Any:
    """This rank's process group among lists of ranks; made once, by all ranks in one order."""
    import torch.distributed as dist

    if not isinstance(groups, list | tuple):
        return groups
    key = tuple(tuple(ranks) for ranks in groups)
    if key not in _GROUPS:
        made = {ranks: dist.new_group(list(ranks), backend="gloo") for ranks in key}
        _GROUPS[key] = next((group for ranks, group in made.items() if dist.get_rank() in ranks), None)
    return _GROUPS[key]


def _replace_collectives() -> None:
    import torch
    import torch.distributed as dist
    import torch_xla.core.xla_model as xm

    operations = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}

    def all_reduce(op: str, value: Any, scale: float = 1.0, groups: Any = None, **_: Any) -> Any:
        """Of one tensor: a new one. Of a list: in place."""
        tensors = [value.clone()] if isinstance(value, torch.Tensor) else value
        for tensor in tensors:
            dist.all_reduce(tensor, op=operations[op], group=_group(groups))
            tensor.mul_(scale)
        return tensors[0] if isinstance(value, torch.Tensor) else tensors

    def all_gather(value: torch.Tensor, dim: int = 0, groups: Any = None, output: Any = None, **_: Any) -> Any:
        group = _group(groups)
        parts = [torch.empty_like(value) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, value.contiguous(), group=group)
        whole = torch.cat(parts, dim)
        return whole if output is None else output.copy_(whole)

    def reduce_scatter(
        op: str, value: Any, scale: float, scatter_dim: int, shard_count: int, groups: Any = None, **kwargs: Any
    ) -> Any:
        whole, place = all_reduce(op, value, scale, groups), dist.get_rank(_group(groups))
        part = whole.chunk(shard_count, scatter_dim)[place].contiguous()
        output = kwargs.get("output")
        return part if output is None else output.copy_(part)

    def all_gather_bucketized(values: list[torch.Tensor], dim: int = 0, groups: Any = None, **_: Any) -> Any:
        return [all_gather(value, dim, groups) for value in values]

    def reduce_scatter_bucketized(
        op: str,
        values: list[torch.Tensor],
        scale: float,
        scatter_dim: int,
        shard_count: int,
        groups: Any = None,
        **_: Any,
    ) -> Any:
        return [reduce_scatter(op, value, scale, scatter_dim, shard_count, groups) for value in values]

    xm.all_reduce, xm.all_gather, xm.reduce_scatter = all_reduce, all_gather, reduce_scatter
    xm.all_gather_bucketized, xm.reduce_scatter_bucketized = all_gather_bucketized, reduce_scatter_bucketized


def _replace_device(torch_xla: Any) -> None:
    import torch
    import torch.distributed as dist
    import torch_xla.core.xla_model as xm
    import torch_xla.runtime as xr

    device, generator = torch.device("cpu"), Generator()
    closures: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def nothing(*_: Any, **__: Any) -> None:
        """Work on host tensors is done when the call returns."""

    def step(*_: Any, **__: Any) -> None:
        waiting, closures[:] = list(closures), []
        for closure, arguments in waiting:
            closure(*arguments)
        generator.move()

    def rendezvous(*_: Any, **__: Any) -> None:
        step()  # torch_xla's own synchronizes twice, also when there is nothing to exchange
        step()
        if dist.is_initialized():
            dist.barrier()

    torch_xla.device = xm.xla_device = lambda *_, **__: device
    xm.get_xla_supported_devices = lambda *_, **__: [device]
    torch_xla.sync = xm.mark_step = step
    xm.add_step_closure = lambda closure, args=(), **_: closures.append((closure, args))
    xm.wait_device_ops = xm.set_replication = xm.unlazy = nothing
    xm.get_rng_state, xm.set_rng_state = lambda *_, **__: generator.state, lambda value, *_, **__: generator.set(value)
    xm.rendezvous = rendezvous
    xm.get_ordinal = xr.global_ordinal = lambda *_: dist.get_rank() if dist.is_initialized() else 0
    xm.xrt_world_size = xr.world_size = lambda *_: dist.get_world_size() if dist.is_initialized() else 1
    xm.get_local_ordinal = xr.local_ordinal = lambda *_: int(os.environ.get("LOCAL_RANK", "0"))
    xm.is_master_ordinal = lambda local=True: (xr.local_ordinal() if local else xr.global_ordinal()) == 0
    xr.local_process_count = lambda *_: int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    xr.global_device_count = lambda *_: dist.get_world_size()
    xr.device_type = lambda *_: "CPU"
    torch_xla._XLAC = _Native(torch_xla._XLAC)


class _Native:
    """torch_xla's native half, but for the call that executes a graph."""

    def __init__(self, real: object) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return (lambda *_, **__: None) if name == "_xla_sync_multi" else getattr(self._real, name)


def _make_host_tensors_behave() -> None:
    """As device tensors would: made where a library says "xla", and without strides for `view` to stumble over."""
    import torch

    def is_device(value: object) -> bool:
        return isinstance(value, str | torch.device) and str(value).startswith("xla")

    def on_host(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            args = tuple("cpu" if is_device(argument) else argument for argument in args)
            return function(*args, **{k: "cpu" if is_device(v) else v for k, v in kwargs.items()})

        return call

    for name in ("ones", "zeros", "empty", "full", "rand", "randn", "arange", "tensor"):
        setattr(torch, name, on_host(getattr(torch, name)))
    torch.Tensor.to = on_host(torch.Tensor.to)  # type: ignore[method-assign]
    view = torch.Tensor.view

    def view_or_copy(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        try:
            return view(self, *args, **kwargs)
        except RuntimeError:
            return view(self.contiguous(), *args, **kwargs)

    torch.Tensor.view = view_or_copy  # type: ignore[method-assign, assignment]  # one function for its overloads


def register_machine() -> None:
    """Make machines known that EC2 has not: one core, the smallest with TP 2 and DP 2, the smallest that has peers."""
    from dataclasses import replace

    from neuron_ops.backends.instances import INSTANCES

    INSTANCES[ONE] = replace(INSTANCES["trn1.2xlarge"], cores_per_device=1)
    INSTANCES[FOUR_CORES] = replace(INSTANCES["trn1.2xlarge"], devices=2)
    INSTANCES[TWO_CORES_AND_FABRIC] = replace(INSTANCES["trn1.2xlarge"], efa=1)
