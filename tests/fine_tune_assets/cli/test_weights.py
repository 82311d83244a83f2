"""`fine-tune consolidate` and `fine-tune merge`: any folders in, a whole new folder out."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from fine_tune_assets.cli.main import main
from tests.fine_tune_assets.cli.weight_commands import (
    ADAPTER,
    BASE,
    CHECKPOINT,
    COMMANDS,
    EXPECTED,
    FIXTURES,
    NAMED,
    Typed,
)


@pytest.fixture
def typed() -> Typed:
    """Type a `fine-tune` command."""
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


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


def test_which_copies_were_taken_is_said_on_the_command_line(typed: Typed, tmp_path: Path) -> None:
    import torch

    checkpoint = Path(shutil.copytree(FIXTURES / "e_full_tp2_pt" / "checkpoint-4", tmp_path / "checkpoint"))
    path = checkpoint / "shards" / "model" / "dp_rank_00_tp_rank_01_pp_rank_00.pt"
    tensors = torch.load(path, weights_only=True)
    tensors["model.norm.weight"][0] += 0.0625
    torch.save(tensors, path)

    refused = typed("consolidate", checkpoint, tmp_path / "out", *NAMED)
    made = typed("consolidate", checkpoint, tmp_path / "out", *NAMED, "--replicas", "first")

    assert refused.exit_code == 2, refused.output
    assert made.exit_code == 0, made.output
    assert "model.norm.weight: the first rank's copy; the others differ by at most 0.0625" in made.stdout


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


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.slow
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


@pytest.mark.slow
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
