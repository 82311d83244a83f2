"""Conversations as token rows: the text, the ids and the learned tokens."""

import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.schema import DatasetSection
from neuron_ops.rows.chat import Chat, open_chat
from neuron_ops.rows.chat_template import ChatTemplate
from neuron_ops.rows.conversation import Conversation, Message
from neuron_ops.rows.token_rows import IGNORED, TokenRow
from tests.neuron_ops.rows.conftest import EditConfig

CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
TEXTS = [
    "Nobody paints three apples.",
    "  spaces around \n",
    "naïve café, 東京, 👩‍👩‍👧 and \u200bzero width",
    "```python\nprint('{{ messages }}')\n```\n\n\n{% endgeneration %}",
    "\n\nstarts with lines",
    "x" * 3000,
]


def conversation(answer: str = "A grey cat.", question: str = "Who mends the bridge?") -> Conversation:
    return Conversation("rows.jsonl:1", (Message("user", question), Message("assistant", answer)))


def section(**fields: object) -> DatasetSection:
    return DatasetSection.model_validate(fields)


def learned(chat: Chat, row: TokenRow) -> str:
    """What the loss counts, as text."""
    ids = row.ids[row.labels != IGNORED].tolist()
    return str(chat.tokenizer.decode(ids, skip_special_tokens=False))


def set_template(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def test_llama3_layout_is_rendered_to_the_letter(tokenizer_folder: Path) -> None:
    chat = open_chat(tokenizer_folder, section(chat_template="llama3", system_prompt="Be brief."))

    [row] = chat.encode([conversation()])

    assert chat.tokenizer.decode(row.ids.tolist(), skip_special_tokens=False) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWho mends the bridge?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA grey cat.<|eot_id|>"
    )
    assert learned(chat, row) == "A grey cat.<|eot_id|>"
    assert chat.prompt(conversation()).endswith("bridge?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")


def test_every_row_begins_once_and_the_end_of_turn_is_learned_once(tokenizer_folder: Path) -> None:
    chat = open_chat(tokenizer_folder, section())

    rows = chat.encode([conversation(answer=text) for text in TEXTS])

    assert chat.special.bos is not None
    for row in rows:
        assert row.ids.tolist().count(chat.special.bos.id) == 1
        assert row.labels.tolist().count(chat.special.end_of_turn.id) == 1
        assert row.labels[-1] == chat.special.end_of_turn.id
        assert 0 < row.num_supervised < len(row.ids)


@pytest.mark.parametrize("system", ["", "Be brief."])
def test_ids_and_learned_tokens_equal_those_of_transformers(tokenizer_folder: Path, system: str) -> None:
    from transformers import AutoTokenizer

    chat = open_chat(tokenizer_folder, section(system_prompt=system))
    reference = AutoTokenizer.from_pretrained(tokenizer_folder)
    conversations = [conversation(answer, question) for answer in TEXTS for question in TEXTS]

    rows = chat.encode(conversations)

    for row, turns in zip(rows, conversations, strict=True):
        messages = [{"role": turn.role, "content": turn.content} for turn in (*chat.system, *turns.messages)]
        expected = reference.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        assert row.ids.tolist() == expected["input_ids"]
        assert (row.labels != IGNORED).astype(int).tolist() == expected["assistant_masks"]
        assert chat.prompt(turns) == reference.apply_chat_template(
            messages[:-1], tokenize=False, add_generation_prompt=True
        )


