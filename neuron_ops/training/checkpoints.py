"""Checkpoints of a training: parts of `lora_checkpoints`, each finished by its own manifest.

    step-000400/manifest.json
               /w-…/adapter/              the adapter in the backend's format, for `consolidate`
                   /resume-00.safetensors    of each shard of the adapter: values and optimizer state by parameter name,
                                             and the step in its header
                   /history.jsonl         every loss up to here

Every rank that holds a shard writes into one folder, the first rank's. Resuming reads the safetensors files only: no
pickle is written and none is read. No state of a generator is saved: the loop sets each at every step. What the loop
does between two checkpoints belongs to loop.py.
"""

import contextlib
import json
import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from neuron_ops.backends.process import BackendProcess
from neuron_ops.errors import CorruptArtifact
from neuron_ops.store.artifacts import Artifact, ArtifactStore, Writer
from neuron_ops.store.manifest import Address, FileRecord, Manifest, Provenance
from neuron_ops.training.history import History
from neuron_ops.training.ranks import Ranks
from neuron_ops.training.replica_gate import check_adapter_replicas
from neuron_ops.training.state import TrainingState

log = logging.getLogger(__name__)

ADAPTER = "adapter"
HISTORY = "history.jsonl"
PREFIX = "step-"


class Checkpoints:
    """The checkpoints of one training."""

    def __init__(self, store: ArtifactStore, provenance: Provenance, process: BackendProcess, ranks: Ranks) -> None:
        self._store, self._provenance, self._process, self._ranks = store, provenance, process, ranks

    def finished(self) -> list[Artifact]:
        """Every finished checkpoint, oldest first."""
        return self._store.parts(self._provenance.address, PREFIX)

    def save(self, step: int, state: TrainingState, history: History) -> None:
        """Write a checkpoint. Collective; the first rank publishes it once every file is there and proven.

        Raises:
            InvalidInput: ranks that should hold the same values do not, so there is no one adapter to save.
        """
        with self._shared_folder(self._address(f"{PREFIX}{step:06d}")) as (folder, writer):
            self._process.save_adapter(state.model, folder / ADAPTER)
            if self._process.saves:
                _save_resume(folder / _resume_file(self._process.shard), step, state)
            self._ranks.barrier()
            self._ranks.from_first(lambda: self._publish(writer[0], history))

    @contextlib.contextmanager
    def _shared_folder(self, address: Address) -> Iterator[tuple[Path, list[Writer]]]:
        """One folder for all ranks that save, and on the first rank the right to publish it.

        The others get a folder that goes away: the libraries make every rank's directories, also on nodes that do
        not see this one.
        """
        with contextlib.ExitStack() as stack:
            writers: list[Writer] = []

            def open_writer() -> str:
                writers.append(stack.enter_context(self._store.writer(address)))
                return str(writers[0].path)

            folder = self._ranks.from_first(open_writer)
            if not self._process.saves:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fine-tune-"))
            yield Path(folder), writers

    def _publish(self, writer: Writer, history: History) -> str:
        check_adapter_replicas(writer.path / ADAPTER)
        (writer.path / HISTORY).write_text(history.to_jsonl())
        step = int(str(writer.address.part).removeprefix(PREFIX))
        artifact = writer.publish(lambda data, files: self._manifest(step, data, files, history))
        return artifact.manifest.digest

    def restore_newest(self, state: TrainingState) -> tuple[int, History]:
        """Bring model and optimizer to the newest whole checkpoint; its step, and the history up to there.

        Collective. The first rank reads every byte and chooses, so that all ranks resume from the same one.
        """
        name = self._ranks.from_first(self._newest_whole)
        if not name:
            return 0, History()
        checkpoint = self._store.require(self._address(name))
        return step_of(checkpoint), self._restore(checkpoint, state)

    def _newest_whole(self) -> str:
        """Its name, or "". A damaged one is named and removed: what is trained from an older one takes its place."""
        newest = ""
        for name in reversed(self._names()):
            try:
                checkpoint = self._store.find(self._address(name))
                if checkpoint is None:
                    continue
                checkpoint.check_sizes()
                if not newest:
                    with checkpoint.local():  # compares every digest
                        newest = name
            except CorruptArtifact as error:
                log.warning("checkpoint %s is damaged, so it is removed and not used: %s", name, error)
                self._store.remove(self._address(name))
        return newest

    def _restore(self, checkpoint: Artifact, state: TrainingState) -> History:
        own = _resume_file(self._process.shard)
        with checkpoint.local(verify=False, names={own, HISTORY}) as folder:
            _load_shard(folder / own, state)
            return History.from_jsonl((folder / HISTORY).read_text())

    def best_step(self) -> int | None:
        """The finished checkpoint with the lowest held-out loss, of equal ones the first; None without any."""
        finished = self.finished()
        return step_of(_best_of(finished)) if finished else None

    def prune(self, total_limit: int) -> None:
        """Keep `total_limit` checkpoints, the best one counted; for the first rank.

        Hugging Face's rule: resuming needs the newest and what follows the training needs the best one, so that with a
        limit of 1 there may be two.
        """
        newest_first = self.finished()[::-1]
        if not newest_first:
            return
        needed = {step_of(newest_first[0]), step_of(_best_of(newest_first))}
        by_need = sorted(newest_first, key=lambda item: step_of(item) not in needed)  # stable: then the newest first
        for checkpoint in by_need[max(total_limit, len(needed)) :]:
            self._store.remove(checkpoint.address)

    def tidy(self) -> None:
        """Remove what was killed in the middle of being saved or removed."""
        finished = {checkpoint.address.part for checkpoint in self.finished()}
        for name in self._names():
            if name not in finished:
                self._store.remove(self._address(name))

    def summary(self) -> dict[str, object]:
        """What `checkpoints.json` says: which are there, which is best, which is last."""
        finished = self.finished()
        records = [_record(checkpoint) for checkpoint in finished]
        return {"best": _record(_best_of(finished)), "last": records[-1], "kept": records}

    def _names(self) -> list[str]:
        return self._store.part_names(self._provenance.address, PREFIX)

    def _address(self, name: str) -> Address:
        return replace(self._provenance.address, part=name)

    def _manifest(self, step: int, data: str, files: Sequence[FileRecord], history: History) -> Manifest:
        address = self._provenance.address
        return Manifest(
            artifact=address.artifact,
            step="train",
            dataset_version=address.dataset_version,
            fingerprint=address.fingerprint,
            reads=self._provenance.reads,
            inputs=self._provenance.inputs,
            data=data,
            files=tuple(files),
            metrics={"step": step, "eval_loss": history.eval_loss_at(step)},
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def step_of(checkpoint: Artifact) -> int:
    """The number of optimizer steps that a checkpoint has behind it."""
    return int(str(checkpoint.address.part).removeprefix(PREFIX))


def _best_of(checkpoints: Sequence[Artifact]) -> Artifact:
    """The one with the lowest held-out loss, of equal ones the first: the same one however many others are kept."""
    return min(checkpoints, key=lambda item: (_eval_loss(item), step_of(item)))


def _eval_loss(checkpoint: Artifact) -> float:
    loss = checkpoint.manifest.metrics["eval_loss"]
    return math.inf if loss is None else float(loss)


def _record(checkpoint: Artifact) -> dict[str, object]:
    # What is made from a checkpoint must not depend on how often the training was evaluated, which decides nothing.
    trained = tuple(file.name for file in checkpoint.manifest.files if file.name != HISTORY)
    return {
        "step": step_of(checkpoint),
        "part": checkpoint.address.part,
        "digest": checkpoint.manifest.digest_of(trained),
        "eval_loss": checkpoint.manifest.metrics["eval_loss"],
    }


def _resume_file(shard: int) -> str:
    return f"resume-{shard:02d}.safetensors"


def _save_resume(path: Path, step: int, state: TrainingState) -> None:
    tensors = {}
    for name, parameter in state.parameters.items():
        tensors[f"adapter/{name}"] = _on_host(parameter)
        for key, value in state.optimizer.state[parameter].items():
            tensors[f"optimizer/{name}/{key}"] = _on_host(value)
    save_file(tensors, path, metadata={"state": json.dumps({"step": step})})


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous()


def _load_shard(path: Path, state: TrainingState) -> None:
    with safe_open(path, "pt") as file, torch.no_grad():
        names = [name for name in file.keys() if name.startswith("optimizer/")]  # noqa: SIM118 - safe_open is no dict
        for name, parameter in state.parameters.items():
            parameter.copy_(file.get_tensor(f"adapter/{name}"))
            prefix = f"optimizer/{name}/"
            own = {key.removeprefix(prefix): file.get_tensor(key) for key in names if key.startswith(prefix)}
            state.optimizer.state[parameter] = {
                # AdamW keeps its step count on the host, the moments beside the parameter.
                key: value if key == "step" else value.to(parameter.device, parameter.dtype)
                for key, value in own.items()
            }
