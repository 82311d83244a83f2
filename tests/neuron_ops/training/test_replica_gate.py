"""No checkpoint counts whose ranks disagree; on files that optimum-neuron's own trainer wrote."""

import shutil
from pathlib import Path

import pytest

from neuron_ops.errors import InvalidInput
from neuron_ops.training.history import History
from neuron_ops.training.replica_gate import check_adapter_replicas
from tests.neuron_ops.training.test_checkpoints import make_state, take_a_step
from tests.neuron_ops.training.workbench import make_lineage, make_model, make_recipe

FIXTURES = Path(__file__).parents[2] / "fixtures" / "neuron_checkpoints"
DRIFTED = FIXTURES / "b2_tp2_all_sp_default_diverged" / "checkpoint-4"


@pytest.mark.parametrize("case", ["a_tp2_qv_pt", "a2_tp2_dp2_qv_xser", "b_tp2_all_pt", "c_tp4_kv2_all_pt"])
def test_ranks_that_agree_pass(case: str) -> None:
    check_adapter_replicas(FIXTURES / case / "checkpoint-4")


def test_an_adapter_in_one_piece_has_no_copies_to_compare() -> None:
    check_adapter_replicas(FIXTURES / "b_tp2_all_pt" / "expected" / "consolidated")


def test_ranks_that_drifted_apart_are_named_with_the_likely_cause() -> None:
    with pytest.raises(InvalidInput) as refused:
        check_adapter_replicas(DRIFTED)

    assert "24 of 24 tensors" in str(refused.value)
    assert "layers.0.self_attn.k_proj.lora_A" in str(refused.value) or "lora_" in str(refused.value)
    assert "sequence_parallel_enabled" in str(refused.value)


def test_a_checkpoint_of_drifted_ranks_is_never_published(tmp_path: Path) -> None:
    from torch import nn

    from neuron_ops.backends.cpu_process import CpuProcess
    from neuron_ops.training.checkpoints import Checkpoints
    from neuron_ops.training.ranks import Ranks

    class DriftingProcess(CpuProcess):
        """Trains here, and saves what ranks that drifted apart have saved."""

        def save_adapter(self, model: nn.Module, folder: Path) -> None:
            shutil.copytree(DRIFTED, folder)

    lineage = make_lineage(tmp_path, make_recipe(make_model(tmp_path / "published" / "model")))
    backend = DriftingProcess(lineage.recipe)
    checkpoints = Checkpoints(lineage.store, lineage.provenance("lora_checkpoints"), backend, Ranks())
    state = make_state(lineage, backend)
    take_a_step(state)

    with pytest.raises(InvalidInput, match="not published"):
        checkpoints.save(2, state, History([{"step": 2, "eval_loss": 4.0}]))

    assert checkpoints.finished() == []
    assert lineage.store.files.stamps(str(lineage.provenance("lora_checkpoints").address)) == {}
