"""Stores for the tests of steps."""

from pathlib import Path

import pytest


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def root_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """As for the store's own tests; S3 is slow here, for these tests move whole models."""
    if request.param == "folder":
        return str(tmp_path / "store")
    return f"s3://{request.getfixturevalue('bucket')}/some/store"
