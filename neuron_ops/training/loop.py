"""The one training loop, in one process: what every backend and every rehearsal runs.

The loop keeps the loss exact (summed over tokens, divided by the tokens of the whole global batch over all ranks) and
the data position a function of the step. What differs between devices belongs to backends/, what a checkpoint is to
checkpoints.py, and the step around the loop to neuron_ops/steps/train.py.
"""

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from neuron_ops.backends.process import Backend
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps import program
from neuron_ops.training.batches import Batch, Rows, Schedule
from neuron_ops.training.checkpoints import Checkpoints, TrainingState, step_of
from neuron_ops.training.history import History, Row
from neuron_ops.training.learning_rate import learning_rate
from neuron_ops.training.length import num_steps
from neuron_ops.training.watchdog import Watchdog

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Speed:
    """Tokens and seconds since this process began to train; never part of the history."""

    tokens: int = 0
    seconds: float = 0.0
    first_tokens: int = 0
    first_step: float = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """One step more."""
        if not self.seconds:
            self.first_tokens, self.first_step = tokens, seconds
        self.tokens += tokens
        self.seconds += seconds

    @property
    def rate(self) -> float:
        """Tokens a second; without the first step, once there are others: that one may have compiled."""
        if self.seconds > self.first_step:
            return (self.tokens - self.first_tokens) / (self.seconds - self.first_step)
        return self.tokens / self.seconds if self.seconds else 0.0


