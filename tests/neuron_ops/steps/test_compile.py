"""`compile`: what it publishes, what it tries again, and what it refuses to publish.

Trainium's compiler is played by a stand-in (graphs/stand_in.py), so these tests are about our handling of its results.
torch.compile is the real one, in test_compiled_training.py.
"""

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from neuron_ops.errors import InvalidInput, MissingArtifact, Unavailable
from neuron_ops.launch import process
from neuron_ops.launch.outcome import ExitResult
from neuron_ops.recipe.file import load_recipe
from neuron_ops.steps import compile, program
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.commands import flags
from neuron_ops.steps.table import BY_VERB
from neuron_ops.steps.warmup_launcher import ROUNDS
from neuron_ops.store.artifacts import Artifact, ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets
from tests.neuron_ops.compilers.cache_entries import COMPILER
from tests.neuron_ops.compilers.played_compiler import CONFIG, Compiler

PATIENCE = 60.0
"""Seconds after which what should have ended has not; only a failing test waits that long."""


@pytest.fixture
def neuron(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    compiler = Compiler(tmp_path / "bin")
    for name, value in compiler.environment(os.environ["PATH"]).items():
        monkeypatch.setenv(name, value)
    return compiler


@pytest.fixture
def make_lineage(tmp_path: Path, publish: Any) -> Callable[..., Lineage]:
    def make_lineage(recipe: str = "llama3_8b_lora_trn1", **overrides: object) -> Lineage:
        store = ArtifactStore(str(tmp_path / "store"))
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        lineage = Lineage(load_recipe(recipe, dotted), store, RawDatasets(f"{store.url}/raw"), "v1")
        plan = lineage.provenance("base_model")
        if store.find(plan.address) is None:
            publish(store, plan.address, {"config.json": json.dumps(CONFIG).encode()}, reads=plan.reads)
        return lineage

    return make_lineage


def compile_with(lineage: Lineage) -> Artifact:
    program.make(BY_VERB["compile"], lineage, compile.build)
    return lineage.require("compiled_graph_cache")


def test_an_eager_training_has_nothing_to_compile_and_the_artifact_says_so(
    make_lineage: Callable[..., Lineage],
) -> None:
    artifact = compile_with(make_lineage("tiny_llama_cpu"))

    assert artifact.manifest.metrics["graphs"] == 0
    assert artifact.manifest.metrics["reason"] == "backend cpu runs eagerly: training compiles no graph"
    assert artifact.read("report.md").startswith(b"No compiled graphs: backend cpu runs eagerly")


def test_every_graph_is_published_with_its_seconds(make_lineage: Callable[..., Lineage], neuron: Compiler) -> None:
    neuron.plan(
        {"entries": {"a+1": ["complete", 612.5], "b+1": ["complete", 30.25], "c+1": ["complete, lock left", 2]}}
    )

    artifact = compile_with(make_lineage())

    assert [file.name for file in artifact.manifest.files if file.name != "report.md"] == [
        f"cache/{COMPILER}/MODULE_{key}/{name}"
        for key in ("a+1", "b+1", "c+1")
        for name in ("compile_flags.json", "model.done", "model.hlo_module.pb", "model.neff")
    ]
    metrics = artifact.manifest.metrics
    assert (metrics["graphs"], metrics["compile_seconds"], metrics["longest_compile_seconds"]) == (3, 644.75, 612.5)
    report = artifact.read("report.md").decode()
    assert f"| `{COMPILER}/MODULE_a+1` | 7 | 612.5 | 1 |" in report
    assert report.index("MODULE_a+1") < report.index("MODULE_b+1") < report.index("MODULE_c+1")


def test_the_warm_up_has_trainings_processes_and_a_cache_of_its_own(
    make_lineage: Callable[..., Lineage], neuron: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_COMPILE_CACHE_URL", "s3://somewhere/else")
    neuron.plan({"entries": {"a+1": ["complete", 1]}})

    compile_with(make_lineage())

    (call,) = neuron.calls()
    argv = call["argv"]
    assert "--nproc-per-node=32" in argv
    assert argv[argv.index("-m", argv.index("--nproc-per-node=32")) + 1] == "neuron_ops.steps.warmup"
    assert "--dataset-version" not in argv, "its graphs are shared by all of them"
    assert call["variables"]["NEURON_COMPILE_CACHE_URL"].startswith("/")
    assert call["variables"]["NEURON_PARALLEL_COMPILE_MAX_RETRIES"] == "1"
    assert not Path(call["variables"]["NEURON_COMPILE_CACHE_URL"]).exists(), "nothing is left of it"


@pytest.mark.parametrize("state", ["failed", "extracted", "locked"])
def test_what_was_not_compiled_is_compiled_again_and_the_rest_is_not(
    make_lineage: Callable[..., Lineage], neuron: Compiler, state: str
) -> None:
    neuron.plan({"entries": {"a+1": ["complete", 10], "b+1": [state, None]}}, {"entries": {"b+1": ["complete", 20]}})

    artifact = compile_with(make_lineage())

    first, second = neuron.calls()
    assert second["argv"] == ["--command", "compile", *first["argv"]]
    assert artifact.manifest.metrics["graphs"] == 2
    assert artifact.manifest.metrics["compile_seconds"] == 30
    assert not any(file.name.endswith((".lock", "model.log")) for file in artifact.manifest.files)


def test_a_graph_that_fails_every_time_is_named_and_nothing_is_published(
    make_lineage: Callable[..., Lineage], neuron: Compiler
) -> None:
    neuron.plan(*[{"entries": {"a+1": ["complete", 10], "b+1": ["failed", None]}}] * ROUNDS)
    lineage = make_lineage()

    with pytest.raises(InvalidInput) as caught:
        compile_with(lineage)

    assert len(neuron.calls()) == ROUNDS
    assert str(caught.value).startswith(f"1 of 2 graphs could not be compiled: {COMPILER}/MODULE_b+1 failed (")
    assert "out of memory" in str(caught.value)
    assert lineage.find("compiled_graph_cache") is None
    assert lineage.store.files.children("compiled_graph_cache") == []


def test_a_compiler_that_used_another_cache_is_noticed(make_lineage: Callable[..., Lineage], neuron: Compiler) -> None:
    neuron.plan({"entries": {}})

    with pytest.raises(InvalidInput, match="left no graph in the cache folder that it was given"):
        compile_with(make_lineage())


def test_an_error_of_the_warm_up_is_this_steps_error(make_lineage: Callable[..., Lineage], neuron: Compiler) -> None:
    message = "base_model was never finished. Materialize it first."
    neuron.plan({"error": {"exit_code": MissingArtifact.exit_code, "message": message}, "status": 1})

    with pytest.raises(MissingArtifact, match=r"^base_model was never finished"):
        compile_with(make_lineage())


def test_a_warm_up_that_crashes_may_be_tried_again(make_lineage: Callable[..., Lineage], neuron: Compiler) -> None:
    neuron.plan({"entries": {"a+1": ["complete", 10]}, "status": 7})

    with pytest.raises(Unavailable, match="warm-up of the compiler ended with status 7"):
        compile_with(make_lineage())


def test_a_machine_without_the_compiler_is_refused_at_once(make_lineage: Callable[..., Lineage]) -> None:
    assert shutil.which("neuron_parallel_compile") is None, "this test needs a machine without it"

    with pytest.raises(InvalidInput, match="neuron_parallel_compile is not on this machine's PATH"):
        compile_with(make_lineage())


def test_why_it_compiles_is_said_by_field_of_the_nearest_cache(
    make_lineage: Callable[..., Lineage], neuron: Compiler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="neuron_ops")
    neuron.plan(*[{"entries": {"a+1": ["complete", 10]}}] * 3)
    compile_with(make_lineage())
    assert "this store has no compiled graphs yet" in caplog.text
    compile_with(make_lineage(graph__sequence_length=2048, graph__micro_batch_size=2, graph__lora__r=4))
    caplog.clear()

    compile_with(make_lineage(graph__sequence_length=2048, graph__lora__r=4))

    assert "graph.micro_batch_size: 2 -> 1" in caplog.text
    assert "sequence_length" not in caplog.text, "the other cache is further away"


def test_another_dataset_version_uses_the_same_graphs_without_a_process(
    make_lineage: Callable[..., Lineage], neuron: Compiler
) -> None:
    neuron.plan({"entries": {"a+1": ["complete", 10]}})
    first = make_lineage()
    made = compile_with(first)

    second = Lineage(first.recipe, first.store, first.raw, "v2")
    reused = compile_with(second)

    assert reused.address == made.address
    assert len(neuron.calls()) == 1


def compile_on_two_nodes(lineage: Lineage, folder: Path) -> ExitResult:
    """As a person types it: the program starts itself once for each node, here side by side on this machine."""
    (folder / "recipe.json").write_text(lineage.recipe.to_json())
    words = flags(
        BY_VERB["compile"], str(folder / "recipe.json"), lineage.store.url, lineage.raw.url, lineage.dataset_version
    )
    return process.run([sys.executable, "-m", "neuron_ops.steps.compile", *words], {})


@pytest.mark.slow
def test_two_nodes_warm_up_together_and_only_the_first_compiles_and_publishes(
    make_lineage: Callable[..., Lineage], neuron: Compiler, tmp_path: Path
) -> None:
    neuron.plan(
        {"meets": "and goes on", "entries": {"a+1": ["complete", 10], "b+1": ["extracted", None]}},
        {"entries": {"b+1": ["complete", 20]}},
    )
    neuron.plan({"meets": "and goes on", "entries": {"a+1": ["extracted", None], "c+1": ["extracted", None]}}, node=1)
    lineage = make_lineage(hardware__nodes=2)

    ending = compile_on_two_nodes(lineage, tmp_path)

    assert ending == ExitResult(0)
    artifact = lineage.require("compiled_graph_cache")
    assert artifact.manifest.metrics["graphs"] == 2
    assert {Path(file.name).parent.name for file in artifact.manifest.files} == {"", "MODULE_a+1", "MODULE_b+1"}
    assert len(list(Path(artifact.location).glob("*/"))) == 1, "what the second node wrote is gone"
    (first, retry), (second,) = neuron.calls(0), neuron.calls(1)
    assert retry["argv"] == ["--command", "compile", *first["argv"]]
    assert second["argv"][:2] == ["--command", "collect"]
    assert {"--nproc-per-node=32", "--nnodes=2", "--node-rank=1"} <= set(second["argv"])
    meeting = [word for word in first["argv"] if word.startswith("--master-")]
    assert meeting == [word for word in second["argv"] if word.startswith("--master-")]
    port = int(meeting[1].removeprefix("--master-port="))
    assert [call["variables"]["NEURON_RT_ROOT_COMM_ID"] for call in (first, second)] == [f"127.0.0.1:{port + 1}"] * 2
    caches = {call["variables"]["NEURON_COMPILE_CACHE_URL"] for call in (first, second)}
    assert len(caches) == 2
    assert not any(Path(cache).exists() for cache in caches)


def test_a_finished_cache_for_two_nodes_starts_none_of_them(
    make_lineage: Callable[..., Lineage], neuron: Compiler, publish: Any, tmp_path: Path
) -> None:
    lineage = make_lineage(hardware__nodes=2)
    publish(lineage.store, lineage.provenance("compiled_graph_cache").address, {"report.md": b""})

    assert compile_on_two_nodes(lineage, tmp_path) == ExitResult(0)
    assert neuron.calls(0) == neuron.calls(1) == []


@pytest.mark.slow
def test_what_a_rank_of_any_node_reports_is_this_steps_error_and_not_its_consequence(
    make_lineage: Callable[..., Lineage], neuron: Compiler, tmp_path: Path
) -> None:
    """The other node's ranks lose their peers and end too, perhaps before the first node's program has ended."""
    error = {"exit_code": InvalidInput.exit_code, "message": "the reason"}
    neuron.plan({"meets": "and follows", "status": 1})
    neuron.plan({"meets": "and goes on", "error": error, "status": 1}, node=1)
    lineage = make_lineage(hardware__nodes=2)

    ending = compile_on_two_nodes(lineage, tmp_path)

    assert (type(ending.error), str(ending.error)) == (InvalidInput, "the reason")
    assert ending.final
    assert lineage.store.files.children("compiled_graph_cache") == []


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.slow
def test_a_node_that_is_killed_ends_the_warm_up_of_all(
    make_lineage: Callable[..., Lineage], neuron: Compiler, tmp_path: Path, killed: int
) -> None:
    for node in (0, 1):
        neuron.plan({"meets": "and hangs", "entries": {"a+1": ["complete", 10]}}, node=node)
    lineage = make_lineage(hardware__nodes=2)

    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(compile_on_two_nodes, lineage, tmp_path)
        while not (neuron.calls(0) and neuron.calls(1)):
            assert not ending.done(), ending.result()
            time.sleep(0.05)
        processes = [psutil.Process(neuron.calls(node)[0]["pid"]) for node in (0, 1)]
        processes[killed].kill()
        status = ending.result(PATIENCE).status

    assert status == 137
    assert [process for process in processes if process.is_running()] == []
    assert lineage.store.files.children("compiled_graph_cache") == []