def test_a_template_without_generation_markers_teaches_the_same_tokens(copied_tokenizer: Path) -> None:
    marked = open_chat(copied_tokenizer, section())
    template = marked.template.source.replace("{%- generation %}", "").replace("{%- endgeneration %}", "")
    set_template(copied_tokenizer, template)
    unmarked = open_chat(copied_tokenizer, section())
    conversations = [conversation(answer=text) for text in TEXTS]

    assert not unmarked.template.marks_answers
    for one, other in zip(marked.encode(conversations), unmarked.encode(conversations), strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.labels.tolist() == other.labels.tolist()


def test_what_follows_the_end_of_turn_is_not_learned(copied_tokenizer: Path, edit_config: EditConfig) -> None:
    edit_config(eos_token="<|im_end|>")
    set_template(copied_tokenizer, CHATML)
    chat = open_chat(copied_tokenizer, section())

    [row] = chat.encode([conversation()])

    assert chat.special.end_of_turn.token == "<|im_end|>"
    assert learned(chat, row) == "A grey cat.<|im_end|>"
    assert chat.tokenizer.decode(row.ids[-1:].tolist()) == "\n"


def test_every_answer_of_a_longer_conversation_is_learned(copied_tokenizer: Path) -> None:
    set_template(copied_tokenizer, CHATML)
    turns = [
        Message("user", "One?"),
        Message("assistant", "Two."),
        Message("user", "And?"),
        Message("assistant", "No."),
    ]
    chat = open_chat(copied_tokenizer, section())

    [row] = chat.encode([Conversation("rows.jsonl:1", tuple(turns))])

    assert learned(chat, row) == "Two.<|im_end|>No.<|im_end|>"


def test_markers_that_close_before_the_end_of_turn_are_extended_over_it(copied_tokenizer: Path) -> None:
    set_template(
        copied_tokenizer,
        "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
        "{%- if message.role == 'assistant' %}{%- generation %}{{- message.content }}{%- endgeneration %}"
        "{%- else %}{{- message.content }}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}",
    )
    chat = open_chat(copied_tokenizer, section())

    assert learned(chat, chat.encode([conversation()])[0]) == "A grey cat.<|im_end|>"


def test_the_older_ways_to_publish_tokens_and_templates_are_read(
    copied_tokenizer: Path, edit_config: EditConfig
) -> None:
    template = (copied_tokenizer / "chat_template.jinja").read_text(encoding="utf-8")
    (copied_tokenizer / "chat_template.jinja").unlink()
    templates = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": template}]
    edit_config(chat_template=templates, bos_token=None, eos_token={"content": "<|eot_id|>", "__type": "AddedToken"})
    (copied_tokenizer / "special_tokens_map.json").write_text('{"bos_token": {"content": "<|begin_of_text|>"}}')

    chat = open_chat(copied_tokenizer, section())

    assert chat.template.source == template
    assert chat.special.bos is not None
    assert (chat.special.bos.token, chat.special.eos.token) == ("<|begin_of_text|>", "<|eot_id|>")


def test_a_truncation_left_in_the_tokenizer_cuts_no_row(copied_tokenizer: Path) -> None:
    file = str(copied_tokenizer / "tokenizer.json")
    tokenizer = Tokenizer.from_file(file)
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    tokenizer.save(file)
    chat = open_chat(copied_tokenizer, section())

    rows = chat.encode([conversation("No."), conversation("x" * 500)])

    assert len(rows[1].ids) > 100
    assert chat.special.pad.id not in rows[0].ids


@pytest.mark.parametrize("text", ["Yes.<|eot_id|>", "<|start_header_id|>system", "a<|finetune_right_pad_id|>b"])
def test_a_special_token_spelled_out_in_a_text_is_found(tokenizer_folder: Path, text: str) -> None:
    chat = open_chat(tokenizer_folder, section())

    for spelled_out in (conversation(answer=text), conversation(question=text)):
        found = chat.forged_token(spelled_out)
        assert found is not None
        assert found in text
    assert chat.forged_token(conversation(answer="<|eot|> <b>")) is None


def test_a_template_that_asks_for_the_date_gets_its_fixed_one_or_is_refused() -> None:
    guarded = "{{- strftime_now('%d') if strftime_now is defined else '26 Jul 2024' }}"

    assert ChatTemplate(guarded, "t", {}).render([]) == "26 Jul 2024"
    with pytest.raises(InvalidInput, match="'strftime_now' is undefined"):
        ChatTemplate("{{- strftime_now('%d') }}", "t", {}).render([])


def test_a_template_can_reach_nothing_outside_its_sandbox() -> None:
    template = ChatTemplate("{{ messages.__class__.__mro__[1].__subclasses__() }}", "t", {})

    with pytest.raises(InvalidInput, match="unsafe"):
        template.render([])


def test_preparing_imports_neither_torch_nor_transformers_nor_datasets(tokenizer_folder: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "import neuron_ops.rows.preparation as p\n"
        "from neuron_ops.recipe.schema import DatasetSection\n"
        f"p.open_chat(pathlib.Path({str(tokenizer_folder)!r}), DatasetSection())\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'pandas'} & set(sys.modules)))"
    )

    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert output.strip() == "[]"


def test_a_recipe_may_name_the_pad_token_that_the_tokenizer_lacks(
    copied_tokenizer: Path, edit_config: EditConfig
) -> None:
    edit_config(pad_token=None)

    chat = open_chat(copied_tokenizer, section(pad_token="<|end_of_text|>"))

    assert chat.special.pad.token == "<|end_of_text|>"
