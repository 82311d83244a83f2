"""A cluster of a test's own, and pods and Jobs to put there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.objects import Object


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """An empty cluster: no node, one namespace. Images called local/… are this Python's environment."""
    with Cluster(tmp_path / "cluster") as made:
        yield made


def container(script: str = "", **more: Any) -> Object:
    """A container that runs a few lines of shell."""
    return {"name": "main", "image": "local/test", "command": ["sh", "-c", script], **more}


def pod_spec(script: str = "", **more: Any) -> Object:
    return {"restartPolicy": "Never", "containers": [container(script)], **more}


def pod(name: str, script: str = "", **more: Any) -> Object:
    """A pod with one container; `more` goes into its specification."""
    return {"metadata": {"name": name}, "spec": pod_spec(script, **more)}


def job(name: str, script: str = "", *, template: Object | None = None, **more: Any) -> Object:
    """A Job of such pods; `more` goes into its specification, `template` into that of its pods."""
    return {
        "metadata": {"name": name},
        "spec": {"template": {"spec": pod_spec(script, **(template or {}))}, "backoffLimit": 0, **more},
    }
