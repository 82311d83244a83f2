"""What `fine-tune consolidate` and `fine-tune merge` refuse: one line, nothing written, dry or not."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fine_tune_assets.cli.main import main
from neuron_ops.errors import CorruptArtifact
from tests.fine_tune_assets.cli.weight_commands import (
    ADAPTER,
    BASE,
    CHECKPOINT,
    COMMANDS,
    FIXTURES,
    NAMED,
    Typed,
)


@pytest.fixture
def typed() -> Typed:
    """Type a `fine-tune` command."""
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


DRY_OR_NOT: tuple[tuple[str, ...], ...] = ((), ("--dry-run",))


def assert_refused(result: Result, exit_code: int, *says: str) -> None:
    assert result.exit_code == exit_code, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1, "one line, no traceback"
    for text in says:
        assert text in result.stderr


REFUSED_CHECKPOINTS = {
    "no checkpoint": (BASE.parent, (), 3, "Give the folder of one checkpoint"),
    "not there": (BASE.parent / "nowhere", (), 3, "Give the folder of one checkpoint"),
    "another adapter": (CHECKPOINT, ("--adapter", "style"), 3, "adapter_default"),
    "diverged replicas": (FIXTURES / "b2_tp2_all_sp_default_diverged" / "checkpoint-4", (), 4, "lora_"),
}


@pytest.mark.parametrize("case", REFUSED_CHECKPOINTS)
def test_what_cannot_be_consolidated_is_refused_in_one_line(case: str, typed: Typed, tmp_path: Path) -> None:
    checkpoint, options, exit_code, says = REFUSED_CHECKPOINTS[case]

    for dry in DRY_OR_NOT:
        result = typed("consolidate", checkpoint, tmp_path / "out", *NAMED, *options, *dry)

        assert_refused(result, exit_code, says)
    assert list(tmp_path.iterdir()) == []


def test_a_rank_s_file_that_was_cut_short_is_refused(typed: Typed, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(CHECKPOINT, tmp_path / "in")
    shard = next(checkpoint.glob("adapter_default/adapter_shards/model/*tp_rank_01*"))
    shard.write_bytes(shard.read_bytes()[:-1000])

    for dry in DRY_OR_NOT:
        assert_refused(typed("consolidate", checkpoint, tmp_path / "out", *NAMED, *dry), 4, str(shard))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


REFUSED_MERGES = {
    "base not there": (BASE.parent / "nowhere", f"{ADAPTER}", 3, "nowhere"),
    "adapter not there": (BASE, f"{ADAPTER.parent / 'nowhere'}", 3, "is not a PEFT adapter"),
    "another base": (FIXTURES / "bases" / "llama-h8-kv2-bf16", f"{ADAPTER}", 2, "Give the base model"),
    "weight is a word": (BASE, f"{ADAPTER}=half", 2, "'half' is not a number. Write FOLDER=WEIGHT"),
    "weight is zero": (BASE, f"{ADAPTER}=0", 2, "other than 0"),
    "weight is no number": (BASE, f"{ADAPTER}=nan", 2, "finite number"),
}


@pytest.mark.parametrize("case", REFUSED_MERGES)
def test_what_cannot_be_merged_is_refused_in_one_line(case: str, typed: Typed, tmp_path: Path) -> None:
    base, adapter, exit_code, says = REFUSED_MERGES[case]

    for dry in DRY_OR_NOT:
        assert_refused(typed("merge", base, tmp_path / "out", "--adapter", adapter, *dry), exit_code, says)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_result_that_is_there_already_is_left_alone(command: str, typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    words = [tmp_path if word == "OUT" else word for word in COMMANDS[command]]

    for dry in DRY_OR_NOT:
        assert_refused(typed(*words, *dry), 2, f"{tmp_path} already exists")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_noticed_before_the_first_byte(
    command: str, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [tmp_path / "out" if word == "OUT" else word for word in COMMANDS[command]]
    monkeypatch.setattr("os.statvfs", lambda _: type("Full", (), {"f_bavail": 1, "f_frsize": 4096}))

    for dry in DRY_OR_NOT:
        assert_refused(typed(*words, *dry), 2, "has 0.00 GB free")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_fills_up_on_the_way_ends_in_one_line_and_leaves_nothing(
    command: str, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [tmp_path / "out" if word == "OUT" else word for word in COMMANDS[command]]
    written = []

    def write(descriptor: int, data: memoryview, offset: int) -> int:
        written.append(len(data))
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data, offset)

    pwrite = os.pwrite
    monkeypatch.setattr("os.pwrite", write)

    assert_refused(typed(*words), 2, f"The disk of {tmp_path / 'out'} became full")
    assert list(tmp_path.iterdir()) == []


def test_a_merge_that_is_not_proven_yet_has_no_name(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it was read again, it stood there like a finished one, without its card."""
    seen = []

    def verify(base: Path, folder: Path, *_: object, **__: object) -> None:
        seen.append((tmp_path / "out").exists())
        (folder / "model.safetensors").write_bytes(b"")
        raise CorruptArtifact("not the file that was written")

    monkeypatch.setattr("neuron_ops.weights.merge_proof.verify_merge", verify)

    assert_refused(typed("merge", BASE, tmp_path / "out", "--adapter", ADAPTER), 4, "not the file")
    assert seen == [False]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_cannot_be_written_is_refused(command: str, typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = [tmp_path / "file" / "out" if word == "OUT" else word for word in COMMANDS[command]]

    assert_refused(typed(*words), 2, "cannot be made")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("merge", BASE, "s3://bucket/out", "--adapter", ADAPTER), "s3:/bucket/out is not a local folder"),
        (("consolidate", CHECKPOINT, "s3://bucket/out", *NAMED), "s3:/bucket/out is not a local folder"),
        (("consolidate", CHECKPOINT, "out", *NAMED, "--max-shard-gb", "nan"), "--max-shard-gb is nan"),
        (("merge", BASE, "o" * 300, "--adapter", ADAPTER), "File name too long"),
    ],
)
def test_a_place_or_a_size_that_cannot_be_is_one_line(
    words: tuple[object, ...], says: str, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert_refused(typed(*words), 2, says)

    assert list(tmp_path.iterdir()) == []
