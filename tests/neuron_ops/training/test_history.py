"""What a training measured: the same text for the same losses, and what is read from it."""

from pathlib import Path

import pytest

from neuron_ops.training.history import History, draw_losses


def evaluated(*losses: float) -> History:
    return History([{"step": step, "eval_loss": loss} for step, loss in enumerate(losses)])


def test_it_reads_back_every_digit_that_it_wrote() -> None:
    rows = [{"step": 1, "loss": 0.1 + 0.2, "grad_norm": 1e-17, "learning_rate": 2e-5, "tokens": 7}]

    text = History(rows).to_jsonl()

    assert History.from_jsonl(text).rows == rows
    assert History.from_jsonl(text).to_jsonl() == text


def test_lines_appended_one_by_one_are_the_whole_text() -> None:
    history = evaluated(3.0, 2.0, 1.0)

    assert History(history.rows[:2]).to_jsonl() + history.to_jsonl(2) == history.to_jsonl()


@pytest.mark.parametrize(
    ("losses", "count"),
    [((3.0,), 0), ((3.0, 2.0), 0), ((3.0, 3.0), 1), ((3.0, 4.0, 3.5), 2), ((3.0, 4.0, 2.0), 0)],
)
def test_evaluations_without_improvement_are_counted_from_the_last_best(losses: tuple[float, ...], count: int) -> None:
    assert evaluated(*losses).evaluations_without_improvement() == count


def test_equal_losses_are_drawn_as_equal_bytes(tmp_path: Path) -> None:
    history = History([{"step": 1, "loss": 2.0}, {"step": 0, "eval_loss": 3.0}])

    for name in ("one.png", "other.png"):
        draw_losses(history, tmp_path / name)

    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
