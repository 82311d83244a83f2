"""Reading a Trainium compiler's cache: an entry counts only when everything says that it is complete."""

from pathlib import Path

import pytest

from neuron_ops.compilers import neuron_cache
from neuron_ops.compilers.neuron_cache import Compilation, explain_miss, read_report
from tests.neuron_ops.compilers.cache_entries import COMPILER, write_entry

KEY = "1970132581169579119+abb26765"


@pytest.mark.parametrize(
    ("written", "state", "reason"),
    [
        ("complete", "complete", ""),
        ("complete, lock left", "complete", ""),
        ("extracted", "extracted", "model.neff was never finished"),
        ("only the program", "extracted", "model.neff was never finished"),
        ("failed", "failed", "[NLA001] Unhandled exception with message: out of memory"),
        ("done without a program", "failed", "model.done without a model.neff that holds anything"),
        ("done with an empty program", "failed", "model.done without a model.neff that holds anything"),
        ("locked", "locked", "its compilation was killed and left its lock"),
    ],
)
def test_the_state_of_an_entry_is_told_by_its_files(tmp_path: Path, written: str, state: str, reason: str) -> None:
    write_entry(tmp_path, KEY, written)

    (graph,) = neuron_cache.scan(tmp_path)

    assert graph.name == f"{COMPILER}/MODULE_{KEY}"
    assert graph.state == state
    assert graph.reason.endswith(reason)
    assert graph.bytes == (len(b"program") if state == "complete" else 0)


def test_a_failure_beside_a_program_of_an_earlier_try_is_a_failure(tmp_path: Path) -> None:
    write_entry(tmp_path, KEY, "complete")
    write_entry(tmp_path, KEY, "failed")

    (graph,) = neuron_cache.scan(tmp_path)

    assert graph.state == "failed"


def test_a_long_reason_keeps_its_end(tmp_path: Path) -> None:
    entry = write_entry(tmp_path, KEY, "failed")
    (entry / "model.log").write_text("Failed compilation with ['x']: " + "word " * 500 + "the very cause")

    (graph,) = neuron_cache.scan(tmp_path)

    assert graph.reason.startswith("…")
    assert graph.reason.endswith("the very cause")
    assert len(graph.reason) == neuron_cache.REASON_LENGTH + 1


def test_entries_of_every_compiler_are_found_and_other_folders_are_not(tmp_path: Path) -> None:
    write_entry(tmp_path, "a+1", "complete")
    write_entry(tmp_path, "b+1", "extracted", compiler="neuronxcc-2.20.0+1")
    (tmp_path / "0_REGISTRY" / "0.4.5").mkdir(parents=True)
    (tmp_path / COMPILER / "notes").mkdir()

    assert neuron_cache.names(tmp_path) == ["neuronxcc-2.20.0+1/MODULE_b+1", f"{COMPILER}/MODULE_a+1"]


def test_an_empty_cache_has_no_graph(tmp_path: Path) -> None:
    assert neuron_cache.scan(tmp_path) == []


def test_what_is_published_of_an_entry_is_without_locks(tmp_path: Path) -> None:
    write_entry(tmp_path, KEY, "complete, lock left")

    (graph,) = neuron_cache.scan(tmp_path)

    assert [file.name for file in neuron_cache.files(tmp_path, graph)] == [
        "compile_flags.json",
        "model.done",
        "model.hlo_module.pb",
        "model.neff",
    ]


@pytest.mark.parametrize("written", ["failed", "locked", "done with an empty program", "only the program"])
def test_an_entry_that_is_reset_looks_merely_extracted(tmp_path: Path, written: str) -> None:
    write_entry(tmp_path, KEY, written)

    neuron_cache.reset(tmp_path, neuron_cache.scan(tmp_path)[0])

    (graph,) = neuron_cache.scan(tmp_path)
    assert graph.state == "extracted"
    assert [file.name for file in neuron_cache.files(tmp_path, graph)] == ["compile_flags.json", "model.hlo_module.pb"]


