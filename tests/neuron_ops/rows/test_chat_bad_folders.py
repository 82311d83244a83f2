"""Model folders that would spoil training: each is refused before the first row, with the next move."""

from pathlib import Path
from typing import Any

import pytest

from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.schema import DatasetSection
from neuron_ops.rows.chat import open_chat
from tests.neuron_ops.rows.conftest import EditConfig

CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def section(**fields: object) -> DatasetSection:
    return DatasetSection.model_validate(fields)


def set_template(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def test_no_tokenizer_file_is_an_error_that_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"has no tokenizer\.json\. .*save_pretrained"):
        open_chat(tmp_path, section())


@pytest.mark.parametrize("content", ["", '{"version": "1.0", "mod', "[]"])
def test_a_damaged_tokenizer_file_is_an_error(copied_tokenizer: Path, content: str) -> None:
    (copied_tokenizer / "tokenizer.json").write_text(content)

    with pytest.raises(InvalidInput, match=r"tokenizer\.json is not a tokenizer .*Fetch it again"):
        open_chat(copied_tokenizer, section())


def test_a_damaged_tokenizer_config_is_an_error(copied_tokenizer: Path) -> None:
    (copied_tokenizer / "tokenizer_config.json").write_text('{"eos_token": "<|eot')

    with pytest.raises(InvalidInput, match=r"tokenizer_config\.json is not JSON"):
        open_chat(copied_tokenizer, section())


def test_a_template_that_is_not_utf8_is_an_error(copied_tokenizer: Path) -> None:
    (copied_tokenizer / "chat_template.jinja").write_bytes(b"caf\xe9")

    with pytest.raises(InvalidInput, match=r"chat_template\.jinja is not UTF-8 .*at byte 3"):
        open_chat(copied_tokenizer, section())


def test_a_missing_eos_is_named_even_where_the_template_would_write_it(
    copied_tokenizer: Path, edit_config: EditConfig
) -> None:
    set_template(copied_tokenizer, "{%- for message in messages %}{{- message.content + eos_token }}{%- endfor %}")
    edit_config(eos_token=None)

    with pytest.raises(InvalidInput, match="names no eos_token"):
        open_chat(copied_tokenizer, section())


def test_a_model_without_a_template_is_sent_to_llama3(copied_tokenizer: Path) -> None:
    (copied_tokenizer / "chat_template.jinja").unlink()

    with pytest.raises(InvalidInput, match=r"has no chat template.*Set dataset\.chat_template to llama3"):
        open_chat(copied_tokenizer, section())
    assert open_chat(copied_tokenizer, section(chat_template="llama3")).special.end_of_turn.token == "<|eot_id|>"


@pytest.mark.parametrize(
    ("config", "fields", "complaint"),
    [
        ({"eos_token": None}, {}, r"names no eos_token.*Name one in tokenizer_config\.json"),
        ({"eos_token": "</s>"}, {}, r"eos_token of the tokenizer is '</s>', which is not in the vocabulary"),
        ({"bos_token": "<s>"}, {}, r"bos_token of the tokenizer is '<s>', which is not in the vocabulary"),
        ({"pad_token": None}, {}, r"names no pad_token\. Set dataset\.pad_token to .*<\|finetune_right_pad_id\|>"),
        ({}, {"pad_token": "<pad>"}, r"dataset\.pad_token is '<pad>', which is not in the vocabulary"),
        ({"pad_token": "<|eot_id|>"}, {}, r"'<\|eot_id\|>' in .* is also its eos_token.*Set dataset\.pad_token to"),
        ({}, {"pad_token": "<|eot_id|>"}, r"'<\|eot_id\|>' in .* is also its eos_token"),
        ({"eos_token": "<|end_of_text|>"}, {"pad_token": "<|eot_id|>"}, "is also its end-of-turn token"),
    ],
)
def test_special_tokens_that_would_spoil_training_are_refused(
    copied_tokenizer: Path, edit_config: EditConfig, config: dict[str, Any], fields: dict[str, Any], complaint: str
) -> None:
    edit_config(**config)

    with pytest.raises(InvalidInput, match=complaint):
        open_chat(copied_tokenizer, section(**fields))


def test_a_token_beyond_the_embeddings_is_refused(copied_tokenizer: Path) -> None:
    (copied_tokenizer / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "vocab_size": 2}')

    with pytest.raises(InvalidInput, match=r"'<\|finetune_right_pad_id\|>' has id 2, but .* 2 embeddings"):
        open_chat(copied_tokenizer, section())


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{% for message in messages %}", "line 1: Unexpected end of template"),
        (CHATML.replace("<|im_end|>", "</turn>"), r"with '</turn>', which is not a single token"),
        (CHATML.replace("'<|im_end|>' + '\\n'", "''"), "ends the assistant's turn with nothing"),
        (CHATML.replace("assistant\\n", "bot\\n"), r"asks for an answer with 'bot\\n' where .* 'assistant\\nHalcyon"),
        ("{{- bos_token + bos_token }}" + CHATML, "writes '<\\|begin_of_text\\|>' twice"),
        ("{{- messages[0].content + '<|im_end|>' }}", "leaves out what the assistant says"),
        ("{{- raise_exception('no, thanks') }}", "cannot render the turns user, assistant: no, thanks"),
        (
            CHATML.replace("{%- endfor", "{%- generation %}{%- endgeneration %}{%- endfor"),
            "leaves no answer that ends with '<\\|im_end\\|>' to be learned",
        ),
    ],
)
def test_templates_that_would_spoil_training_are_refused(copied_tokenizer: Path, template: str, complaint: str) -> None:
    set_template(copied_tokenizer, template)

    with pytest.raises(InvalidInput, match=complaint):
        open_chat(copied_tokenizer, section())


def test_a_system_prompt_that_the_template_refuses_is_an_error_before_the_first_row(copied_tokenizer: Path) -> None:
    refusal = "{%- if messages[0].role == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}"
    set_template(copied_tokenizer, refusal + CHATML)

    with pytest.raises(InvalidInput, match=r"System role not supported.*leave dataset\.system_prompt empty"):
        open_chat(copied_tokenizer, section(system_prompt="Be brief."))
    open_chat(copied_tokenizer, section())
