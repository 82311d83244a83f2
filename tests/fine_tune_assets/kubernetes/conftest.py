"""The test cluster, for tests that need what really becomes of a pod."""

from tests.cluster.conftest import cluster

__all__ = ["cluster"]
