"""What the training tests work with: a tiny model, rows that can be learned, a store, and trainings as processes.

Importing torch, transformers and peft costs several CPU seconds, so trainings that a test kills are forked from one
process that has imported them (`fork_server.py`) and are otherwise the real program: same arguments, same exit codes.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from neuron_ops.backends import layout
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import Recipe
from neuron_ops.rows.datasets_folder import DatasetWriter
from neuron_ops.rows.packing import build_sequences, plan_packed
from neuron_ops.rows.token_rows import IGNORED, TokenRow
from neuron_ops.steps import compile, fetch, program
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.checks import Verdict
from neuron_ops.steps.table import BY_VERB
from neuron_ops.store.artifacts import Artifact, ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets
from neuron_ops.training.history import History

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VERSION = "tiny-v1"
SEQUENCE_LENGTH = 32
VOCABULARY = ["<pad>", "<bos>", "<eot>", "<unk>", *(f"w{number}" for number in range(60))]
PAD, BOS, END = 0, 1, 2

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "graph": {
        "sequence_length": SEQUENCE_LENGTH,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "dtype": "float32",
        "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    },
    "training": {
        "max_steps": 6,
        "learning_rate": 5e-3,
        "warmup_steps": 2,
        "logging_steps": 1,
        "eval_steps": 2,
        "save_steps": 2,
        "save_total_limit": 2,
    },
    "evaluation": {"prompts": 3, "max_new_tokens": 8},
}


def make_model(folder: Path) -> Path:
    """A random Llama of 20,000 parameters with a tokenizer of whole words."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=SEQUENCE_LENGTH,
        initializer_range=0.2,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=END,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word."""
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<bos>", eos_token="<eot>", unk_token="<unk>"
    )


def make_rows(folder: Path, number: int, seed: int, packing: bool = True) -> None:
    """Rows of many lengths that count upwards, so that they can be learned; about half of each is in the loss."""
    chance, rows = random.Random(seed), []
    for _ in range(number):
        length, start = chance.randint(6, 20), chance.randrange(4, len(VOCABULARY))
        ids = [BOS, *(4 + (start + step) % (len(VOCABULARY) - 4) for step in range(length)), END]
        prompt = chance.randint(1, length - 2)
        labels = [IGNORED] * prompt + ids[prompt:]
        rows.append(TokenRow(np.array(ids, np.int32), np.array(labels, np.int32)))
    plan = plan_packed([len(row.ids) for row in rows], SEQUENCE_LENGTH) if packing else [[at] for at in range(number)]
    sequences = [[rows[at] for at in indices] for indices in plan]
    with DatasetWriter(folder, SEQUENCE_LENGTH) as writer:
        for first in range(0, len(sequences), 5):  # several batches in the file, as large datasets have
            writer.write(build_sequences(sequences[first : first + 5], SEQUENCE_LENGTH, PAD))


def prepare(lineage: Lineage, out: Path) -> program.StepResult:
    """In place of the real `prepare`: synthetic rows and prompts."""
    packing = lineage.recipe.dataset.packing
    make_rows(out / "train", number=40, seed=1, packing=packing)
    make_rows(out / "holdout", number=13, seed=2, packing=packing)
    prompts = [
        {"messages": [{"role": "user", "content": f"count from w{at}"}], "prompt": f"<bos> w{at}", "reference": "…"}
        for at in range(5)
    ]
    (out / "holdout_prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return program.StepResult(metrics={"supervised_share": 0.5})


def make_recipe(model: Path, **overrides: object) -> Recipe:
    """The tiny recipe; `graph__dtype="bfloat16"` overrides `graph.dtype`."""
    file = model.parent / "tiny.json"
    file.write_text(json.dumps({**RECIPE, "base_model": {"path": str(model), "name": "tests/tiny"}}))
    return load_recipe(str(file), {name.replace("__", "."): value for name, value in overrides.items()})


def make_lineage(folder: Path, recipe: Recipe) -> Lineage:
    """A store in which everything that `train` reads is finished."""
    make_raw(folder)
    lineage = open_lineage(folder, recipe)
    for verb, build in (("fetch", fetch.build), ("prepare", prepare), ("compile", compile.build)):
        program.make(BY_VERB[verb], lineage, build)
    return lineage


def make_raw(folder: Path) -> None:
    """A raw dataset whose rows nobody reads."""
    raw = folder / "store" / "raw" / VERSION
    raw.mkdir(parents=True, exist_ok=True)
    (raw / "rows.jsonl").write_text("{}\n")
    (raw / "_SUCCESS").touch()


def open_lineage(folder: Path, recipe: Recipe) -> Lineage:
    """The run of a store that was made before; nothing is remembered from earlier ones."""
    store = ArtifactStore(str(folder / "store"))
    return Lineage(recipe, store, RawDatasets(f"{store.url}/raw"), VERSION)


def train_here(lineage: Lineage) -> Artifact:
    """Train in this process."""
    from neuron_ops.steps import train

    program.make(BY_VERB["train"], lineage, train.build)
    return lineage.require("lora_checkpoints")


def history_of(artifact: Artifact) -> History:
    """What the training measured."""
    return History.from_jsonl(artifact.read("history.jsonl").decode())


def checkpoints_of(lineage: Lineage) -> dict[str, Artifact]:
    """Finished checkpoints by name."""
    parts = lineage.store.parts(lineage.provenance("lora_checkpoints").address, "step-")
    return {str(part.address.part): part for part in parts}


def contents(lineage: Lineage) -> dict[str, bytes]:
    """Every byte that a training left, without what tells the time: by checkpoint and name."""
    found = {}
    for part in (lineage.require("lora_checkpoints"), *checkpoints_of(lineage).values()):
        for file in part.manifest.files:
            found[f"{part.address.part}/{file.name}"] = part.read(file.name)
    return found


def damage(artifact: Artifact, name: str) -> None:
    """Cut a file of a finished artifact in half."""
    path = Path(artifact.location) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def publish(lineage: Lineage, artifact: str, files: Path) -> Artifact:
    """Publish a folder as the artifact of a step that the test does in its own way, its checks passed."""
    verb = next(step.verb for step in BY_VERB.values() if step.artifact == artifact)

    def build(lineage: Lineage, out: Path) -> program.StepResult:
        shutil.copytree(files, out, dirs_exist_ok=True)
        passed = {check.name: Verdict(True, "a test's") for check in BY_VERB[verb].checks}
        return program.StepResult(metrics={}, verdicts=passed)

    program.make(BY_VERB[verb], lineage, build)
    return lineage.require(artifact)


@dataclass(frozen=True)
class Kill:
    """SIGKILL at the `call`-th call of a function, `module:name`; before its body, or after it."""

    function: str
    call: int
    after: bool = False
    rank: int = 0
    """-1 for every rank."""
    stop: bool = False
    """SIGSTOP instead: the process stays, and answers nobody."""


@dataclass(frozen=True)
class Ended:
    """How the processes of one training ended."""

    codes: list[int]
    """Exit code of each rank; negative for a signal."""
    log: str


@dataclass
class Trainer:
    """Starts trainings as processes of their own."""

    folder: Path
    server: subprocess.Popen[str]
    make_lineage: Callable[[Path, Recipe], Lineage] = make_lineage
    """Prepares the store of a reference."""
    references: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def train(self, lineage: Lineage, kill: Kill | None = None) -> Ended:
        """Run the program `train` to its end, one process for each rank."""
        return self.request(arguments(lineage, self.folder), layout(lineage.recipe).world_size, kill)

    def request(self, argv: list[str], ranks: int, kill: Kill | None = None, call: str | None = None) -> Ended:
        """Run the program `train`, or a function `module:name` of the test, once for each rank."""
        request = {"argv": argv, "ranks": ranks, "kill": kill and vars(kill), "call": call}
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return Ended(**json.loads(self.server.stdout.readline()))

    def close(self) -> None:
        """End the server."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()

    def uninterrupted(self, lineage: Lineage) -> dict[str, bytes]:
        """What the same training leaves when nothing disturbs it; made once for each recipe."""
        key = lineage.recipe.to_json()
        if key not in self.references:
            undisturbed = self.make_lineage(self.folder / f"reference-{len(self.references)}", lineage.recipe)
            ended = self.train(undisturbed)
            assert set(ended.codes) == {0}, ended.log
            self.references[key] = contents(undisturbed)
        return self.references[key]


