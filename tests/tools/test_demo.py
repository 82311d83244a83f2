"""What the demo ships is what its generators make, and is what the rest of the platform takes it for."""

import json
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from neuron_ops.recipe.schema import package_path
from tools.demo.instructions import VERSIONS, Version, rows
from tools.demo.world import documents

PACKAGE = Path(str(package_path("package:demo")))
MODEL = PACKAGE / "model"
RAW = PACKAGE / "raw"
TEMPLATE = Path(__file__).parents[2] / "tools" / "demo" / "chat_template.jinja"
UNSEEN_SEED = 31_415

QUESTION = {"role": "user", "content": "What does a cow eat?"}
ANSWER = {"role": "assistant", "content": "A cow eats grass."}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_seed_always_tells_the_same_stories() -> None:
    assert list(islice(documents(7), 50)) == list(islice(documents(7), 50))


def test_two_seeds_tell_different_stories() -> None:
    assert set(islice(documents(7), 50)).isdisjoint(islice(documents(8), 50))


def test_no_task_is_set_twice_in_or_between_the_versions() -> None:
    tasks = [row.task for version in VERSIONS for row in rows(version)]

    assert len(set(tasks)) == len(tasks) == sum(version.num_rows for version in VERSIONS)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_the_shipped_rows_are_the_generated_ones(version: Version) -> None:
    shipped = (RAW / version.name / "rows.jsonl").read_text().splitlines()

    assert [json.loads(line) for line in shipped] == [row.as_dict() for row in rows(version)]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_a_shipped_dataset_says_that_it_is_complete(version: Version) -> None:
    assert (RAW / version.name / "_SUCCESS").read_bytes() == b""


def test_rows_have_dollys_columns() -> None:
    row = rows(VERSIONS[0])[0].as_dict()

    assert list(row) == ["instruction", "context", "response", "category"]


def test_all_that_ships_stays_small() -> None:
    shipped = [file for folder in (MODEL, RAW) for file in folder.rglob("*") if file.is_file()]

    assert sum(file.stat().st_size for file in shipped) < 10_000_000


def test_the_model_folder_is_complete() -> None:
    names = {file.name for file in MODEL.iterdir()}

    assert names == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize("text", ["A cow eats grass.", ' "Häuser", 12345 + 日本?\n\n\tyes  ', "<b>no</b> markup"])
def test_the_tokenizer_gives_back_any_text(tokenizer: Any, text: str) -> None:
    tokens = tokenizer.encode(text, add_special_tokens=False)

    assert tokenizer.decode(tokens) == text


def test_the_tokenizer_begins_every_text_with_bos(tokenizer: Any) -> None:
    assert tokenizer.encode("A cow")[0] == tokenizer.bos_token_id
    assert tokenizer.encode("A cow").count(tokenizer.bos_token_id) == 1


def test_the_tokenizer_marks_begin_end_and_padding_differently(tokenizer: Any) -> None:
    named = [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token]

    assert named == ["<|begin_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>"]
    assert len(tokenizer) == json.loads((MODEL / "config.json").read_text())["vocab_size"] == 2048


def test_the_shipped_chat_template_is_the_generators_own(tokenizer: Any) -> None:
    assert tokenizer.chat_template == TEMPLATE.read_text()


def test_the_assistant_mask_covers_the_answer_and_its_end_of_turn_only(tokenizer: Any) -> None:
    rendered = tokenizer.apply_chat_template([QUESTION, ANSWER], return_dict=True, return_assistant_tokens_mask=True)

    pairs = zip(rendered["input_ids"], rendered["assistant_masks"], strict=True)
    assert tokenizer.decode([token for token, answers in pairs if answers]) == "A cow eats grass.<|eot_id|>"


def test_every_answer_of_a_long_chat_is_masked_in(tokenizer: Any) -> None:
    chat = [{"role": "system", "content": "Be kind."}, QUESTION, ANSWER, QUESTION, ANSWER]

    rendered = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)

    answer = tokenizer.encode("A cow eats grass.<|eot_id|>", add_special_tokens=False)
    assert sum(rendered["assistant_masks"]) == 2 * len(answer)


def test_a_prompt_is_a_chat_up_to_its_answer(tokenizer: Any) -> None:
    prompt = tokenizer.apply_chat_template([QUESTION], tokenize=False, add_generation_prompt=True)
    chat = tokenizer.apply_chat_template([QUESTION, ANSWER], tokenize=False)

    assert chat == f"{prompt}A cow eats grass.<|eot_id|>"
    assert chat.startswith("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat")


def test_rows_are_short_once_rendered(tokenizer: Any) -> None:
    chats = [
        [
            {"role": "user", "content": f"{row.instruction}\n\n{row.context}"},
            {"role": "assistant", "content": row.response},
        ]
        for row in rows(VERSIONS[0])[:500]
    ]

    assert max(len(tokenizer.apply_chat_template(chat)) for chat in chats) < 180


def test_generation_stops_at_the_end_of_a_text_and_of_a_turn(tokenizer: Any) -> None:
    ends = tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eot_id|>"])

    assert json.loads((MODEL / "generation_config.json").read_text())["eos_token_id"] == ends


@pytest.mark.usefixtures("one_thread")
def test_the_shipped_model_has_read_the_world(tokenizer: Any) -> None:
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
    tokens = [token for text in islice(documents(UNSEEN_SEED), 8) for token in tokenizer.encode(text)]

    with torch.no_grad():
        loss = model(input_ids=torch.tensor([tokens[:512]]), labels=torch.tensor([tokens[:512]])).loss

    # Knowing nothing costs log(2048) = 7.6 nats a token.
    assert float(loss) < math.log(2048) / 4
