"""What cannot be trained: one clear end each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from neuron_ops.steps.addresses import Lineage
from tests.neuron_ops.training.workbench import (
    Trainer,
    assert_nothing_is_left_over,
    damage,
    make_lineage,
    make_model,
    make_recipe,
    open_lineage,
    start_server,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("published") / "model")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    trainer = start_server(tmp_path_factory.mktemp("trainings"))
    yield trainer
    trainer.close()


def assert_refused(trainer: Trainer, lineage: Lineage, code: int, words: str) -> None:
    """One sentence, the right exit code, no traceback, and no artifact."""
    ended = trainer.train(lineage)
    assert ended.codes == [code], ended.log
    errors = [line for line in ended.log.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert words in errors[0]
    assert "Traceback" not in ended.log
    assert open_lineage(Path(lineage.store.url).parent, lineage.recipe).find("lora_checkpoints") is None
    assert_nothing_is_left_over(lineage)


def test_a_training_that_diverges_ends_with_one_sentence(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, training__learning_rate=1e30, training__max_grad_norm=1e30))

    assert_refused(trainer, lineage, 2, "Lower training.learning_rate (now 1e+30)")


def test_a_training_that_dies_of_finite_numbers_ends_too(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    """Behind the layer norm nothing is left of activations whose squares overflow: each token is as likely as any."""
    huge = {"training__learning_rate": 1e30, "training__max_grad_norm": 1e30}
    lineage = make_lineage(tmp_path, make_recipe(model, graph__lora__target_modules=["o_proj"], **huge))

    assert_refused(trainer, lineage, 2, "the gradient of step 2 is zero")


def test_a_base_model_that_gives_no_number_is_refused_before_the_first_step(trainer: Trainer, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = make_model(tmp_path / "model")
    broken = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        broken.lm_head.weight[3, 3] = torch.nan
    broken.save_pretrained(folder)
    lineage = make_lineage(tmp_path, make_recipe(folder))

    assert_refused(trainer, lineage, 2, "before any training")


@pytest.mark.usefixtures("without_gpu")
def test_cuda_without_a_gpu_is_refused(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model, hardware__backend="cuda"))

    assert_refused(trainer, lineage, 2, "torch sees no GPU here")


def test_a_truncated_base_model_is_named_before_training_starts(trainer: Trainer, model: Path, tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, make_recipe(model))
    damage(lineage.require("base_model"), "model.safetensors")

    assert_refused(trainer, lineage, 4, "model.safetensors is missing or has another size")
