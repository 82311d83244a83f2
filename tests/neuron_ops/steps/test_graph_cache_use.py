"""What a training gets of the published cache, and what happens when that is not enough."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuron_ops.errors import CorruptArtifact, OpsError
from neuron_ops.recipe.file import load_recipe
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.graph_cache_use import compiled_graphs
from neuron_ops.steps.verdicts import no_graph_was_compiled
from neuron_ops.store import node_local
from neuron_ops.store.artifacts import Artifact, ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets
from tests.neuron_ops.compilers.cache_entries import COMPILER, write_entry

KEY = "a+1"
ENTRY = f"cache/{COMPILER}/MODULE_{KEY}"
FILES = {f"{ENTRY}/model.neff": b"program", f"{ENTRY}/model.done": b"", f"{ENTRY}/compile_flags.json": b"[]"}

Finished = Callable[..., tuple[Lineage, Artifact]]
Publish = Callable[..., Artifact]


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test's node-local folders and compiler variables are its own."""
    root = tmp_path / "node-local"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("neuron_ops.compilers.neuron.LOOK_SECONDS", 0.01)
    for name in ("NEURON_COMPILE_CACHE_URL", "NEURON_CC_FLAGS", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, "")
    return root


@pytest.fixture
def finished(tmp_path: Path, publish: Any) -> Finished:
    def finished(
        recipe: str = "llama3_8b_lora_trn1", files: dict[str, bytes] | None = None, **metrics: Any
    ) -> tuple[Lineage, Artifact]:
        overrides = {"graph.torch_compile": True} if recipe == "tiny_llama_cpu" else {}
        store = ArtifactStore(str(tmp_path / "store"))
        lineage = Lineage(load_recipe(recipe, overrides), store, RawDatasets(f"{store.url}/raw"), "v1")
        publish(store, lineage.provenance("base_model").address, {"config.json": b"{}"})
        address = lineage.provenance("compiled_graph_cache").address
        artifact = publish(store, address, FILES if files is None else files, metrics={"graphs": 1, **metrics})
        return lineage, artifact

    return finished


def nothing_ends(error: OpsError) -> None:
    raise AssertionError(error)


def test_the_compiler_finds_every_published_graph_in_a_copy_of_its_own(finished: Finished) -> None:
    lineage, artifact = finished()

    with compiled_graphs(lineage, "launch", nothing_ends) as ready:
        cache = Path(os.environ["NEURON_COMPILE_CACHE_URL"])
        program = cache / ENTRY.removeprefix("cache/") / "model.neff"
        program.write_bytes(b"what a compiler may do to its cache")

    assert artifact.read(f"{ENTRY}/model.neff") == b"program"
    assert not cache.exists()
    assert ready.metrics() == {"graphs_compiled": 0, "graphs_from": str(artifact.address)}
    check = no_graph_was_compiled(ready.metrics())
    assert check.passed
    assert check.description == f"every graph came from {artifact.address}"


def test_the_cache_comes_from_s3_as_from_a_folder(store: ArtifactStore, publish: Publish) -> None:
    lineage = Lineage(load_recipe("llama3_8b_lora_trn1"), store, RawDatasets(f"{store.url}/raw"), "v1")
    publish(store, lineage.provenance("base_model").address, {"config.json": b"{}"})
    publish(store, lineage.provenance("compiled_graph_cache").address, FILES, metrics={"graphs": 1})

    with compiled_graphs(lineage, "launch", nothing_ends):
        cache = Path(os.environ["NEURON_COMPILE_CACHE_URL"])
        found = {f"cache/{file.relative_to(cache)}": file.read_bytes() for file in cache.glob("*/*/*")}

    assert found == FILES


def test_a_damaged_cache_is_refused_before_training_starts(finished: Finished) -> None:
    lineage, artifact = finished()
    (Path(artifact.location) / ENTRY / "model.neff").write_bytes(b"progrbm")

    with (
        pytest.raises(CorruptArtifact, match=r"model\.neff holds other bytes"),
        compiled_graphs(lineage, "x", nothing_ends),
    ):
        raise AssertionError("never trained")

    assert list(node_local.node_local_root().iterdir()) == []


def test_on_trainium_a_missing_graph_ends_training_with_its_reason(finished: Finished) -> None:
    lineage, artifact = finished()
    ended, noticed = [], threading.Event()

    def end(error: OpsError) -> None:
        ended.append(str(error))
        noticed.set()

    with compiled_graphs(lineage, "launch", end) as ready:
        write_entry(Path(os.environ["NEURON_COMPILE_CACHE_URL"]), "a+2", "extracted", flags=["-O1"])
        assert noticed.wait(30)

    assert ended[0].startswith(
        f"Training needs the graph {COMPILER}/MODULE_a+2, which {artifact.address} does not hold: "
        "the compiler's flags differ: only now -O1; only in the cache nothing. "
    )
    assert ended[0].endswith("materialize compiled_graph_cache again, in the image that trains.")
    assert not no_graph_was_compiled(ready.metrics()).passed


def test_without_any_graph_to_begin_with_training_compiles_and_says_so(finished: Finished) -> None:
    lineage, artifact = finished(files={"report.md": b"No compiled graphs"}, graphs=0)

    with compiled_graphs(lineage, "launch", nothing_ends) as ready:
        write_entry(Path(os.environ["NEURON_COMPILE_CACHE_URL"]), KEY, "complete")

    assert ready.metrics()["graphs_compiled"] == 1
    assert (
        no_graph_was_compiled(ready.metrics()).description
        == f"training compiled 1 graphs that {artifact.address} does not hold"
    )


def test_programs_for_another_processor_are_not_used(finished: Finished, caplog: pytest.LogCaptureFixture) -> None:
    lineage, _ = finished("tiny_llama_cpu", {"cache/fxgraph/ab/key/record": b"x"}, machine="riscv64 0123")

    with compiled_graphs(lineage, "launch", nothing_ends):
        found = list(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).iterdir())

    assert [file.name for file in found] == [node_local.READY]
    assert "was compiled on another kind of processor" in caplog.text


def test_an_eager_training_needs_no_cache_and_says_that_it_was_eager(tmp_path: Path, publish: Any) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    lineage = Lineage(load_recipe("tiny_llama_cpu"), store, RawDatasets(f"{store.url}/raw"), "v1")
    publish(store, lineage.provenance("base_model").address, {"config.json": b"{}"})
    publish(store, lineage.provenance("compiled_graph_cache").address, {"report.md": b"nothing"}, metrics={"graphs": 0})

    with compiled_graphs(lineage, "launch", nothing_ends) as ready:
        assert not node_local.node_local_root().exists()

    assert no_graph_was_compiled(ready.metrics()).passed
    assert no_graph_was_compiled(ready.metrics()).description == "training ran eagerly: there was no graph to compile"
