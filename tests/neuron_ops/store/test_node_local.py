"""Node-local folders: filled once, shared by the processes of a launch, removed by the last one, never left behind."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuron_ops.errors import InvalidInput
from neuron_ops.store.node_local import node_local_folder

# Fills (or not), says what it found, and holds the folder until its standard input ends.
PROGRAM = """
import sys
from pathlib import Path
from neuron_ops.errors import InvalidInput
from neuron_ops.store.node_local import node_local_folder

def fill(folder):
    print("filling", flush=True)
    sys.stdin.readline()
    (folder / "content").write_text("x")

with node_local_folder("mine", fill, Path(sys.argv[1])) as folder:
    print("using", (folder / "content").read_text(), flush=True)
    sys.stdin.read()
"""

Program = subprocess.Popen[str]


@contextlib.contextmanager
def started(root: Path) -> Iterator[Program]:
    argv = [sys.executable, "-c", PROGRAM, str(root)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        yield program
        program.kill()


def says(program: Program) -> str:
    assert program.stdout is not None
    return program.stdout.readline().strip()


def go_on(program: Program) -> None:
    assert program.stdin is not None
    program.stdin.write("\n")
    program.stdin.flush()


def end(program: Program) -> None:
    assert program.stdin is not None
    program.stdin.close()
    assert program.wait() == 0


def write_content(folder: Path) -> None:
    (folder / "content").write_text("x")


def test_a_folder_is_filled_for_use_and_removed_after_it(tmp_path: Path) -> None:
    with node_local_folder("mine", write_content, tmp_path) as folder:
        assert (folder / "content").read_text() == "x"
        (folder / "more").write_text("what a compiler adds")

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_filled_does_not_stay(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), node_local_folder("mine", fail, tmp_path):
        raise AssertionError("never used")

    assert list(tmp_path.iterdir()) == []


def test_one_process_fills_while_the_others_wait_and_the_last_one_removes(tmp_path: Path) -> None:
    with started(tmp_path) as first:
        assert says(first) == "filling"
        with started(tmp_path) as second:
            go_on(first)
            assert says(first) == "using x"
            assert says(second) == "using x", "and it did not fill it again"

            end(first)
            assert (tmp_path / "mine" / "content").exists()
            end(second)

    assert list(tmp_path.iterdir()) == []


def test_when_the_filling_process_is_killed_the_waiting_one_fills(tmp_path: Path) -> None:
    with started(tmp_path) as first:
        assert says(first) == "filling"
        with started(tmp_path) as second:
            first.send_signal(signal.SIGKILL)
            assert says(second) == "filling"
            go_on(second)
            assert says(second) == "using x"
            end(second)


def test_what_a_killed_training_left_is_removed_by_the_next(tmp_path: Path) -> None:
    with started(tmp_path) as killed:
        assert says(killed) == "filling"
        go_on(killed)
        assert says(killed) == "using x"
    assert (tmp_path / "mine" / "content").exists()

    with node_local_folder("another", write_content, tmp_path):
        assert [folder.name for folder in tmp_path.iterdir()] == ["another"]


def test_a_folder_in_use_is_left_alone_by_other_trainings(tmp_path: Path) -> None:
    with node_local_folder("mine", write_content, tmp_path) as mine:
        with node_local_folder("another", write_content, tmp_path):
            pass

        assert (mine / "content").exists()


def test_a_folder_that_others_may_write_to_is_refused_since_programs_are_run_from_it(tmp_path: Path) -> None:
    shared, link = tmp_path / "shared", tmp_path / "link"
    shared.mkdir()
    link.symlink_to(shared)
    shared.chmod(0o777)

    for root in (shared, link):
        with (
            pytest.raises(InvalidInput, match="only this user may write to"),
            node_local_folder("mine", write_content, root),
        ):
            raise AssertionError("never used")