class Loop:
    """One training in one process."""

    def __init__(
        self, recipe: Recipe, backend: Backend, checkpoints: Checkpoints, rows: Path, base: Path, history_file: Path
    ) -> None:
        self._recipe, self._section = recipe, recipe.training
        self._backend, self._checkpoints = backend, checkpoints
        self._train_rows, self._holdout_rows = Rows(rows / "train"), Rows(rows / "holdout")
        self._schedule = Schedule(
            seed=self._section.seed,
            micro_batch=recipe.graph.micro_batch_size,
            accumulation=recipe.graph.gradient_accumulation_steps,
            ranks=backend.data_parallel_size,
            rank=backend.data_parallel_rank,
        )
        self._num_steps = num_steps(self._section, len(self._train_rows), self._schedule.rows_per_step)
        self._state = new_state(backend, base, recipe)
        self._history_file = history_file
        self._pending: list[tuple[Row, torch.Tensor, torch.Tensor]] = []
        self._speed = _Speed()
        self._watchdog = Watchdog(recipe.hardware.stall_minutes, program.end_at_once)
        self._resumed_from = self._rows_written = 0
        self.history = History()

    def run(self) -> None:
        """Train to the last step, or until early stopping."""
        with self._watchdog:
            self._run()

    def _run(self) -> None:
        step = self._resume()
        if step == 0:
            self._evaluate(0)
        self._state.model.train()
        while step < self._num_steps and not self._should_stop():
            self._train_step(step)
            step += 1
            last = step == self._num_steps
            if step % self._section.logging_steps == 0 or last:
                self._read_losses()
                self._report(step)
            if step % self._section.eval_steps == 0 or last:
                self._read_losses()
                self._evaluate(step)
            if step % self._section.save_steps == 0 or last or self._should_stop():
                self._save(step)

    def best_step(self) -> int | None:
        """The kept checkpoint with the lowest held-out loss."""
        losses = {step_of(item): item.manifest.metrics["eval_loss"] for item in self._checkpoints.finished()}
        known = {step: float(loss) for step, loss in losses.items() if loss is not None}
        return min(known, key=lambda step: (known[step], step)) if known else None

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
        self._resumed_from, self.history = self._checkpoints.restore_newest(self._state)
        if self._resumed_from:
            self._write_history()
            log.info("resuming from the checkpoint at step %d", self._resumed_from)
        return self._resumed_from

    def _train_step(self, step: int) -> None:
        began = time.monotonic()
        micro_batches, tokens = self._schedule.train(self._train_rows, step)
        rate = learning_rate(self._section, step, self._num_steps)
        for group in self._state.optimizer.param_groups:
            group["lr"] = rate
        loss, norm = self._update(micro_batches, tokens)
        tokens_in_step = self._schedule.rows_per_step * self._recipe.graph.sequence_length
        self._speed.add(tokens_in_step, time.monotonic() - began)
        # Loss and norm stay on the device: reading them here would make a lazy device wait at every step.
        self._pending.append(({"step": step + 1, "learning_rate": rate, "tokens": tokens}, loss, norm))

    def _update(self, micro_batches: list[Batch], tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of the loss summed over this rank's tokens, scaled so that the mean over ranks is per token."""
        backend, state = self._backend, self._state
        # A tensor, not a number: a compiler would make a graph of its own for each value.
        scale = torch.tensor(backend.data_parallel_size / max(tokens, 1), dtype=torch.float32).to(backend.device)
        total = torch.zeros((), device=backend.device)
        for index, batch in enumerate(micro_batches):
            with backend.accumulate(state.model, last=index == len(micro_batches) - 1):
                loss = self._summed_loss(batch) * scale
                backend.backward(loss)
            total += loss.detach().float()
            self._end_micro_batch()
        norm = backend.clip_and_step(state.optimizer, state.parameters.values(), self._section.max_grad_norm)
        backend.sync()
        return total, norm

    def _end_micro_batch(self) -> None:
        self._backend.sync()
        self._watchdog.progress()

    def _summed_loss(self, batch: Batch) -> torch.Tensor:
        placed = {name: value.to(self._backend.device) for name, value in batch.items()}
        loss: torch.Tensor = self._state.model(**placed, **self._backend.summed_loss).loss
        return loss

    def _read_losses(self) -> None:
        for row, loss, norm in self._pending:
            mean = float(self._backend.sum_over_ranks(loss)) / self._backend.data_parallel_size
            self._check_finite(int(row["step"]), {"loss": mean, "gradient norm": float(norm)})
            self._check_gradient(int(row["step"]), float(norm))
            self.history.add({"step": row["step"], "loss": mean, "grad_norm": float(norm), **row})
        self._pending.clear()
        self._write_history()

    def _check_finite(self, step: int, values: dict[str, float]) -> None:
        """Weights that are no numbers any more are never saved: each checkpoint follows an evaluation."""
        for name, value in values.items():
            if math.isfinite(value):
                continue
            if step == 0:
                raise InvalidInput(
                    f"The {name} is {value} before any training: the base model does not work in graph.dtype "
                    f"{self._recipe.graph.dtype}. Try float32, or another base model."
                )
            raise self._diverged(f"the {name} of step {step} is {value}")

    def _check_gradient(self, step: int, norm: float) -> None:
        """Huge weights need not end in infinities: a layer norm divides by them, and what is left is a constant."""
        if norm == 0:
            raise self._diverged(f"the gradient of step {step} is zero, so there is nothing to learn from any more")

    def _diverged(self, how: str) -> InvalidInput:
        return InvalidInput(
            f"Training diverged: {how}. Lower training.learning_rate (now {self._section.learning_rate}) or "
            f"training.max_grad_norm (now {self._section.max_grad_norm}), then materialize again."
        )

    def _evaluate(self, step: int) -> None:
        model, total = self._state.model, torch.zeros((), device=self._backend.device)
        model.eval()
        with torch.no_grad():
            for batch in self._schedule.evaluation(self._holdout_rows):
                total += self._summed_loss(batch).float()
                self._end_micro_batch()
        model.train()
        loss = float(self._backend.sum_over_ranks(total)) / int(self._holdout_rows.supervised.sum())
        self._check_finite(step, {"held-out loss": loss})
        self.history.add({"step": step, "eval_loss": loss})
        self._write_history()
        log.info("step %d held-out loss %.4f", step, loss)

    def _save(self, step: int) -> None:
        if self.history.eval_loss_at(step) is None:
            self._read_losses()
            self._evaluate(step)
        self._checkpoints.save(step, self._state, self.history)
        if self._backend.rank == 0:  # to find the best one is to read every checkpoint's manifest
            self._checkpoints.prune(self._section.save_total_limit, self.best_step())
        self._watchdog.progress()
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
        if self._backend.rank == 0:
            with self._history_file.open("a") as file:
                file.write(self.history.to_jsonl(self._rows_written))
            self._rows_written = len(self.history.rows)


def new_state(backend: Backend, base: Path, recipe: Recipe) -> TrainingState:
    """The base model with a fresh adapter, and AdamW for it."""
    section = recipe.training
    model = backend.load_model(base, recipe)
    parameters = backend.trainable(model)
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=section.learning_rate,
        betas=(section.adam_beta1, section.adam_beta2),
        weight_decay=section.weight_decay,
    )
    return TrainingState(model, parameters, backend.prepare_optimizer(optimizer))
