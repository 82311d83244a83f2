"""The training loop against a bare one, and packed against padded rows: `python benchmarks/train.py`.

The bare loop does forward, backward, clip and step over batches in memory: same model, adapter, rows and settings, and
nothing else. Every run is a separate process, in turn, on one thread. It counts CPU seconds of the steps after the
first ten, so without imports, evaluation and checkpoints. The model has the demo's shape and random weights.
"""

import argparse
import json
import logging
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SEQUENCE_LENGTH = 256
VOCABULARY = 2048
WARM_UP = 10


def main() -> None:
    """Make the input, or run one of the ways in this process (as the subprocesses do)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--way", choices=sorted(WAYS), help="run this way in this process")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(WAYS[arguments.way](arguments.folder, arguments.steps)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_input(Path(folder), arguments.rows)
        compare(Path(folder), arguments.runs, arguments.steps)


def compare(folder: Path, runs: int, steps: int) -> None:
    """Run all ways in turn and print medians."""
    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(runs):
        for way, measured in results.items():
            command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--steps", str(steps)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            measured.append(json.loads(output.splitlines()[-1]))
    print(f"{runs} runs of {steps - WARM_UP} steps each\n")
    print("way              CPU s per step: median    lowest   highest   real tokens per CPU s")
    for way, rows in results.items():
        cpu, speed = [row["cpu"] for row in rows], statistics.median(row["tokens"] / row["cpu"] for row in rows)
        print(f"{way:<31}{statistics.median(cpu):>10.4f}{min(cpu):>10.4f}{max(cpu):>10.4f}{speed:>24,.0f}")
    show_ratio("loop / bare, CPU per step", results["loop"], results["bare"], lambda row: row["cpu"])
    name = "packed / padded, real tokens per CPU s"
    show_ratio(name, results["loop"], results["loop, padded"], lambda row: row["tokens"] / row["cpu"])


def show_ratio(
    name: str,
    ours: list[dict[str, float]],
    theirs: list[dict[str, float]],
    measure: Callable[[dict[str, float]], float],
) -> None:
    """Print the ratio of neighbouring runs: other load on the machine affects both alike."""
    ratios = sorted(measure(one) / measure(other) for one, other in zip(ours, theirs, strict=True))
    print(f"\n{name}: median {statistics.median(ratios):.3f}, from {ratios[0]:.3f} to {ratios[-1]:.3f}", end="")
    print(f"; lowest against lowest {min(map(measure, ours)) / min(map(measure, theirs)):.3f}")


def run_loop(folder: Path, steps: int, rows: str = "packed") -> dict[str, float]:
    """The project's loop, with its history, its log and everything."""
    from neuron_ops.backends import open_backend
    from neuron_ops.store.artifacts import ArtifactStore
    from neuron_ops.store.manifest import Address, Provenance
    from neuron_ops.training.checkpoints import Checkpoints
    from neuron_ops.training.loop import Loop
    from neuron_ops.training.ranks import Ranks

    recipe = make_recipe(steps)
    process = open_backend(recipe)
    clock = LogClock()
    with tempfile.TemporaryDirectory() as out:
        made_of = Provenance(Address("lora_checkpoints", "benchmark", "v"), {}, {})
        checkpoints = Checkpoints(ArtifactStore(f"{out}/store"), made_of, process, Ranks())
        places = (folder / rows, folder / "model")
        Loop(recipe, process, *places, checkpoints=checkpoints, history_file=Path(out, "history.jsonl")).run()
    return {"cpu": clock.seconds_per_step(steps), "tokens": real_tokens(folder / rows / "train", steps)}


