"""Everything here needs the Neuron training libraries; no package index has one of them, so CI skips and says why."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# With torch_xla installed, accelerate and transformers would take it for the device of the CPU runs.
os.environ["USE_TORCH_XLA"] = "0"

from tests.neuron_on_cpu.bench import make_lineage
from tests.neuron_ops.training import workbench
from tests.neuron_ops.training.workbench import Trainer, start_server

NEEDED = ("torch_xla", "optimum", "neuronx_distributed")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="session", autouse=True)
def _needs_the_libraries() -> None:
    if MISSING:
        pytest.skip(f"needs optimum-neuron's libraries; cannot import {', '.join(MISSING)} here")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workbench.make_model(tmp_path_factory.mktemp("published") / "model")


@pytest.fixture(scope="session")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    """Trains on the stand-in."""
    trainer = start_server(
        tmp_path_factory.mktemp("trainings"), "tests.neuron_on_cpu.server", make_lineage=make_lineage
    )
    yield trainer
    trainer.close()


@pytest.fixture(scope="session")
def cpu_trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    """Trains on backend cpu."""
    trainer = start_server(tmp_path_factory.mktemp("cpu-trainings"))
    yield trainer
    trainer.close()
