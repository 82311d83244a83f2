"""Consolidation of every layout that a run can have: the model or adapter that was cut comes back."""

import json
from pathlib import Path

import pytest

from neuron_ops.errors import InvalidInput
from tests.neuron_ops.weights.layouts import LAYOUTS, Layout
from tests.neuron_ops.weights.test_consolidation import consolidate


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_full_model_comes_back_from_any_layout(layout: Layout, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from tests.neuron_ops.weights import shard_writer

    model = shard_writer.llama(layout)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    checkpoint = tmp_path / "checkpoint"
    shard_writer.write_shards(
        checkpoint / "shards", layout, [shard_writer.cut_model(weights, layout, r) for r in range(layout.tp)], "", None
    )
    model.config.save_pretrained(checkpoint)

    out = consolidate(checkpoint, tmp_path / "out", max_shard_bytes=20_000)

    loaded, problems = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(problems.values())
    assert len(list(out.glob("model-*.safetensors"))) > 1
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize(("layout", "name"), [*((layout, "default") for layout in LAYOUTS), ("tp2", "style")])
def test_an_adapter_comes_back_from_any_layout(layout: str, name: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from tests.neuron_ops.weights import shard_writer

    adapter = shard_writer.random_adapter(LAYOUTS[layout])
    shard_writer.write_adapter_checkpoint(tmp_path / "checkpoint", LAYOUTS[layout], adapter, name)

    out = consolidate(tmp_path / "checkpoint", tmp_path / "out", adapter=name)

    found = load_file(out / "adapter_model.safetensors")
    assert found.keys() == adapter.keys()
    for key, tensor in found.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, adapter[key]), key


def test_a_pipeline_stage_that_is_missing_altogether_is_noticed(tmp_path: Path) -> None:
    from tests.neuron_ops.weights import shard_writer

    layout = Layout(pp=2)
    folder = shard_writer.write_adapter_checkpoint(tmp_path / "checkpoint", layout, shard_writer.random_adapter(layout))
    (folder / "adapter_shards" / "mp_metadata_pp_rank_1.json").unlink()
    for path in (folder / "adapter_shards" / "model").glob("*pp_rank_01.pt"):
        path.unlink()

    with pytest.raises(InvalidInput, match="A pipeline stage's files are missing"):
        consolidate(tmp_path / "checkpoint", tmp_path / "out")


def test_another_adapter_of_the_same_save_is_left_out(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from tests.neuron_ops.weights import shard_writer

    layout = Layout()
    adapter = shard_writer.random_adapter(layout)
    folder = shard_writer.write_adapter_checkpoint(tmp_path / "checkpoint", layout, adapter)
    path = folder / "adapter_shards" / "mp_metadata_pp_rank_0.json"
    metadata = json.loads(path.read_text())
    others = {name.replace(".default.", ".style."): fields for name, fields in metadata["parameters"].items()}
    path.write_text(json.dumps({**metadata, "parameters": {**others, **metadata["parameters"]}}))

    out = consolidate(tmp_path / "checkpoint", tmp_path / "out")

    assert load_file(out / "adapter_model.safetensors").keys() == adapter.keys()