def run_bare(folder: Path, steps: int) -> dict[str, float]:
    """The smallest loop that trains the same model on the same rows."""
    import torch

    from neuron_ops.backends import open_backend
    from neuron_ops.training.batches import Rows, Schedule

    recipe = make_recipe(steps)
    backend = open_backend(recipe)  # for the model with its adapter; the loop is the one below
    model = backend.load_model(folder / "model", recipe).train()
    parameters = list(backend.trainable(model).values())
    optimizer = torch.optim.AdamW(parameters, lr=recipe.training.learning_rate, weight_decay=0.0)
    schedule = Schedule(recipe.training.seed, micro_batch=4, accumulation=1, ranks=1, rank=0)
    rows = Rows(folder / "packed" / "train")
    batches = [schedule.train(rows, step)[0][0] for step in range(steps)]
    for step, batch in enumerate(batches):
        if step == WARM_UP:
            started = time.process_time()
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.training.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.process_time() - started
    return {"cpu": seconds / (steps - WARM_UP), "tokens": real_tokens(folder / "packed" / "train", steps)}


WAYS: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "bare": run_bare,
    "loop": run_loop,
    "loop, padded": lambda folder, steps: run_loop(folder, steps, "padded"),
}


class LogClock(logging.Handler):
    """CPU time at each line of progress: the loop is measured from outside, as it is."""

    def __init__(self) -> None:
        super().__init__()
        self._times: list[float] = []
        logger = logging.getLogger("neuron_ops.training.loop")
        logger.setLevel(logging.INFO)
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Note the time of a line such as `step 10/50 loss …`."""
        if "tokens/s" in record.getMessage():
            self._times.append(time.process_time())

    def seconds_per_step(self, steps: int) -> float:
        """Seconds per step between the first line, after ten steps, and the last."""
        return (self._times[-1] - self._times[0]) / (steps - WARM_UP)


def make_recipe(steps: int):  # type: ignore[no-untyped-def]
    """The demo's numbers; evaluation and checkpoint only at the end."""
    from neuron_ops.recipe.file import load_recipe

    every = {"training.eval_steps": steps, "training.save_steps": steps, "training.logging_steps": WARM_UP}
    return load_recipe("tiny_llama_cpu", {"training.max_steps": steps, "training.warmup_steps": 0, **every})


def real_tokens(folder: Path, steps: int) -> float:
    """Tokens per step that are not padding, over the measured steps."""
    from neuron_ops.training.batches import Rows, Schedule

    rows, schedule = Rows(folder), Schedule(make_recipe(steps).training.seed, 4, 1, 1, 0)
    batches = [schedule.train(rows, step)[0][0] for step in range(WARM_UP, steps)]
    return sum(int((batch["input_ids"] != 0).sum()) for batch in batches) / len(batches)


def make_input(folder: Path, num_rows: int) -> None:
    """A random model of the demo's shape, and rows with lengths like dolly's, packed and padded."""
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from neuron_ops.rows.datasets_folder import DatasetWriter
    from neuron_ops.rows.packing import build_sequences, plan_packed, plan_unpacked
    from neuron_ops.rows.token_rows import IGNORED, TokenRow

    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 8}
    config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=4, max_position_embeddings=512, **shape)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    chance, rows = random.Random(0), []
    for _ in range(num_rows):
        length = max(8, min(SEQUENCE_LENGTH, round(60 * chance.lognormvariate(0, 0.6))))
        ids = np.array([chance.randrange(1, VOCABULARY) for _ in range(length)], np.int32)
        rows.append(TokenRow(ids, np.where(np.arange(length) < length // 3, IGNORED, ids).astype(np.int32)))
    lengths = [len(row.ids) for row in rows]
    for name, plan in (("packed", plan_packed(lengths, SEQUENCE_LENGTH)), ("padded", plan_unpacked(lengths))):
        for split, chosen in (("train", plan[4:]), ("holdout", plan[:4])):
            with DatasetWriter(folder / name / split, SEQUENCE_LENGTH) as writer:
                sequences = [[rows[at] for at in indices] for indices in chosen]
                writer.write(build_sequences(sequences, SEQUENCE_LENGTH, pad_id=0))


if __name__ == "__main__":
    main()