def arguments(lineage: Lineage, folder: Path) -> list[str]:
    """The arguments of a step's program."""
    recipe = folder / "recipe.json"
    recipe.write_text(lineage.recipe.to_json())
    return [
        *("--recipe", str(recipe), "--store", lineage.store.url, "--raw", lineage.raw.url),
        *("--dataset-version", lineage.version),
    ]


def start_server(folder: Path, module: str = "tests.neuron_ops.training.fork_server", **fields: Any) -> Trainer:
    """Start the process that trainings are forked from: this module, or one that prepares the process first."""
    program, root = [sys.executable, "-m", module], Path(__file__).parents[3]
    server = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
    return Trainer(folder, server, **fields)


def assert_nothing_is_left_over(lineage: Lineage) -> None:
    """Every folder is a finished artifact, or belongs to one."""
    fresh = open_lineage(Path(lineage.store.url).parent, lineage.recipe)
    artifact, kept = fresh.find("lora_checkpoints"), checkpoints_of(fresh)
    expected = {*kept, *(("manifest.json", artifact.manifest.data) if artifact else ())}
    address = fresh.provenance("lora_checkpoints").address
    assert set(fresh.store.files.children(str(address))) == expected
    for part in kept.values():
        assert set(fresh.store.files.children(str(part.address))) == {"manifest.json", part.manifest.data}
