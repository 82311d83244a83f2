"""Consolidation: the trainers' own checkpoints bit for bit, and nothing left behind by what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from neuron_ops.errors import CorruptArtifact, InvalidInput, MissingArtifact
from neuron_ops.weights.consolidation import BaseModelName, consolidate_checkpoint

FIXTURES = Path(__file__).parents[2] / "fixtures" / "neuron_checkpoints"


BASE = BaseModelName("meta-llama/Llama-3.2-1B", "4e20de362430cd3b72f300e6b0f18e50e7166e08")


def consolidate(checkpoint: Path, out: Path, **options: Any) -> Path:
    consolidate_checkpoint(checkpoint, out, base_model=BASE, **options)
    return out


@pytest.mark.parametrize("case", ["a_tp2_qv_pt", "a2_tp2_dp2_qv_xser", "b_tp2_all_pt", "c_tp4_kv2_all_pt"])
def test_a_sharded_adapter_becomes_the_very_file_that_the_library_makes(case: str, tmp_path: Path) -> None:
    out = consolidate(FIXTURES / case / "checkpoint-4", tmp_path / "out")

    expected = FIXTURES / case / "expected" / "consolidated" / "adapter_model.safetensors"
    assert (out / "adapter_model.safetensors").read_bytes() == expected.read_bytes()
    assert sorted(path.name for path in out.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_sharded_model_becomes_the_very_file_that_the_library_makes(tmp_path: Path) -> None:
    out = consolidate(FIXTURES / "e_full_tp2_pt" / "checkpoint-4", tmp_path / "out")

    expected = FIXTURES / "e_full_tp2_pt" / "expected" / "consolidated"
    assert (out / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    assert (out / "config.json").read_bytes() == (expected / "config.json").read_bytes()
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "model.safetensors",
        "special_tokens_map.json",
    ]


def test_the_config_names_the_base_model_so_that_any_machine_finds_it(tmp_path: Path) -> None:
    out = consolidate(FIXTURES / "b_tp2_all_pt" / "checkpoint-4", tmp_path / "out")

    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == BASE.id
    assert config["revision"] == BASE.revision
    assert config["inference_mode"] is True
    assert config["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert config["r"] == 4


@pytest.mark.parametrize("case", ["a_tp2_qv_pt", "c_tp4_kv2_all_pt"])
def test_the_adapter_loads_in_peft_and_gives_the_logits_of_the_sharded_model(case: str, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    base = FIXTURES / "bases" / ("llama-h8-kv2-bf16" if case.startswith("c") else "llama-h8-kv4-bf16")
    out = consolidate(FIXTURES / case / "checkpoint-4", tmp_path / "out")

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), out)
    with torch.no_grad():
        logits = model(torch.arange(4, 36)[None]).logits.float()

    sharded = load_file(FIXTURES / case / "expected" / "sharded_model_logits.safetensors")["logits"].float()
    assert (logits.reshape(sharded.shape) - sharded).abs().max() < 0.01
    assert sharded.abs().max() > 0.5


def test_the_report_counts_what_was_read_and_hashes_what_was_written(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = consolidate_checkpoint(
        FIXTURES / "c_tp4_kv2_all_pt" / "checkpoint-4",
        tmp_path / "out",
        base_model=BASE,
        progress=lambda done, total: seen.append((done, total)),
    )

    assert (report.kind, report.layout, report.tensor_parallel_size, report.num_tensors) == ("adapter", "neuron", 4, 56)
    assert report.num_parameters == 17408
    assert report.num_replicas_compared == 64
    assert {file.name: file.bytes for file in report.files} == {
        path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()
    }
    assert all(file.xxh3_128 is not None and len(file.xxh3_128) == 32 for file in report.files)
    assert seen[-1][0] == seen[-1][1]


def test_a_refused_checkpoint_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact):
        consolidate(FIXTURES / "b2_tp2_all_sp_default_diverged" / "checkpoint-4", tmp_path / "out")

    assert list(tmp_path.iterdir()) == []


def test_a_failure_halfway_leaves_nothing_behind(tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(FIXTURES / "a_tp2_qv_pt" / "checkpoint-4", tmp_path / "checkpoint"))
    config = checkpoint / "adapter_default" / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 4', '"r": 8'))

    with pytest.raises(InvalidInput, match="rank 8"):
        consolidate(checkpoint, tmp_path / "out")

    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_taken_output_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")

    with pytest.raises(InvalidInput, match="already exists"):
        consolidate(FIXTURES / "a_tp2_qv_pt" / "checkpoint-4", tmp_path)

    assert (tmp_path / "precious").read_text() == "mine"


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    leftover = tmp_path / ".out.partial-abc"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")

    consolidate(FIXTURES / "a_tp2_qv_pt" / "checkpoint-4", tmp_path / "out")

    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_unknown_adapter_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match=r"adapter_style/adapter_shards.*adapter_default"):
        consolidate(FIXTURES / "a_tp2_qv_pt" / "checkpoint-4", tmp_path / "out", adapter="style")


def test_a_peft_folder_is_checked_and_its_weights_copied(tmp_path: Path) -> None:
    source = FIXTURES / "b_tp2_all_pt" / "expected" / "consolidated"

    out = consolidate(source, tmp_path / "out")

    assert (out / "adapter_model.safetensors").read_bytes() == (source / "adapter_model.safetensors").read_bytes()
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == BASE.id


def test_a_training_loop_that_saves_peft_in_adapter_default_is_understood(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "a_tp2_qv_pt" / "expected" / "consolidated", tmp_path / "step-4" / "adapter_default")

    report = consolidate_checkpoint(tmp_path / "step-4", tmp_path / "out", base_model=BASE)

    assert (report.layout, report.num_tensors) == ("peft", 16)


def test_an_adapter_saved_as_a_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(FIXTURES / "a_tp2_qv_pt" / "expected" / "consolidated" / "adapter_config.json", tmp_path / "in")
    (tmp_path / "in" / "adapter_model.bin").write_bytes(b"pickle")

    with pytest.raises(MissingArtifact, match=r"adapter_model\.bin, a pickle"):
        consolidate(tmp_path / "in", tmp_path / "out")


def test_a_whole_model_folder_is_copied_without_the_state_of_its_training(tmp_path: Path) -> None:
    source = Path(shutil.copytree(FIXTURES / "bases" / "llama-h8-kv4-bf16", tmp_path / "in"))
    (source / "training_args.bin").write_bytes(b"pickle")
    (source / "trainer_state.json").write_text("{}")

    out = consolidate(source, tmp_path / "out")

    assert (out / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert not {"training_args.bin", "trainer_state.json"} & {path.name for path in out.iterdir()}


def test_optimizer_files_of_zero_are_neither_read_nor_needed(tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(FIXTURES / "e_full_tp2_pt" / "checkpoint-4", tmp_path / "checkpoint"))
    (checkpoint / "shards" / "optim").mkdir()
    (checkpoint / "shards" / "optim" / "dp_rank_00_tp_rank_00_pp_rank_00.pt").write_bytes(b"not even a zip")

    out = consolidate(checkpoint, tmp_path / "out")

    expected = FIXTURES / "e_full_tp2_pt" / "expected" / "consolidated" / "model.safetensors"
    assert (out / "model.safetensors").read_bytes() == expected.read_bytes()


def edit_config(checkpoint: Path, **fields: object) -> None:
    path = checkpoint / "adapter_default" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("case", "fields", "words"),
    [
        ("b_tp2_all_pt", {"alpha_pattern": {"gate_proj": 32}}, ["gate_proj 32", "part of gate_up_proj with 8"]),
        ("b_tp2_all_pt", {"rank_pattern": {"layers.1.mlp.up_proj": 2}}, ["layers.1.mlp.up_proj 2", "with 4"]),
        ("c_tp4_kv2_all_pt", {"alpha_pattern": {"v_proj": 16}}, ["v_proj 16", "part of qkv_proj with 8"]),
    ],
)
def test_a_pattern_for_a_part_of_a_fused_layer_says_what_was_not_trained(
    case: str, fields: dict[str, dict[str, int]], words: list[str], tmp_path: Path
) -> None:
    """optimum-neuron ignores it while training and saves it, so merging by it would make another model."""
    checkpoint = Path(shutil.copytree(FIXTURES / case / "checkpoint-4", tmp_path / "checkpoint"))
    edit_config(checkpoint, **fields)

    with pytest.raises(InvalidInput) as caught:
        consolidate(checkpoint, tmp_path / "out")

    assert [word for word in [*words, f"out of {next(iter(fields))}"] if word not in str(caught.value)] == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("case", "pattern"),
    [("b_tp2_all_pt", {"q_proj": 16, "down_proj": 4}), ("b_tp2_all_pt", {"gate_proj": 8}), ("a_tp2_qv_pt", {"up": 1})],
    ids=["layers that stay apart", "what was trained anyway", "a layer without an adapter"],
)
def test_any_other_pattern_is_kept(case: str, pattern: dict[str, int], tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(FIXTURES / case / "checkpoint-4", tmp_path / "checkpoint"))
    edit_config(checkpoint, alpha_pattern=pattern)

    out = consolidate(checkpoint, tmp_path / "out")

    assert json.loads((out / "adapter_config.json").read_text())["alpha_pattern"] == pattern