# The first as older releases print it, each line with its level; the second as newer ones do, with seconds.
OLD = f"""
INFO: 2023-08-24 20:21:11.000895:  161136  INFO ||NEURON_PARALLEL_COMPILE||: {{
INFO:     "compilation_summary": {{
INFO:         "true": 1
INFO:     }},
INFO:     "compilation_report": {{
INFO:         "/var/tmp/cache/{COMPILER}/MODULE_a+1/model.hlo.pb": {{
INFO:             "status": true,
INFO:             "retry": 0
INFO:         }}
INFO:     }}
INFO: }}
INFO: 2023-08-24 20:21:11.000895:  161136  INFO ||NEURON_PARALLEL_COMPILE||: Total graphs: 1
"""
NEW = f"""
2026-11-01 INFO ||NEURON_PARALLEL_COMPILE||: {{
    "compilation_summary": {{"true": 1, "false": 1}},
    "compilation_report": {{
        "/scratch/{COMPILER}/MODULE_b+1/model.hlo_module.pb": {{"status": true, "retry": 1, "compile_time": 12.5}},
        "/scratch/{COMPILER}/MODULE_c+1/model.hlo_module.pb": {{"status": false, "retry": 1, "compile_time": null}}
    }}
}}
"""


def test_the_compilers_report_is_found_among_its_lines_of_log() -> None:
    assert read_report(f"before\n{OLD}between {{ and }}\n{NEW}after") == {
        f"{COMPILER}/MODULE_a+1": Compilation(seconds=None, retries=0),
        f"{COMPILER}/MODULE_b+1": Compilation(seconds=12.5, retries=1),
        f"{COMPILER}/MODULE_c+1": Compilation(seconds=None, retries=1),
    }


def test_a_later_report_of_a_graph_wins() -> None:
    later = NEW.replace("12.5", "700.25")

    assert read_report(NEW + later)[f"{COMPILER}/MODULE_b+1"].seconds == 700.25


@pytest.mark.parametrize("output", ["", "no report", NEW[: len(NEW) // 2], '{"compilation_summary": {}}'])
def test_without_a_whole_report_nothing_is_known(output: str) -> None:
    assert read_report(output) == {}


def test_a_miss_by_another_compiler_names_both(tmp_path: Path) -> None:
    why = explain_miss(tmp_path, "neuronxcc-9.9+0/MODULE_a+1", [f"{COMPILER}/MODULE_a+1"])

    assert why == f"the compiler here is neuronxcc-9.9+0, the cache was made by {COMPILER}"


def test_a_miss_by_other_flags_names_the_flags_that_differ(tmp_path: Path) -> None:
    write_entry(tmp_path, "a+1", "complete", flags=["--target=trn1", "-O1"])
    write_entry(tmp_path, "a+2", "extracted", flags=["--target=trn1", "--model-type=transformer"])

    why = explain_miss(tmp_path, f"{COMPILER}/MODULE_a+2", [f"{COMPILER}/MODULE_a+1"])

    assert why == "the compiler's flags differ: only now --model-type=transformer; only in the cache -O1"


def test_a_miss_by_other_flags_that_are_not_written_yet_still_says_so(tmp_path: Path) -> None:
    (tmp_path / COMPILER / "MODULE_a+2").mkdir(parents=True)

    assert explain_miss(tmp_path, f"{COMPILER}/MODULE_a+2", [f"{COMPILER}/MODULE_a+1"]).endswith("flags differ")


def test_a_miss_by_another_graph_says_that_the_rest_is_equal(tmp_path: Path) -> None:
    why = explain_miss(tmp_path, f"{COMPILER}/MODULE_b+1", [f"{COMPILER}/MODULE_a+1"])

    assert why.startswith("its graph (MODULE_b) is not one that the warm-up made")
