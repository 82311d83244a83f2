"""A small recipe, and a place to write one that is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest

TINY = """
name: mine
base_model: {path: package:demo/model, name: me/tiny}
training: {max_steps: 10}
"""

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a recipe to a file and give its path."""

    def write(text: str | bytes, name: str = "mine.yaml") -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write
