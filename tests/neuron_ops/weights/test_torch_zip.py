"""Rank files are read without torch and without running what a pickle asks for."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuron_ops.errors import CorruptArtifact
from neuron_ops.weights.torch_zip import read_torch_file
from tests.neuron_ops.weights.shards import RANK_FILE, adapter_shards, read


def test_the_tensors_of_a_file_lie_where_torch_finds_them() -> None:
    import torch

    path = adapter_shards("b_tp2_all_pt") / RANK_FILE.format(1)
    expected = torch.load(path, weights_only=True)

    found = read_torch_file(path)

    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        with open(path, "rb") as stream:
            stream.seek(tensor.offset)
            data = np.frombuffer(stream.read(expected[name].nbytes), np.uint16).reshape(tensor.shape)
        assert np.array_equal(data, expected[name].view(torch.uint16).numpy())


class Harmful:
    """Would create a file if its pickle ever ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_that_asks_for_anything_but_tensors_is_refused_and_not_run(shards: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    with zipfile.ZipFile(shards / RANK_FILE.format(0), "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": Harmful(evil)}, protocol=2))

    with pytest.raises(CorruptArtifact, match=r"names __builtin__\.getattr .*it was not run"):
        read(shards)

    assert not evil.exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": 3}, OrderedDict(b="text")])
def test_a_file_without_tensors_is_refused(shards: Path, content: object) -> None:
    import torch

    torch.save(content, shards / RANK_FILE.format(0))

    with pytest.raises(CorruptArtifact, match="tp_rank_00"):
        read(shards)


def test_a_tensor_that_was_saved_as_a_view_is_read_correctly(tmp_path: Path) -> None:
    import torch

    whole = torch.arange(48, dtype=torch.float32).reshape(6, 8)
    tensors = {"columns": whole[:, 2:5], "transposed": whole.T, "rows": whole[2:4], "scalar": whole[1, 1]}
    torch.save(tensors, tmp_path / "views.pt")

    found = read_torch_file(tmp_path / "views.pt")

    from neuron_ops.weights.byte_ranges import OpenFile

    with OpenFile(tmp_path / "views.pt") as source:
        for name, tensor in tensors.items():
            rows = tensor.shape[0] if tensor.ndim else 1
            assert bytes(found[name].read(source, 0, rows)) == tensor.numpy().tobytes(), name
