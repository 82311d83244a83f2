"""`fine-tune consolidate` and `fine-tune merge`: any folders in, a whole new folder out, or one line and nothing."""

import errno
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from fine_tune_assets.cli.main import main
from neuron_ops.errors import CorruptArtifact

FIXTURES = Path(__file__).parents[2] / "fixtures" / "neuron_checkpoints"
CHECKPOINT = FIXTURES / "b_tp2_all_pt" / "checkpoint-4"
EXPECTED = FIXTURES / "b_tp2_all_pt" / "expected"
ADAPTER = EXPECTED / "consolidated"
BASE = FIXTURES / "bases" / "llama-h8-kv4-bf16"
NAMED = ("--base-model", "tests/base")

Typed = Callable[..., Result]


@pytest.fixture
def typed() -> Typed:
    """Type a `fine-tune` command."""
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


def assert_refused(result: Result, exit_code: int, *says: str) -> None:
    assert result.exit_code == exit_code, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1, "one line, no traceback"
    for text in says:
        assert text in result.stderr


def test_a_checkpoint_becomes_the_adapter_that_the_library_makes_of_it(typed: Typed, tmp_path: Path) -> None:
    out = tmp_path / "out"

    result = typed("consolidate", CHECKPOINT, out, *NAMED, "--revision", "abc")

    assert result.exit_code == 0, result.output
    assert (out / "adapter_model.safetensors").read_bytes() == (ADAPTER / "adapter_model.safetensors").read_bytes()
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("tests/base", "abc")
    assert result.stdout.startswith(f"wrote {out}: 2 files, ")
    assert "adapter from neuron (TP 2, PP 1), 56 tensors" in result.stdout
    assert result.stderr == "", "a progress bar belongs on a terminal"


