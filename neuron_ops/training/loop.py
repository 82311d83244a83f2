"""The one training loop, in one process: what every backend and every warm-up of a compiler runs.

The loop keeps the loss exact (summed over tokens, divided by the tokens of the whole global batch over all ranks) and
the data position a function of the step. What differs between devices belongs to backends/, what a checkpoint is to
checkpoints.py, the end of a training that stands still to watchdog.py, and the step around the loop to
neuron_ops/steps/train.py.
"""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from neuron_ops.backends.process import BackendProcess
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.schema import Recipe
from neuron_ops.training.batches import Batch, Rows, Schedule
from neuron_ops.training.checkpoints import Checkpoints
from neuron_ops.training.dropout_seed import dropout_seed
from neuron_ops.training.history import History, Row
from neuron_ops.training.learning_rate import learning_rate
from neuron_ops.training.length import num_steps
from neuron_ops.training.speed import Speed
from neuron_ops.training.state import new_state

log = logging.getLogger(__name__)


class Loop:
    """One training in one process: `run` does all of it, and its parts can be called one by one."""

    def __init__(
        self,
        recipe: Recipe,
        process: BackendProcess,
        rows: Path,
        base: Path,
        *,
        checkpoints: Checkpoints | None = None,
        history_file: Path | None = None,
        on_progress: Callable[[], None] = lambda: None,
        check_numbers: bool = True,
    ) -> None:
        """`rows` is a tokenized dataset, `base` the folder of the base model.

        Without `checkpoints` nothing is saved and nothing resumed. The first rank appends each loss to `history_file`.
        `on_progress` is called whenever a micro-batch or a checkpoint has ended. Without `check_numbers` no loss ends
        the training, whatever it is: where graphs are only extracted, numbers mean nothing.
        """
        self._recipe, self._section = recipe, recipe.training
        self._process, self._checkpoints = process, checkpoints
        self._train_rows, self._holdout_rows = Rows(rows / "train"), Rows(rows / "holdout")
        self._schedule = Schedule(
            seed=self._section.seed,
            micro_batch=recipe.graph.micro_batch_size,
            accumulation=recipe.graph.gradient_accumulation_steps,
            ranks=process.data_parallel_size,
            rank=process.data_parallel_rank,
        )
        self._num_steps = num_steps(self._section, len(self._train_rows), self._schedule.rows_per_step)
        self._state = new_state(process, base, recipe)
        self._state.model.train()
        self._history_file, self._on_progress, self._checks_numbers = history_file, on_progress, check_numbers
        self._pending: list[tuple[Row, torch.Tensor, torch.Tensor]] = []
        self._speed = Speed()
        self._resumed_from = self._rows_written = 0
        self.history = History()

    def run(self) -> None:
        """Train to the last step, or until early stopping.

        Raises:
            InvalidInput: the training diverged, or the base model gives no number.
        """
        step = self._resume()
        if step == 0:
            self.evaluate(0)
        while step < self._num_steps and not self._should_stop():
            self.train_step(step)
            step += 1
            last = step == self._num_steps
            if step % self._section.logging_steps == 0 or last:
                self.read_losses()
                self._report(step)
            if step % self._section.eval_steps == 0 or last:
                self.read_losses()
                self.evaluate(step)
            if step % self._section.save_steps == 0 or last or self._should_stop():
                self._save(step)
        if step < self._num_steps:
            log.info(
                "stopped early at step %d of %d: %d evaluations without improvement",
                *(step, self._num_steps, self.history.evaluations_without_improvement()),
            )

    def train_step(self, step: int) -> None:
        """Optimizer step `step` (from 0), with all its micro-batches; its loss stays on the device."""
        began = time.monotonic()
        self._process.seed_generators(dropout_seed(self._section.seed, step, self._process.data_parallel_rank))
        micro_batches, tokens = self._schedule.train(self._train_rows, step)
        rate = learning_rate(self._section, step, self._num_steps)
        for group in self._state.optimizer.param_groups:
            group["lr"] = rate
        loss, norm = self._update(micro_batches, tokens)
        tokens_in_step = self._schedule.rows_per_step * self._recipe.graph.sequence_length
        self._speed.add(tokens_in_step, time.monotonic() - began)
        # Loss and norm stay on the device: reading them here would make a lazy device wait at every step.
        self._pending.append(({"step": step + 1, "learning_rate": rate, "tokens": tokens}, loss, norm))

    def read_losses(self) -> None:
        """Put the losses of the steps since the last call into the history, averaged over the ranks.

        Raises:
            InvalidInput: one of them says that the training diverged.
        """
        for row, loss, norm in self._pending:
            mean = float(self._process.sum_over_ranks(loss)) / self._process.data_parallel_size
            self._check_finite(int(row["step"]), {"loss": mean, "gradient norm": float(norm)})
            self._check_gradient(int(row["step"]), float(norm))
            self.history.add({"step": row["step"], "loss": mean, "grad_norm": float(norm), **row})
        self._pending.clear()
        self._write_history()

    def evaluate(self, step: int) -> None:
        """The loss on every held-out row after `step` optimizer steps, in nats per token; into the history.

        Raises:
            InvalidInput: it is not a finite number.
        """
        # From the host, and of one dimension: a zero made on the device, and a scalar one anywhere, is a constant to a
        # lazy device, so the first batch would be a graph of its own.
        model, total = self._state.model, torch.zeros(1).to(self._process.device)
        model.eval()
        with torch.no_grad():
            for batch in self._schedule.evaluation(self._holdout_rows):
                total += self._summed_loss(batch).float()
                self._end_micro_batch()
        model.train()
        loss = float(self._process.sum_over_ranks(total)) / int(self._holdout_rows.supervised.sum())
        self._check_finite(step, {"held-out loss": loss})
        self.history.add({"step": step, "eval_loss": loss})
        self._write_history()
        log.info("step %d held-out loss %.4f", step, loss)

    def best_step(self) -> int | None:
        """The kept checkpoint with the lowest held-out loss; None without any."""
        return None if self._checkpoints is None else self._checkpoints.best_step()

    def metrics(self) -> dict[str, str | int | float | bool | None]:
        """What the manifest says about the training."""
        losses, evaluations = self.history.losses(), self.history.evaluations()
        rows_seen = len(losses) * self._schedule.rows_per_step
        best = self.best_step()
        return {
            "steps": len(losses),
            "stopped_early": len(losses) < self._num_steps,
            "resumed_from_step": self._resumed_from,
            "best_step": best,
            "best_eval_loss": evaluations.get(best) if best is not None else None,
            "base_eval_loss": evaluations.get(0),
            "last_loss": list(losses.values())[-1],
            "epochs": round(rows_seen / len(self._train_rows), 3),
            "sequences_per_step": self._schedule.rows_per_step,
            "trainable_parameters": sum(parameter.numel() for parameter in self._state.parameters.values()),
            "tokens_per_second": round(self._speed.rate, 1),
            "first_step_seconds": round(self._speed.first_step, 4),
        }

    def _resume(self) -> int:
        if self._checkpoints is None:
            return 0
        self._resumed_from, self.history = self._checkpoints.restore_newest(self._state)
        if self._resumed_from:
            self._write_history()
            log.info("resuming from the checkpoint at step %d", self._resumed_from)
        return self._resumed_from

    def _update(self, micro_batches: list[Batch], tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of the loss summed over this rank's tokens, scaled so that the mean over ranks is per token."""
        process, state = self._process, self._state
        # A tensor, not a number: a compiler would make a graph of its own for each value.
        scale = torch.tensor(process.data_parallel_size / max(tokens, 1), dtype=torch.float32).to(process.device)
        total = torch.zeros((), device=process.device)
        for index, batch in enumerate(micro_batches):
            with process.accumulate(state.model, last=index == len(micro_batches) - 1):
                loss = self._summed_loss(batch) * scale
                process.backward(loss)
            total += loss.detach().float()
            self._end_micro_batch()
        norm = process.clip_and_step(state.optimizer, state.parameters.values(), self._section.max_grad_norm)
        process.sync()
        return total, norm

    def _end_micro_batch(self) -> None:
        self._process.sync()
        self._on_progress()

    def _summed_loss(self, batch: Batch) -> torch.Tensor:
        placed = {name: value.to(self._process.device) for name, value in batch.items()}
        loss: torch.Tensor = self._state.model(**placed, **self._process.summed_loss).loss
        return loss

    def _check_finite(self, step: int, values: dict[str, float]) -> None:
        """Weights that are no numbers any more are never saved: each checkpoint follows an evaluation."""
        for name, value in values.items():
            if math.isfinite(value) or not self._checks_numbers:
                continue
            if step == 0:
                raise InvalidInput(
                    f"The {name} is {value} before any training: the base model does not work in graph.dtype "
                    f"{self._recipe.graph.dtype}. Try float32, or another base model."
                )
            raise self._diverged(f"the {name} of step {step} is {value}")

    def _check_gradient(self, step: int, norm: float) -> None:
        """Huge weights need not end in infinities: a layer norm divides by them, and what is left is a constant."""
        if norm == 0 and self._checks_numbers:
            raise self._diverged(f"the gradient of step {step} is zero, so there is nothing to learn from any more")

    def _diverged(self, how: str) -> InvalidInput:
        return InvalidInput(
            f"Training diverged: {how}. Lower training.learning_rate (now {self._section.learning_rate}) or "
            f"training.max_grad_norm (now {self._section.max_grad_norm}), then materialize again."
        )

    def _save(self, step: int) -> None:
        if self._checkpoints is None:
            return
        if self.history.eval_loss_at(step) is None:
            self.read_losses()
            self.evaluate(step)
        self._checkpoints.save(step, self._state, self.history)
        if self._process.rank == 0:  # to find the best one is to read every checkpoint's manifest
            self._checkpoints.prune(self._section.save_total_limit)
        self._on_progress()
        log.info("checkpoint at step %d", step)

    def _should_stop(self) -> bool:
        patience = self._section.early_stopping_patience
        return patience is not None and self.history.evaluations_without_improvement() >= patience

    def _report(self, step: int) -> None:
        row = next(row for row in reversed(self.history.rows) if "loss" in row)
        log.info(
            "step %d/%d loss %.4f grad norm %.3f learning rate %.2e tokens/s %.0f",
            *(step, self._num_steps, row["loss"], row["grad_norm"], row["learning_rate"], self._speed.rate),
        )

    def _write_history(self) -> None:
        if self._history_file is not None and self._process.rank == 0:
            with self._history_file.open("a") as file:
                file.write(self.history.to_jsonl(self._rows_written))
            self._rows_written = len(self.history.rows)
