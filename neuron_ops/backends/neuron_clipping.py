"""Clipping to the gradient norm of the whole model under tensor parallelism, each value counted once.

neuronx-distributed 0.15 counts every copy of a key or value head: with TP above the number of heads its norm squared is
too large by (copies - 1) * (|gK|^2 + |gV|^2), and it clips too much. Gradients must be summed over the ranks before.
"""

from collections.abc import Iterable

import torch
import torch_xla.core.xla_model as xm
from neuronx_distributed.parallel_layers import parallel_state
from torch import nn

COPIES = "key_value_copies"
"""Attribute of a parameter: how many ranks of a tensor-parallel group hold the same part of it."""


def mark_copies(model: nn.Module) -> None:
    """Write COPIES on the key and value parameters of layers that copy their heads."""
    for module in model.modules():
        copies = getattr(module, "kv_size_multiplier", 1)
        for name in ("weight_k", "weight_v"):
            parameter = getattr(module, name, None)
            if copies > 1 and isinstance(parameter, nn.Parameter):
                setattr(parameter, COPIES, copies)


def clip(parameters: Iterable[nn.Parameter], max_norm: float) -> torch.Tensor:
    """Scale the gradients down to `max_norm`; the norm before, shape (1,)."""
    trained = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
    ranks = parallel_state.get_tensor_model_parallel_size()
    # Divided by the number of holders rather than counted on one of them: that would be another graph on each rank.
    squares = [torch.linalg.vector_norm(grad.float()) ** 2 / _num_holders(item, ranks) for item, grad in trained]
    total = torch.stack(squares).sum().reshape(1)
    if ranks > 1:
        total = xm.all_reduce(xm.REDUCE_SUM, total, groups=parallel_state.get_tensor_model_parallel_replica_groups())
    norm = total.sqrt()
    factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    for _, grad in trained:
        grad.mul_(factor.to(grad.dtype))
    return norm


def _num_holders(parameter: nn.Parameter, ranks: int) -> int:
    """Ranks of a tensor-parallel group that hold the same gradient."""
    if not getattr(parameter, "tensor_model_parallel", False):
        return ranks
    return int(getattr(parameter, COPIES, 1))