def test_a_full_model_is_split_at_the_size_that_was_asked_for(typed: Typed, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    result = typed(
        "consolidate", FIXTURES / "e_full_tp2_pt" / "checkpoint-4", tmp_path / "out", *NAMED, "--max-shard-gb", "0.0001"
    )

    assert result.exit_code == 0, result.output
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 1
    found = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    expected = load_file(FIXTURES / "e_full_tp2_pt" / "expected" / "consolidated" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("case", ["a_tp2_qv_pt", "e_full_tp2_pt", "peft", "transformers"])
def test_a_dry_consolidation_foresees_the_files_and_writes_nothing(case: str, typed: Typed, tmp_path: Path) -> None:
    source = {"peft": ADAPTER, "transformers": BASE}.get(case, FIXTURES / case / "checkpoint-4")
    out = tmp_path / "deep" / "out"

    foreseen = typed("consolidate", source, out, *NAMED, "--dry-run")

    assert foreseen.exit_code == 0, foreseen.output
    assert list(tmp_path.iterdir()) == []
    made = typed("consolidate", source, out, *NAMED)
    assert foreseen.stdout.replace("would write", "wrote") == made.stdout
    sizes = [path.stat().st_size for path in out.iterdir()]
    assert f"{len(sizes)} files, {sum(sizes):,} bytes" in made.stdout


def test_an_adapter_is_merged_and_proven(typed: Typed, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    result = typed("merge", BASE, tmp_path / "out", "--adapter", ADAPTER)

    assert result.exit_code == 0, result.output
    found = load_file(tmp_path / "out" / "model.safetensors")
    expected = load_file(EXPECTED / "merged" / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert "wrote" in result.stdout
    assert "proven: 28 tensors differ from the base" in result.stdout
    assert result.stderr == ""


def test_a_model_merged_by_hand_carries_a_card_with_its_lineage(typed: Typed, tmp_path: Path) -> None:
    typed("merge", BASE, tmp_path / "out", "--adapter", f"{ADAPTER}=0.5")

    front, text = (tmp_path / "out" / "README.md").read_text().removeprefix("---\n").split("---\n", 1)
    named = json.loads((ADAPTER / "adapter_config.json").read_bytes())["base_model_name_or_path"]
    assert yaml.safe_load(front)["base_model"] == named
    assert f"| base model | {named}" in text
    assert "| adapter consolidated | weight 0.5, r 4, alpha 8, xxh3_128 " in text
    assert "| changed | 28 tensors" in text


def test_an_adapter_s_weight_scales_its_change(typed: Typed, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    for name, adapter in (("whole", f"{ADAPTER}"), ("half", f"{ADAPTER}=0.5")):
        assert typed("merge", BASE, tmp_path / name, "--adapter", adapter).exit_code == 0

    base, whole, half = (
        load_file(path / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].float()
        for path in (BASE, tmp_path / "whole", tmp_path / "half")
    )
    assert torch.allclose(half - base, (whole - base) / 2, atol=2e-3)
    assert not torch.equal(half, whole)


def test_a_folder_whose_name_has_an_equals_sign_is_a_folder(typed: Typed, tmp_path: Path) -> None:
    folder = shutil.copytree(ADAPTER, tmp_path / "rank=4")

    result = typed("merge", BASE, tmp_path / "out", "--adapter", folder)

    assert result.exit_code == 0, result.output


def test_a_dry_merge_foresees_the_files_and_writes_nothing(typed: Typed, tmp_path: Path) -> None:
    foreseen = typed("merge", BASE, tmp_path / "deep" / "out", "--adapter", ADAPTER, "--dry-run")

    assert foreseen.exit_code == 0, foreseen.output
    assert list(tmp_path.iterdir()) == []
    made = typed("merge", BASE, tmp_path / "deep" / "out", "--adapter", ADAPTER)
    assert made.stdout.startswith(foreseen.stdout.replace("would write", "wrote"))


REFUSED_CHECKPOINTS = {
    "no checkpoint": (BASE.parent, (), 3, "Give the folder of one checkpoint"),
    "not there": (BASE.parent / "nowhere", (), 3, "Give the folder of one checkpoint"),
    "another adapter": (CHECKPOINT, ("--adapter", "style"), 3, "adapter_default"),
    "diverged replicas": (FIXTURES / "b2_tp2_all_sp_default_diverged" / "checkpoint-4", (), 4, "lora_"),
}


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize("case", REFUSED_CHECKPOINTS)
def test_what_cannot_be_consolidated_is_refused_in_one_line(
    case: str, dry: tuple[str, ...], typed: Typed, tmp_path: Path
) -> None:
    checkpoint, options, exit_code, says = REFUSED_CHECKPOINTS[case]

    result = typed("consolidate", checkpoint, tmp_path / "out", *NAMED, *options, *dry)

    assert_refused(result, exit_code, says)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_rank_s_file_that_was_cut_short_is_refused(dry: tuple[str, ...], typed: Typed, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(CHECKPOINT, tmp_path / "in")
    shard = next(checkpoint.glob("adapter_default/adapter_shards/model/*tp_rank_01*"))
    shard.write_bytes(shard.read_bytes()[:-1000])

    assert_refused(typed("consolidate", checkpoint, tmp_path / "out", *NAMED, *dry), 4, str(shard))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


REFUSED_MERGES = {
    "base not there": (BASE.parent / "nowhere", f"{ADAPTER}", 3, "nowhere"),
    "adapter not there": (BASE, f"{ADAPTER.parent / 'nowhere'}", 3, "is not a PEFT adapter"),
    "another base": (FIXTURES / "bases" / "llama-h8-kv2-bf16", f"{ADAPTER}", 2, "Give the base model"),
    "weight is a word": (BASE, f"{ADAPTER}=half", 2, "'half' is no number. Write FOLDER=WEIGHT"),
    "weight is zero": (BASE, f"{ADAPTER}=0", 2, "other than 0"),
    "weight is no number": (BASE, f"{ADAPTER}=nan", 2, "finite number"),
}


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize("case", REFUSED_MERGES)
def test_what_cannot_be_merged_is_refused_in_one_line(
    case: str, dry: tuple[str, ...], typed: Typed, tmp_path: Path
) -> None:
    base, adapter, exit_code, says = REFUSED_MERGES[case]

    assert_refused(typed("merge", base, tmp_path / "out", "--adapter", adapter, *dry), exit_code, says)
    assert list(tmp_path.iterdir()) == []


COMMANDS = {
    "consolidate": ("consolidate", CHECKPOINT, "OUT", *NAMED),
    "merge": ("merge", BASE, "OUT", "--adapter", ADAPTER),
}


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_result_that_is_there_already_is_left_alone(
    command: str, dry: tuple[str, ...], typed: Typed, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("mine")
    words = [tmp_path if word == "OUT" else word for word in COMMANDS[command]]

    assert_refused(typed(*words, *dry), 2, f"{tmp_path} already exists")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_noticed_before_the_first_byte(
    command: str, dry: tuple[str, ...], typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [tmp_path / "out" if word == "OUT" else word for word in COMMANDS[command]]
    monkeypatch.setattr("os.statvfs", lambda _: type("Full", (), {"f_bavail": 1, "f_frsize": 4096}))

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


@pytest.mark.parametrize("command", COMMANDS)
def test_a_terminal_shows_a_progress_bar(command: str, tmp_path: Path) -> None:
    words = [str(tmp_path / "out") if word == "OUT" else str(word) for word in COMMANDS[command]]
    ours, theirs = pty.openpty()
    program = [sys.executable, "-m", "fine_tune_assets.cli.main", *words]

    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        shown = read_all(ours)
        assert process.stdout is not None
        said = process.stdout.read().decode()

    assert process.returncode == 0, shown
    assert ("consolidating" if command == "consolidate" else "merging") in shown
    assert "100%" in shown
    assert said.startswith("wrote ")


def read_all(terminal: int) -> str:
    shown = b""
    with open(terminal, "rb", buffering=0) as stream:
        try:
            while piece := stream.read(1 << 16):
                shown += piece
        except OSError:  # how Linux says that the other side was closed
            pass
    return shown.decode()


def test_neither_command_imports_torch_or_dagster_and_blas_has_one_thread(tmp_path: Path) -> None:
    words = ["merge", str(BASE), str(tmp_path / "out"), "--adapter", str(ADAPTER)]
    program = (
        "import sys\nfrom pathlib import Path\nfrom click.testing import CliRunner\n"
        "from fine_tune_assets.cli.main import main\n"
        f"print(CliRunner().invoke(main, {words}).exit_code)\n"
        "print([name for name in ('dagster', 'torch', 's3fs') if name in sys.modules])\n"
        "print(len(list(Path('/proc/self/task').iterdir())), 'thread')"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"},
    )

    assert done.stdout.splitlines() == ["0", "[]", "1 thread"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("merge", BASE, "s3://bucket/out", "--adapter", ADAPTER), "s3:/bucket/out is no local folder"),
        (("consolidate", CHECKPOINT, "s3://bucket/out", *NAMED), "s3:/bucket/out is no local folder"),
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


HALF_WRITTEN = """
import sys, time
from pathlib import Path
from fine_tune_assets.cli.weights import clean_up_on_signals
from neuron_ops.weights.folders import new_folder

clean_up_on_signals()
with new_folder(Path(sys.argv[1])) as folder:
    (folder / "model.safetensors").write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_program_that_is_told_to_end_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HALF_WRITTEN, str(tmp_path / "out")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"

        process.send_signal(number)

        assert process.wait(60) == 128 + number
    assert list(tmp_path.iterdir()) == []
