"""What every step program does: four flags, exit codes, one line for an error, progress to Dagster."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, DAGSTER_PIPES_MESSAGES_ENV_VAR, encode_param

from neuron_ops.errors import CorruptArtifact, InvalidInput, MissingArtifact, OpsError, Unavailable
from neuron_ops.launch.outcome import ERROR_FILE, read_error
from neuron_ops.recipe.file import load_recipe
from neuron_ops.steps import program as steps_program
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import BY_VERB
from neuron_ops.store.artifacts import ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets

FETCH = BY_VERB["fetch"]

# A step program of few words; what it does in `build` is put in.
PROGRAM = """
import logging, sys, time
from neuron_ops.steps import program
from neuron_ops.errors import *

log = logging.getLogger("__main__")

def build(run, out):
    (out / "content").write_text("x")
    {body}
    return program.StepResult(metrics={{"answer": 42}})

program.main("{verb}", build)
"""


Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    (tmp_path / "model").mkdir()
    recipe = load_recipe("tiny_llama_cpu", {"base_model.path": str(tmp_path / "model")})
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    return Lineage(recipe, ArtifactStore(str(tmp_path / "store")), RawDatasets(str(tmp_path / "store/raw")))


@pytest.fixture
def argv(lineage: Lineage, tmp_path: Path) -> Callable[..., list[str]]:
    def argv(body: str = "pass", verb: str = "fetch", *more: str, store: str = "store") -> list[str]:
        program = PROGRAM.format(body=body, verb=verb)
        flags = ["--recipe", str(tmp_path / "recipe.json"), "--store", str(tmp_path / store), *more]
        return [sys.executable, "-c", program, *flags]

    return argv


@pytest.fixture
def program(argv: Callable[..., list[str]]) -> Program:
    def program(*arguments: str, **options: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(argv(*arguments, **options), capture_output=True, text=True, check=False)

    return program


def product(lineage: Lineage, out: Path) -> steps_program.StepResult:
    (out / "content").write_text("x")
    return steps_program.StepResult(metrics={"answer": 42})


def test_a_step_that_succeeds_publishes_and_exits_with_0(lineage: Lineage, program: Program) -> None:
    done = program()

    assert (done.returncode, done.stdout) == (0, "")
    artifact = lineage.require("base_model")
    assert artifact.read("content") == b"x"
    assert artifact.manifest.metrics["answer"] == 42
    assert re.search(rf"\d\d:\d\d:\d\d neuron_ops\.steps\.program making {artifact.address}\n", done.stderr)
    assert f"finished {artifact.location}: 1 files, 1 bytes" in done.stderr


def test_a_finished_artifact_is_not_made_again(lineage: Lineage, program: Program) -> None:
    steps_program.make(FETCH, lineage, product)

    done = program("raise SystemExit('made again')")

    assert done.returncode == 0
    assert "is finished already; nothing to do" in done.stderr


@pytest.mark.parametrize("error", [CorruptArtifact, Unavailable])
def test_an_error_of_ours_is_one_line_and_its_own_exit_code(program: Program, error: type[OpsError]) -> None:
    done = program(f"raise {error.__name__}('the thing, the reason, the next move')")

    assert done.returncode == error.exit_code
    assert done.stderr.splitlines()[-1] == "error: the thing, the reason, the next move"
    assert "Traceback" not in done.stderr


def test_each_error_has_an_exit_code_of_its_own() -> None:
    errors = [InvalidInput, MissingArtifact, CorruptArtifact, Unavailable]

    assert [error.exit_code for error in errors] == [2, 3, 4, 5]
    assert [error.retry for error in errors] == [False, False, False, True]


def test_an_error_before_the_work_begins_is_told_the_same_way(
    lineage: Lineage, program: Program, tmp_path: Path
) -> None:
    (tmp_path / "recipe.json").write_text('{"name": "x"}')

    done = program()

    assert done.returncode == 2
    assert done.stderr.startswith("error: Recipe ")
    assert "base_model: this field is required." in done.stderr


def test_a_missing_input_exits_with_3(program: Program) -> None:
    done = program("pass", "compile", "--dataset-version", "v1")

    assert done.returncode == 3
    assert done.stderr.startswith("error: base_model was never finished")


def test_a_store_that_leads_through_a_file_exits_with_2(program: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    done = program(store="file")

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: Cannot write to ")


def test_a_defect_exits_with_1_and_its_traceback_and_leaves_nothing(program: Program, tmp_path: Path) -> None:
    done = program("raise KeyError('defect')")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "KeyError: 'defect'"
    assert [path.name for path in (tmp_path / "store").rglob("*")] == ["base_model"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_exits_with_its_number_and_leaves_nothing(
    number: signal.Signals, argv: Callable[..., list[str]], tmp_path: Path
) -> None:
    body = "print('building', flush=True); time.sleep(600)"
    with subprocess.Popen(argv(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert [path.name for path in (tmp_path / "store").rglob("*")] == ["base_model"]


def test_other_libraries_stay_quiet_and_warnings_do_not(program: Program) -> None:
    body = "logging.getLogger('other').info('chatter'); logging.getLogger('other').warning('trouble'); log.info('ours')"

    done = program(body)

    assert "chatter" not in done.stderr
    assert "other trouble" in done.stderr
    assert "__main__ ours" in done.stderr


def test_later_ranks_write_nothing_and_say_nothing(
    lineage: Lineage, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")

    done = program("log.info('from rank one')")

    assert (done.returncode, done.stderr) == (0, "")
    assert lineage.find("base_model") is None
    assert [path.name for path in (tmp_path / "store").rglob("*")] == ["base_model"]


@pytest.fixture
def dagster_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """Launch as Dagster does; returns what reads back the messages that it got."""
    context: dict[str, Any] = {
        "asset_keys": ["base_model"],
        "code_version_by_asset_key": {},
        "provenance_by_asset_key": {},
        "partition_key": None,
        "partition_key_range": None,
        "partition_time_window": None,
        "run_id": "run",
        "job_name": "job",
        "retry_number": 0,
        "extras": {},
    }
    path = tmp_path / "messages"
    path.touch()
    monkeypatch.setenv(DAGSTER_PIPES_CONTEXT_ENV_VAR, encode_param({"data": context}))
    monkeypatch.setenv(DAGSTER_PIPES_MESSAGES_ENV_VAR, encode_param({"path": str(path)}))
    return lambda: [json.loads(line) for line in path.read_text().splitlines()]


def test_launched_by_dagster_progress_goes_to_its_event_log(program: Program, dagster_messages: Any) -> None:
    done = program("log.info('step %d of %d', 1, 2); log.warning('careful')")

    logged = [message["params"] for message in dagster_messages() if message["method"] == "log"]
    assert {"message": "step 1 of 2", "level": "INFO"} in logged
    assert {"message": "careful", "level": "WARNING"} in logged
    assert done.returncode == 0
    assert "step 1 of 2" not in done.stderr, "not a second time"
    assert "careful" in done.stderr


@pytest.mark.parametrize("error", [InvalidInput, Unavailable])
def test_an_error_is_left_where_the_launcher_wants_it(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OpsError]
) -> None:
    monkeypatch.setenv(ERROR_FILE, str(tmp_path / "error"))

    done = program(f"raise {error.__name__}('reason')")

    found = read_error(tmp_path / "error")
    assert (type(found), str(found)) == (error, "reason")
    assert done.returncode == error.exit_code
    assert "error:" not in done.stderr, "not a second time"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--store", "/s", "--dataset-version", "v1"], "--recipe"),
        (["--recipe", "r", "--dataset-version", "v1"], "--store"),
        (["--recipe", "r", "--store", "/s"], "--dataset-version"),
        (["--recipe", "r", "--store", "/s", "--dataset-version", "v1", "--steps", "5"], "--steps"),
    ],
)
def test_the_flags_are_few_and_none_is_optional(
    arguments: list[str], word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare", *arguments])

    with pytest.raises(SystemExit) as caught:
        steps_program.main("prepare", product)

    assert caught.value.code == 2
    assert word in capsys.readouterr().err.splitlines()[-1]


def test_a_full_disk_is_one_sentence_and_not_tried_again(program: Program, tmp_path: Path) -> None:
    done = program("raise OSError(28, 'No space left on device', 'rows.arrow')")

    assert done.returncode == InvalidInput.exit_code
    assert "error: The disk became full (rows.arrow), so nothing was published." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="read from /proc")
def test_the_memory_of_a_step_is_its_own(lineage: Lineage, program: Program) -> None:
    launcher_s = bytearray(512 * 2**20)

    assert program().returncode == 0

    peak = lineage.require("base_model").manifest.metrics["peak_rss_bytes"]
    assert isinstance(peak, int | float)
    assert 0 < peak < len(launcher_s)


def test_an_error_ends_the_program_at_once_whatever_it_waits_for(argv: Callable[..., list[str]]) -> None:
    """A thread sees the error, while the one that trains is inside a compiler that would take an hour."""
    thread = "threading.Thread(target=program.end_at_once, args=(InvalidInput('a graph is missing'),))"
    body = f"import threading; {thread}.start(); time.sleep(3600)"

    ended = subprocess.run(argv(body), capture_output=True, text=True, check=False)

    assert ended.returncode == InvalidInput.exit_code
    assert "error: a graph is missing" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_the_processes_of_a_launch_have_a_name_in_common_and_a_process_alone_has_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    program = [sys.executable, "-c", "from neuron_ops.steps import program; print(program.launch_name())"]

    def name(**variables: str) -> str:
        environment = {**os.environ, **variables}
        return subprocess.run(program, env=environment, capture_output=True, text=True, check=True).stdout

    first, second = (name(LOCAL_RANK=rank, MASTER_PORT="4711") for rank in "01")
    assert first == second != name(LOCAL_RANK="0", MASTER_PORT="4712")
    assert name() != name()
