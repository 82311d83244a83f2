"""A cluster of a test's own, pods and Jobs to put there, and Dagster on it."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import postgres
from tests.cluster.checkout import CHECKOUT
from tests.cluster.cluster import Cluster
from tests.cluster.deployment import Deployment
from tests.cluster.objects import Object
from tests.neuron_ops.conftest import bucket, s3_environment, s3_server

Deploy = Callable[..., Deployment]

__all__ = ["bucket", "s3_environment", "s3_server"]  # fixtures: one S3 server for all tests that want one


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """An empty cluster: no node, one namespace. Images called local/… are this Python's environment."""
    with Cluster(tmp_path / "cluster", images={"local/*": CHECKOUT}) as made:
        yield made


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as the test session, or its worker."""
    if postgres.programs() is None:
        pytest.skip("NO POSTGRESQL: Dagster on a cluster was not tested. Install Debian's: apt-get install postgresql")
    with postgres.serve(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture
def deploy(cluster: Cluster, postgres_server: str, bucket: str, s3_environment: str, tmp_path: Path) -> Deploy:
    """Sets Dagster up on the cluster, with an empty database, and an empty bucket for its logs.

    `environment` is what pods and commands get besides the way to S3; `module` and `settings` as in `Deployment`.
    """

    def make(*, environment: Mapping[str, str] | None = None, **more: Any) -> Deployment:
        to_s3 = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        everywhere = {**to_s3, "CLUSTER_TEST_FOLDER": str(tmp_path), **(environment or {})}
        database = postgres.new_database(postgres_server)
        return Deployment(cluster, tmp_path / "home", database, bucket, everywhere, **more)

    return make


@pytest.fixture
def deployment(deploy: Deploy) -> Deployment:
    """Dagster on the cluster with the small jobs of tests/cluster/definitions.py."""
    return deploy()


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
