"""How a program's error gets out of torchrun and out of a pod."""

from pathlib import Path

import pytest

from neuron_ops.errors import CorruptArtifact, InvalidInput, MissingArtifact, OpsError, Unavailable
from neuron_ops.launch.outcome import MOST_BYTES, ExitResult, leave_error, parse_error, read_error


@pytest.mark.parametrize("kind", [InvalidInput, MissingArtifact, CorruptArtifact, Unavailable])
def test_an_error_comes_back_as_what_it_was(kind: type[OpsError], tmp_path: Path) -> None:
    leave_error(tmp_path / "error", kind("the reason: “naïve”\nand more"))

    found = read_error(tmp_path / "error")

    assert (type(found), str(found)) == (kind, "the reason: “naïve”\nand more")


def test_of_several_processes_the_first_one_counts(tmp_path: Path) -> None:
    leave_error(tmp_path / "error", CorruptArtifact("the cause"))
    leave_error(tmp_path / "error", Unavailable("its consequence"))

    assert str(read_error(tmp_path / "error")) == "the cause"


def test_a_program_that_left_nothing_has_no_error(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()  # as a pod's termination message is, before anything is written

    assert read_error(tmp_path / "missing") is None
    assert read_error(tmp_path / "empty") is None


@pytest.mark.parametrize(
    "text", ["Killed", "[1]", "{}", '{"exit_code": 2}', '{"exit_code": 99, "message": "m"}', '{"exit_code": 2, "me']
)
def test_whatever_else_a_pod_says_is_no_error_of_ours(text: str) -> None:
    assert parse_error(text) is None


def test_a_long_message_is_cut_to_what_a_pod_can_say(tmp_path: Path) -> None:
    leave_error(tmp_path / "error", InvalidInput("é" * 9000))

    assert (tmp_path / "error").stat().st_size <= MOST_BYTES
    found = read_error(tmp_path / "error")
    assert str(found).startswith("ééé")
    assert str(found).endswith("…")


@pytest.mark.parametrize(
    ("ending", "final"),
    [
        (ExitResult(0), True),
        (ExitResult(1), False),
        (ExitResult(-9), False),
        (ExitResult(5, Unavailable("try again")), False),
        (ExitResult(2, InvalidInput("change something")), True),
        (ExitResult(4, CorruptArtifact("fetch again")), True),
    ],
)
def test_another_try_is_for_what_it_may_mend(ending: ExitResult, final: bool) -> None:
    assert ending.final is final
