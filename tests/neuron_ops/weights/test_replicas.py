"""Full models whose ranks trained norms apart: refused with names and sizes, or the first rank's, by choice."""

import shutil
from pathlib import Path

import pytest

from neuron_ops.errors import CorruptArtifact, InvalidInput
from neuron_ops.weights.consolidation import BaseModelName, consolidate_checkpoint
from tests.neuron_ops.weights.shards import FIXTURES, RANK_FILE

BASE = BaseModelName("tests/base")
NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A full fine-tune whose second rank has another norm; its values are bfloat16, near 1."""
    import torch

    checkpoint = Path(shutil.copytree(FIXTURES / "e_full_tp2_pt" / "checkpoint-4", tmp_path / "checkpoint"))
    path = checkpoint / "shards" / RANK_FILE.format(1)
    tensors = torch.load(path, weights_only=True)
    tensors[NORM][3] += 0.0625
    torch.save(tensors, path)
    return checkpoint


def test_norms_that_differ_are_refused_with_names_the_size_and_both_ways_on(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        consolidate_checkpoint(model, tmp_path / "out", base_model=BASE)

    message = str(caught.value)
    assert NORM in message
    assert "1 of 9 tensors" in message
    assert "by at most 0.0625 where values reach 1" in message
    assert "--replicas first" in message
    assert "zero_1=False" in message
    assert "LoRA" not in message
    assert not (tmp_path / "out").exists()


def test_by_choice_the_first_ranks_copy_is_taken_and_the_report_says_so(model: Path, tmp_path: Path) -> None:

    report = consolidate_checkpoint(model, tmp_path / "out", base_model=BASE, replicas="first")

    (differing,) = report.differing
    assert (differing.name, differing.largest) == (NORM, 0.0625)
    expected = FIXTURES / "e_full_tp2_pt" / "expected" / "consolidated" / "model.safetensors"
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("rank", [0, 1])
def test_copies_with_nan_are_refused_whatever_was_chosen_and_hide_no_difference(
    model: Path, tmp_path: Path, rank: int
) -> None:
    """A comparison with NaN once made every difference 0, and the model was written with the NaN in it."""
    import torch

    path = model / "shards" / RANK_FILE.format(rank)
    tensors = torch.load(path, weights_only=True)
    tensors[NORM][5] = float("nan")
    torch.save(tensors, path)

    with pytest.raises(CorruptArtifact) as caught:
        consolidate_checkpoint(model, tmp_path / "out", base_model=BASE, replicas="first")

    assert "by at most 0.0625 where values reach 1" in str(caught.value)
    assert "NaN or infinity in 1 place" in str(caught.value)
    assert "Take an earlier checkpoint." in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_copies_that_agree_are_no_difference(tmp_path: Path) -> None:
    checkpoint = FIXTURES / "e_full_tp2_pt" / "checkpoint-4"

    report = consolidate_checkpoint(checkpoint, tmp_path / "out", base_model=BASE, replicas="first")

    assert report.differing == ()


def test_an_adapter_whose_copies_differ_is_refused_whatever_was_chosen(tmp_path: Path) -> None:
    checkpoint = FIXTURES / "b2_tp2_all_sp_default_diverged" / "checkpoint-4"

    with pytest.raises(CorruptArtifact, match="no consolidated adapter equals the trained model"):
        consolidate_checkpoint(checkpoint, tmp_path / "out", base_model=BASE, replicas="first")
