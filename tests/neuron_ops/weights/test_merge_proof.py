"""A merge accounts for every byte, is proven by reading it again, and is whole or not there at all."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neuron_ops.errors import CorruptArtifact
from neuron_ops.weights.merge_proof import verify_merge
from neuron_ops.weights.merging import WeightedAdapter, merge_adapters
from tests.neuron_ops.weights.merging_bench import REPOSITORY, VARIANTS, MakeAdapter, MakeBase, flip, load, merge


def test_the_report_accounts_for_every_byte(make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path) -> None:

    base = make_base("bfloat16")
    adapter = make_adapter(base)
    seen: list[tuple[int, int]] = []

    report = merge_adapters(
        base, [WeightedAdapter(adapter)], tmp_path / "out", progress=lambda done, total: seen.append((done, total))
    )

    size = (base / "model.safetensors").stat().st_size
    assert report.bytes_copied + report.bytes_computed == size
    assert seen[-1] == (size, size)
    assert {file.name: file.bytes for file in report.files} == {
        path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()
    }
    proof = verify_merge(base, tmp_path / "out", report, targets=frozenset(t.name for t in report.changed))
    assert (proof.num_changed, proof.bytes_equal_to_base) == (14, report.bytes_copied)


def test_the_reported_norms_and_errors_are_true(make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = make_base("bfloat16")
    for variant in ("qv", "dora", "modules_to_save"):
        adapter = make_adapter(base, variant, **VARIANTS[variant])

        report = merge(base, adapter, out=tmp_path / f"out_{variant}")

        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto").double()
        exact = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).double().merge_and_unload()
        before, after = load(base), load(tmp_path / f"out_{variant}")
        for tensor in report.changed:
            target = exact.state_dict()[tensor.name]
            assert tensor.delta_norm == pytest.approx((target - before[tensor.name].double()).norm().item(), rel=1e-4)
            assert (after[tensor.name].double() - target).abs().max() <= tensor.max_abs_error
            assert tensor.max_abs_error < 0.02


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings=True`")
def test_a_dry_run_says_what_would_be_written_and_writes_nothing(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:

    base = make_base("bfloat16", "10KB", tie_word_embeddings=True)
    adapter = [WeightedAdapter(make_adapter(base, target_modules=["q_proj", "lm_head"]))]

    foreseen = merge_adapters(base, adapter, tmp_path / "out", dry_run=True)

    assert foreseen.dry_run
    assert not (tmp_path / "out").exists()
    made = merge_adapters(base, adapter, tmp_path / "out")
    assert [(file.name, file.bytes) for file in foreseen.files] == [(file.name, file.bytes) for file in made.files]
    assert [(t.name, t.delta_norm) for t in foreseen.changed] == [(t.name, t.delta_norm) for t in made.changed]


@pytest.mark.parametrize("place", ["untouched", "changed", "header", "restored", "other"])
def test_the_proof_fails_when_a_single_bit_of_the_result_is_wrong(
    place: str, make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    base = make_base()
    report = merge(base, make_adapter(base, target_modules=["q_proj"]), out=tmp_path / "out")
    weights = tmp_path / "out" / "model.safetensors"
    if place == "untouched":
        flip(weights, report.untouched[1].start)
    elif place == "changed":
        flip(weights, report.changed[0].start)
    elif place == "header":
        weights.write_bytes(weights.read_bytes().replace(b'"format"', b'"FORMAT"'))
    elif place == "restored":
        shutil.copy(base / "model.safetensors", weights)
    else:
        flip(tmp_path / "out" / "tokenizer.json", 3)

    with pytest.raises(CorruptArtifact):
        verify_merge(base, tmp_path / "out", report)


def test_the_proof_compares_the_changed_tensors_with_the_expected_ones(
    make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    base = make_base()
    report = merge(base, make_adapter(base, target_modules=["q_proj"]), out=tmp_path / "out")

    with pytest.raises(CorruptArtifact, match=r"k_proj"):
        verify_merge(base, tmp_path / "out", report, targets=frozenset(["model.layers.0.self_attn.k_proj.weight"]))


KILLED = """
import sys
from pathlib import Path
from neuron_ops.weights.merging import WeightedAdapter, merge_adapters
base, adapter, out = map(Path, sys.argv[1:])
print("ready", flush=True)
merge_adapters(base, [WeightedAdapter(adapter)], out)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.005, 0.05])
def test_a_killed_merge_leaves_nothing_that_looks_finished_and_the_next_one_cleans_up(
    delay: float, make_base: MakeBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import save_file

    base = make_base("bfloat16")
    adapter = make_adapter(base)
    padding = {"model.padding.weight": torch.ones(16, 1 << 20, dtype=torch.bfloat16)}  # some tens of milliseconds
    save_file(load(base) | padding, base / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(base), str(adapter), str(out)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    if out.exists():  # the kill came too late
        shutil.rmtree(out)

    report = merge(base, adapter, out=out)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "out"]
    assert len(report.changed) == 14
