"""What a training measured, row by row: written as JSON lines while it runs, drawn when it is done."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

Row = dict[str, float]
"""step, and either loss, grad_norm, learning_rate and tokens, or eval_loss."""


class History:
    """Rows in the order in which they were measured; nothing in it depends on the clock."""

    def __init__(self, rows: list[Row] | None = None) -> None:
        self.rows: list[Row] = rows or []

    @classmethod
    def from_jsonl(cls, text: str) -> "History":
        """Read back what `to_jsonl` wrote."""
        return cls([json.loads(line) for line in text.splitlines()])

    def to_jsonl(self, first: int = 0) -> str:
        """One JSON object per line, from row `first` on."""
        return "".join(json.dumps(row) + "\n" for row in self.rows[first:])

    def add(self, row: Mapping[str, float]) -> None:
        """Append one row."""
        self.rows.append(dict(row))

    def evaluations(self) -> dict[int, float]:
        """Held-out loss (nats per token) by step."""
        return {int(row["step"]): row["eval_loss"] for row in self.rows if "eval_loss" in row}

    def losses(self) -> dict[int, float]:
        """Training loss (nats per token) by step."""
        return {int(row["step"]): row["loss"] for row in self.rows if "loss" in row}

    def eval_loss_at(self, step: int) -> float | None:
        """Held-out loss at a step, if it was evaluated."""
        return self.evaluations().get(step)

    def evaluations_without_improvement(self) -> int:
        """How many evaluations in a row, counted from the last, were not below the best before them."""
        best, count = math.inf, 0
        for loss in self.evaluations().values():
            best, count = (loss, 0) if loss < best else (best, count + 1)
        return count


def draw_losses(history: History, path: Path) -> None:
    """Draw training and held-out loss over steps into a PNG of some 30 kB."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    losses, evaluations = history.losses(), history.evaluations()
    axes.plot(list(losses), list(losses.values()), color="#8fa8c8", linewidth=1, label="training")
    axes.plot(list(evaluations), list(evaluations.values()), color="#b5483a", marker="o", label="held-out")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    # Without the library's version in it, the picture of equal losses is the same bytes.
    figure.savefig(path, dpi=100, metadata={"Software": None})
