"""The test cluster with Dagster on it, and a code location whose steps do what a test tells them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.conftest import bucket, cluster, postgres_server, s3_environment, s3_server
from tests.cluster.deployment import Deployment
from tests.cluster.postgres import new_database
from tests.fine_tune_assets.kubernetes.looks import LIMITS, Looks, make_looks

__all__ = ["bucket", "cluster", "postgres_server", "s3_environment", "s3_server"]

CODE_LOCATION = "tests.fine_tune_assets.kubernetes.code_location"
Deploy = Callable[..., Deployment]


@pytest.fixture
def deploy(cluster: Cluster, postgres_server: str, bucket: str, s3_environment: str, tmp_path: Path) -> Deploy:
    """Makes the deployment: the team's settings, more of dagster.yaml, and another code location where one is named."""

    def make(pods: dict[str, Any], *, module: str = CODE_LOCATION, **dagster_yaml: Any) -> Deployment:
        file = tmp_path / "pods.yaml"
        file.write_text(json.dumps({"check_interval_seconds": 1} | pods))
        environment = {
            **{name: value for name, value in os.environ.items() if name.startswith("AWS_")},
            "CLUSTER_TEST_FOLDER": str(tmp_path),
            "FINE_TUNE_DEPLOYMENT": "kubernetes",
            "FINE_TUNE_PODS": str(file),
            "FINE_TUNE_STORE": f"s3://{bucket}/store",
        }
        database = new_database(postgres_server)
        return Deployment(cluster, tmp_path / "home", database, bucket, environment, module, dagster_yaml)

    return make


@pytest.fixture
def looks(cluster: Cluster) -> Looks:
    return make_looks(cluster, LIMITS)
