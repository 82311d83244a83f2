"""Who ends later than whom: no layer is killed before the one that it waits for."""

import inspect

import pytest

from neuron_ops.launch import grace

SHUTDOWN_VARIABLE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"


def test_each_layer_outlasts_the_one_that_it_started() -> None:
    assert grace.RANKS_SECONDS < grace.NODE_GROUPS_SECONDS < grace.STEP_SECONDS < grace.POD_SECONDS


def test_torchrun_gives_its_ranks_as_long_as_we_believe(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.elastic.multiprocessing.api import PContext
    from torch.distributed.launcher.api import LaunchConfig

    monkeypatch.delenv(SHUTDOWN_VARIABLE, raising=False)
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=1)

    assert inspect.signature(PContext.close).parameters["timeout"].default == grace.RANKS_SECONDS
    # Newer releases have an option for it, which our command line leaves out.
    assert getattr(config, "shutdown_timeout", grace.RANKS_SECONDS) == grace.RANKS_SECONDS
