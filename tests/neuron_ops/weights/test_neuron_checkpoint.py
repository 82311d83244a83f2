"""Checkpoints written by optimum-neuron's trainers, and everything that can be wrong with one."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from neuron_ops.errors import CorruptArtifact, InvalidInput, MissingArtifact
from neuron_ops.weights.neuron_layout import head_order
from tests.neuron_ops.weights.shards import RANK_FILE, adapter_shards, read


def edit_tensors(shards: Path, rank: int, **changes: Any) -> None:
    """Save a rank's file again, with each tensor whose name contains a key passed through a function."""
    import torch

    path = shards / RANK_FILE.format(rank)
    tensors = torch.load(path, weights_only=True)
    for part, change in changes.items():
        tensors = {name: change(tensor) if part in name else tensor for name, tensor in tensors.items()}
    torch.save({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def edit_metadata(shards: Path, change: Any) -> None:
    path = shards / "mp_metadata_pp_rank_0.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("case", "tensor_parallel_size", "tensors"),
    [("a_tp2_qv_pt", 2, 16), ("a2_tp2_dp2_qv_xser", 2, 16), ("b_tp2_all_pt", 2, 56), ("c_tp4_kv2_all_pt", 4, 56)],
)
def test_an_adapter_is_found_whole(case: str, tensor_parallel_size: int, tensors: int) -> None:
    checkpoint = read(adapter_shards(case))

    assert checkpoint.tensor_parallel_size == tensor_parallel_size
    assert len(checkpoint.assemblies) == tensors


def test_replicas_that_differ_are_refused_with_their_names_and_the_known_defect() -> None:
    with pytest.raises(CorruptArtifact) as refusal:
        read(adapter_shards("b2_tp2_all_sp_default_diverged"))

    message = str(refusal.value)
    assert "24 of 24 tensors" in message
    assert "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight" in message
    assert "not reduced over the tensor-parallel ranks" in message


def test_ranks_from_two_different_steps_are_refused(shards: Path) -> None:
    edit_tensors(shards, 1, lora_A=lambda tensor: tensor + 0.5, lora_B=lambda tensor: tensor - 0.5)

    with pytest.raises(CorruptArtifact, match="different steps"):
        read(shards)


def test_copies_of_one_key_value_head_that_differ_are_refused(tmp_path: Path) -> None:
    shards = Path(shutil.copytree(adapter_shards("c_tp4_kv2_all_pt"), tmp_path / "adapter_shards"))
    edit_tensors(shards, 3, weight_v=lambda tensor: tensor + 1)

    with pytest.raises(CorruptArtifact, match=r"qkv_proj\.lora_B\.weight_v"):
        read(shards)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_missing_rank_file_is_named(shards: Path, rank: int) -> None:
    (shards / RANK_FILE.format(rank)).unlink()

    with pytest.raises(MissingArtifact, match=rf"(tensor-parallel rank {rank}|tp_rank_0{rank})"):
        read(shards)


@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_rank_file_that_was_cut_short_is_refused_with_its_length(shards: Path, kept: float) -> None:
    path = shards / RANK_FILE.format(1)
    size = int(path.stat().st_size * kept) if kept < 1 else int(kept)
    path.write_bytes(path.read_bytes()[:size])

    with pytest.raises(CorruptArtifact, match=rf"tp_rank_01.*\({size} bytes\).*cut short"):
        read(shards)


def test_a_missing_tensor_file_of_the_xser_layout_is_named(xser_shards: Path) -> None:
    (xser_shards / (RANK_FILE.format(1) + ".tensors") / "tensor_3.pt").unlink()

    with pytest.raises(MissingArtifact, match=r"tp_rank_01_pp_rank_00\.pt\.tensors/tensor_3\.pt"):
        read(xser_shards)


def test_an_unfinished_save_is_refused(shards: Path) -> None:
    (shards / "done").unlink()

    with pytest.raises(MissingArtifact, match="never finished"):
        read(shards)


def test_missing_metadata_is_refused(shards: Path) -> None:
    (shards / "mp_metadata_pp_rank_0.json").unlink()

    with pytest.raises(MissingArtifact, match="mp_metadata"):
        read(shards)


def test_metadata_that_is_cut_short_is_refused(shards: Path) -> None:
    path = shards / "mp_metadata_pp_rank_0.json"
    path.write_bytes(path.read_bytes()[:-20])

    with pytest.raises(CorruptArtifact, match="mp_metadata_pp_rank_0"):
        read(shards)


def test_ranks_with_different_shapes_are_refused(shards: Path) -> None:
    edit_tensors(shards, 1, lora_A=lambda tensor: tensor[:2].clone(), lora_B=lambda tensor: tensor[:, :2].clone())

    with pytest.raises(CorruptArtifact, match=r"\[2, 64\].*\[4, 64\].*different runs"):
        read(shards)


def test_ranks_with_different_dtypes_are_refused(shards: Path) -> None:
    edit_tensors(shards, 1, lora_B=lambda tensor: tensor.float())

    with pytest.raises(CorruptArtifact, match=r"F32.*BF16"):
        read(shards)


def test_a_tensor_that_only_the_metadata_knows_is_refused(shards: Path) -> None:
    for rank in (0, 1):
        edit_tensors(shards, rank, **{"layers.2.self_attn.q_proj.lora_B": lambda tensor: None})

    with pytest.raises(CorruptArtifact, match=r"layers\.2\.self_attn\.q_proj\.lora_B"):
        read(shards)


def test_a_tensor_that_no_metadata_claims_is_refused(shards: Path) -> None:
    def forget(metadata: dict[str, Any]) -> None:
        del metadata["parameters"]["base_model.model.model.layers.1.self_attn.v_proj.lora_B.default.weight"]

    edit_metadata(shards, forget)

    with pytest.raises(InvalidInput, match=r"layers\.1\.self_attn\.v_proj\.lora_B\.weight"):
        read(shards)


def test_a_tensor_that_no_metadata_claims_is_found_in_any_rank_s_file(shards: Path) -> None:
    import torch

    path = shards / RANK_FILE.format(1)
    torch.save({**torch.load(path, weights_only=True), "model.layers.9.mlp.lora_A.weight": torch.ones(2)}, path)

    with pytest.raises(InvalidInput, match=r"model\.layers\.9\.mlp\.lora_A\.weight"):
        read(shards)


def test_a_flipped_bit_in_an_adapter_is_damage_and_not_another_adapter(shards: Path) -> None:
    path = shards / RANK_FILE.format(1)
    with zipfile.ZipFile(path) as archive:
        record = next(info for info in archive.infolist() if "/data/" in info.filename)
    content = bytearray(path.read_bytes())
    content[record.header_offset + 256] ^= 1
    path.write_bytes(content)

    with pytest.raises(CorruptArtifact, match=r"is damaged: .* has another checksum than when it was saved"):
        read(shards)


def test_more_ranks_in_the_metadata_than_files_is_a_missing_file(shards: Path) -> None:
    def double(metadata: dict[str, Any]) -> None:
        for fields in metadata["parameters"].values():
            fields.update({"num_partitions": 4} if "num_partitions" in fields else {})

    edit_metadata(shards, double)

    with pytest.raises(MissingArtifact, match="tp_rank_02 is missing"):
        read(shards)


@pytest.mark.parametrize(("kind", "fields"), [("MoESpec", {}), ("FusedLinearsSpec", {"fuse_axis": 1})])
def test_a_transformation_that_is_not_known_is_refused_by_name(shards: Path, kind: str, fields: dict[str, Any]) -> None:
    def replace(metadata: dict[str, Any]) -> None:
        metadata["model_weight_transformation_specs"][1]["specs"] = [[kind, fields]]

    edit_metadata(shards, replace)

    with pytest.raises(InvalidInput, match=rf"{kind}.*can't be undone"):
        read(shards)


def test_fused_sizes_that_do_not_fit_the_files_are_refused(shards: Path) -> None:
    def shrink(metadata: dict[str, Any]) -> None:
        metadata["model_weight_transformation_specs"][1]["specs"][0][1]["original_dims"] = [80, 160]

    edit_metadata(shards, shrink)

    with pytest.raises(CorruptArtifact, match=r"gate_up_proj.*\[80, 160\]"):
        read(shards)


@pytest.mark.parametrize(("ranks", "heads", "kv_heads", "repeat"), [(4, 8, 2, 2), (16, 32, 8, 2), (32, 32, 8, 4)])
def test_each_query_head_sits_on_a_rank_that_holds_its_key_head(
    ranks: int, heads: int, kv_heads: int, repeat: int
) -> None:
    order = head_order(ranks, heads, kv_heads, repeat)

    assert sorted(order) == list(range(heads))
    slots = kv_heads * repeat // ranks
    for rank in range(ranks):
        keys = {slot % kv_heads for slot in range(rank * slots, (rank + 1) * slots)}
        queries = order[rank * heads // ranks : (rank + 1) * heads // ranks]
        assert {query // (heads // kv_heads) for query in queries} == keys
