"""Checkpoints of a training: parts of `lora_checkpoints`, each finished by its own manifest.

    step-000400/manifest.json
               /w-…/adapter/          the adapter, in the backend's format
                   /resume.safetensors   optimizer state by parameter name, random generators; the step in its header
                   /history.jsonl     every loss up to here

No pickle is written and none is read. What the loop does between two checkpoints belongs to train.py.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from neuron_ops.artifacts import Address, Artifact, ArtifactStore, FileRecord, Manifest
from neuron_ops.backends.process import Backend
from neuron_ops.errors import CorruptArtifact
from neuron_ops.run import Plan
from neuron_ops.training.history import History

log = logging.getLogger(__name__)

ADAPTER = "adapter"
RESUME = "resume.safetensors"
HISTORY = "history.jsonl"
PREFIX = "step-"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Everything that a step of the loop reads and changes, the history apart."""

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer


class Checkpoints:
    """The checkpoints of one training."""

    def __init__(self, store: ArtifactStore, plan: Plan, backend: Backend) -> None:
        self._store, self._plan, self._backend = store, plan, backend

    def finished(self) -> list[Artifact]:
        """Every finished checkpoint, oldest first."""
        return self._store.parts(self._plan.address, PREFIX)

    def save(self, step: int, state: TrainingState, history: History) -> None:
        """Write a checkpoint. Collective, so every rank writes without looking: a look could differ between ranks."""
        generators = self._backend.rng_states()
        with self._store.writer(self._address(f"{PREFIX}{step:06d}")) as writer:
            self._backend.save_adapter(state.model, writer.path / ADAPTER)
            # Publishing removes the folders of other writers: a rank that still fills its own would find it gone.
            self._backend.barrier()
            if self._backend.rank == 0:
                _save_resume(writer.path / RESUME, step, state, generators)
                (writer.path / HISTORY).write_text(history.to_jsonl())
                writer.publish(lambda data, files: self._manifest(step, data, files, history))
        self._backend.barrier()

    def restore_newest(self, state: TrainingState) -> tuple[int, History]:
        """Bring model, optimizer and generators to the newest whole checkpoint; its step, and the history up to there.

        A damaged checkpoint is named and removed: what is trained from an older one will take its place.
        """
        newest: tuple[int, History] | None = None
        for name in reversed(self._names()):
            try:
                checkpoint = self._store.find(self._address(name))
                if checkpoint is not None:
                    checkpoint.check_sizes()
                    newest = newest or (step_of(checkpoint), self._restore(checkpoint, state))
            except CorruptArtifact as error:
                self._discard(name, error)
        return newest or (0, History())

    def _restore(self, checkpoint: Artifact, state: TrainingState) -> History:
        with checkpoint.local() as folder:
            self._backend.load_adapter(state.model, folder / ADAPTER)
            _load_resume(folder / RESUME, state, self._backend)
            return History.from_jsonl((folder / HISTORY).read_text())

    def _discard(self, name: str, error: CorruptArtifact) -> None:
        if self._backend.rank == 0:
            log.warning("checkpoint %s is damaged, so it is removed and not used: %s", name, error)
            self._store.remove(self._address(name))

    def prune(self, keep_last: int, best_step: int | None) -> None:
        """Remove all but the newest `keep_last` and the best one."""
        if self._backend.rank != 0:
            return
        for checkpoint in self.finished()[:-keep_last]:
            if step_of(checkpoint) != best_step:
                self._store.remove(checkpoint.address)

    def tidy(self) -> None:
        """Remove what was killed in the middle of being saved or removed."""
        finished = {checkpoint.address.part for checkpoint in self.finished()}
        for name in self._names():
            if name not in finished:
                self._store.remove(self._address(name))

    def summary(self, best_step: int | None) -> dict[str, object]:
        """What `checkpoints.json` says: which are there, which is best, which is last."""
        finished = self.finished()
        records = [_record(checkpoint) for checkpoint in finished]
        best = next((record for record in records if record["step"] == best_step), records[-1])
        return {"best": best, "last": records[-1], "kept": records}

    def _names(self) -> list[str]:
        names = self._store.files.children(str(self._plan.address))
        return [name for name in names if name.startswith(PREFIX)]

    def _address(self, name: str) -> Address:
        return replace(self._plan.address, part=name)

    def _manifest(self, step: int, data: str, files: Sequence[FileRecord], history: History) -> Manifest:
        address = self._plan.address
        return Manifest(
            artifact=address.artifact,
            step="train",
            dataset_version=address.dataset_version,
            fingerprint=address.fingerprint,
            reads=self._plan.reads,
            inputs=self._plan.inputs,
            data=data,
            files=tuple(files),
            metrics={"step": step, "eval_loss": history.eval_loss_at(step)},
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def step_of(checkpoint: Artifact) -> int:
    """The number of optimizer steps that a checkpoint has behind it."""
    return int(str(checkpoint.address.part).removeprefix(PREFIX))


def _record(checkpoint: Artifact) -> dict[str, object]:
    return {
        "step": step_of(checkpoint),
        "part": checkpoint.address.part,
        "digest": checkpoint.manifest.digest,
        "eval_loss": checkpoint.manifest.metrics["eval_loss"],
    }


def _save_resume(path: Path, step: int, state: TrainingState, generators: dict[str, torch.Tensor]) -> None:
    tensors = {f"rng/{name}": value for name, value in generators.items()}
    for name, parameter in state.parameters.items():
        for key, value in state.optimizer.state[parameter].items():
            tensors[f"optimizer/{name}/{key}"] = value.detach().cpu().contiguous()
    save_file(tensors, path, metadata={"state": json.dumps({"step": step})})


def _load_resume(path: Path, state: TrainingState, backend: Backend) -> None:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no dict
    backend.restore_rng(
        {name.removeprefix("rng/"): value for name, value in tensors.items() if name.startswith("rng/")}
    )
    for name, parameter in state.parameters.items():
        prefix = f"optimizer/{name}/"
        state.optimizer.state[parameter] = {
            # AdamW keeps its step count on the host, the moments beside the parameter.
            key.removeprefix(prefix): value if key.endswith("/step") else value.to(parameter.device, parameter.dtype)
            for key, value in tensors.items()
            if key.startswith(prefix)
        }
