"""The learning rate of each step."""

import pytest

from neuron_ops.recipe.schema import TrainingSection
from neuron_ops.training.learning_rate import learning_rate


def rates(**fields: object) -> list[float]:
    section = TrainingSection.model_validate({"max_steps": 8, "learning_rate": 0.8, **fields})
    return [learning_rate(section, step, 8) for step in range(8)]


def test_constant_stays_at_the_peak() -> None:
    assert rates(lr_scheduler_type="constant") == [0.8] * 8


def test_warm_up_rises_linearly_from_above_zero_to_the_peak() -> None:
    assert rates(lr_scheduler_type="constant", warmup_steps=4)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])


def test_linear_falls_to_zero_after_the_last_step() -> None:
    assert rates(lr_scheduler_type="linear", warmup_steps=4)[4:] == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_cosine_is_at_half_the_peak_in_the_middle() -> None:
    assert rates(lr_scheduler_type="cosine", warmup_steps=4)[4:] == pytest.approx(
        [0.8, 0.682843, 0.4, 0.117157], rel=1e-5
    )


def test_no_step_is_lost_to_a_rate_of_zero() -> None:
    for schedule in ("linear", "cosine", "constant"):
        assert min(rates(lr_scheduler_type=schedule, warmup_steps=3)) > 0
