"""A small real tokenizer in Llama 3's layout, trained on the spot, and raw rows to feed it.

Tests that need a broken tokenizer copy this one and break the copy.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from neuron_ops.recipe.schema import DatasetSection
from neuron_ops.rows.chat import LLAMA3_TEMPLATE
from neuron_ops.rows.preparation import prepare_dataset
from neuron_ops.rows.report import PrepareReport

NAMED_TOKENS = {
    "bos_token": "<|begin_of_text|>",
    "eos_token": "<|eot_id|>",
    "pad_token": "<|finetune_right_pad_id|>",
}
OTHER_TOKENS = ["<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"]
SUBJECTS = ["The river", "A grey cat", "My sister", "The old clock", "Nobody", "The baker", "Every storm"]
VERBS = ["crosses", "remembers", "paints", "forgets", "follows", "counts", "mends"]
OBJECTS = ["the bridge", "a long story", "three apples", "the quiet town", "an answer", "the red boat"]

Row = dict[str, Any]
WriteRows = Callable[..., Path]
EditConfig = Callable[..., None]
Prepare = Callable[..., tuple[PrepareReport, Path]]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder's tokenizer files; read only."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[*NAMED_TOKENS.values(), *OTHER_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    # As Llama 3's: whoever tokenizes a rendered chat with its special tokens added gets two of these.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **NAMED_TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(LLAMA3_TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


@pytest.fixture
def copied_tokenizer(tokenizer_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(tokenizer_folder, tmp_path / "copied_tokenizer"))


@pytest.fixture
def edit_config(copied_tokenizer: Path) -> EditConfig:
    """Set fields of the copy's tokenizer_config.json; None removes one."""

    def edit(**fields: object) -> None:
        file = copied_tokenizer / "tokenizer_config.json"
        config = {**json.loads(file.read_text(encoding="utf-8")), **fields}
        file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}), encoding="utf-8")

    return edit


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """An empty folder for raw rows."""
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


@pytest.fixture
def write_rows(raw: Path) -> WriteRows:
    """Write rows (objects, or lines as they are) to a file of `raw`."""

    def write(rows: list[Row | str], name: str = "rows.jsonl") -> Path:
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        (raw / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return raw

    return write


@pytest.fixture
def prepare(tokenizer_folder: Path, tmp_path: Path) -> Prepare:
    """Prepare a raw folder and give back the report and the folder; the recipe's fields may be changed."""

    def run(raw: Path, out: str = "out", length: int = 160, **fields: object) -> tuple[PrepareReport, Path]:
        section = DatasetSection.model_validate({"holdout_fraction": 0.1, **fields})
        return prepare_dataset(raw, tokenizer_folder, section, length, tmp_path / out), tmp_path / out

    return run


@pytest.fixture(scope="session")
def dolly_rows() -> list[Row]:
    """294 different rows in dolly's columns, every third with a context; none has 160 tokens."""
    return [
        {
            "instruction": f"What {verb} {thing}, {subject.lower()} or somebody else?",
            "context": f"{subject} {verb} {thing}." * (1 + number % 4) if number % 3 == 0 else "",
            "response": f"{subject} {verb} {thing}." + " Always." * (number % 7),
            "category": "open_qa",
        }
        for number, (subject, verb, thing) in enumerate(_combinations())
    ]


def _combinations() -> list[tuple[str, str, str]]:
    return [(subject, verb, thing) for subject in SUBJECTS for verb in VERBS for thing in OBJECTS]


def _sentences() -> list[str]:
    return [f"{subject} {verb} {thing}. What {verb} {thing}?" for subject, verb, thing in _combinations()]
