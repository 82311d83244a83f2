"""The test cluster with two machines, and a training on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.checkout import CHECKOUT
from tests.cluster.cluster import Cluster
from tests.cluster.pod_setup import Image
from tests.fine_tune_assets.kubernetes.multi_node.bench import PROGRAM, Bench


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two machines, and two images: the stand-in program, and this checkout."""
    package = tmp_path / "image" / "neuron_ops" / "steps"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "nodes.py").write_text(PROGRAM)
    images = {"local/program": Image(environment={"PYTHONPATH": str(package.parents[1])}), "local/checkout": CHECKOUT}
    with Cluster(tmp_path / "cluster", images=images) as made:
        made.add_node("machine-a")
        made.add_node("machine-b")
        yield made


@pytest.fixture
def bench(cluster: Cluster) -> Bench:
    return Bench(cluster)
