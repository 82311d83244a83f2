"""One seed is one adapter, whatever the backend and however its layers are cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from torch import nn

COLUMN = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
ROW = "base_model.model.model.layers.0.mlp.down_proj.lora_A.default.weight"
SECOND = "base_model.model.model.layers.0.mlp.down_proj.lora_B.default.weight"


def factors(row_inputs: int, cut: bool) -> dict[str, nn.Parameter]:
    import torch
    from torch import nn

    parameters = {
        SECOND: nn.Parameter(torch.zeros(5, 4)),
        ROW: nn.Parameter(torch.empty(4, row_inputs)),
        COLUMN: nn.Parameter(torch.empty(4, 32)),
    }
    if cut:
        parameters[ROW].tensor_model_parallel = True  # type: ignore[attr-defined]
    return parameters


def test_parts_of_a_cut_factor_are_parts_of_the_whole_one() -> None:
    import torch

    from neuron_ops.backends.adapter import set_first_values

    whole = factors(48, cut=False)
    set_first_values(whole, seed=7)

    parts = [factors(12, cut=True) for _ in range(4)]
    for shard, part in enumerate(parts):
        set_first_values(part, seed=7, shards=4, shard=shard)

    assert torch.equal(torch.cat([part[ROW] for part in parts], dim=1), whole[ROW])
    assert all(torch.equal(part[COLUMN], whole[COLUMN]) for part in parts)


def test_values_belong_to_the_name_and_not_to_the_order_of_layers() -> None:
    import torch

    from neuron_ops.backends.adapter import set_first_values

    one, other = factors(48, cut=False), dict(reversed(factors(48, cut=False).items()))

    set_first_values(one, seed=7)
    set_first_values(other, seed=7)

    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one[ROW][:, :32], one[COLUMN])


def test_another_seed_is_another_adapter_and_second_factors_stay_zero() -> None:
    import torch

    from neuron_ops.backends.adapter import set_first_values

    one, other = factors(48, cut=False), factors(48, cut=False)

    set_first_values(one, seed=7)
    set_first_values(other, seed=8)

    assert not torch.equal(one[ROW], other[ROW])
    assert not one[SECOND].any()


def test_values_are_spread_as_peft_spreads_them() -> None:
    import torch
    from torch import nn

    from neuron_ops.backends.adapter import set_first_values

    ours, theirs = {COLUMN: nn.Parameter(torch.empty(64, 1024))}, torch.empty(64, 1024)

    set_first_values(ours, seed=7)
    nn.init.kaiming_uniform_(theirs, a=float(np.sqrt(5)))

    values = ours[COLUMN].detach()
    assert values.abs().max() <= 1024**-0.5
    assert float(values.std()) == pytest.approx(float(theirs.std()), rel=0.02)
    assert float(values.mean()) == pytest.approx(0.0, abs=3e-4)
