"""A store, raw rows and runs on them, with the shipped model as base where a test wants one fetched."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuron_ops.planning.quantities import Range
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import package_path
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.artifacts import Artifact, ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets
from tests.neuron_ops.conftest import publish_files

MakeLineage = Callable[..., Lineage]
VERSION = "v1"


@pytest.fixture
def make_lineage(tmp_path: Path) -> MakeLineage:
    """A run of the demo's recipe, changed by keyword: `training__max_steps=3` overrides training.max_steps."""

    def make(recipe: str = "tiny_llama_cpu", rows: list[str] | None = None, **overrides: Any) -> Lineage:
        raw = RawDatasets(str(tmp_path / "raw"))
        if not raw.has_landed(VERSION):
            deliver(raw, tmp_path / "delivery", demo_rows() if rows is None else rows)
        changed = {name.replace("__", "."): value for name, value in overrides.items()}
        return Lineage(load_recipe(recipe, changed), ArtifactStore(str(tmp_path / "store")), raw, VERSION)

    return make


def demo_rows(number: int = 120) -> list[str]:
    """The first rows of the demo's dataset, one line each."""
    rows = package_path("package:demo/raw/demo-v1")
    assert rows is not None
    return (rows / "rows.jsonl").read_text(encoding="utf-8").splitlines()[:number]


def deliver(raw: RawDatasets, folder: Path, rows: list[str]) -> None:
    """Let the rows land."""
    folder.mkdir()
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    raw.land(VERSION, folder)


def publish(lineage: Lineage, artifact: str, contents: dict[str, bytes], **fields: Any) -> Artifact:
    """Finish an artifact at its address, with what its plan says that it reads."""
    plan = lineage.provenance(artifact)
    return publish_files(lineage.store, plan.address, contents, reads=plan.reads, inputs=plan.inputs, **fields)


def fetch_base(lineage: Lineage) -> Artifact:
    """Finish base_model with the files of the folder that the recipe names."""
    folder = package_path(str(lineage.recipe.base_model.path))
    assert folder is not None
    return publish(lineage, "base_model", {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()})


def about(low: float, high: float) -> Range:
    """Equals every range of nearly these ends."""
    ends: tuple[Any, Any] = (pytest.approx(low), pytest.approx(high))
    return Range(*ends)


def prepare_report(lineage: Lineage) -> bytes:
    """What prepare reports of 100 rows in 10 sequences."""
    split = {"rows": 100, "sequences": 10, "tokens": 2_000, "supervised_tokens": 500}
    length = lineage.recipe.graph.sequence_length
    report = {"rows_read": 200, "train": split, "holdout": split, "sequence_length": length, "longest_row": 90}
    return json.dumps(report).encode()
