"""Reading a recipe: by name, from a file or given itself; strict, and the same again on its way to a step."""

from pathlib import Path

import pytest

from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.file import RECIPES, load_recipe, shipped_recipes
from tests.neuron_ops.recipe.conftest import TINY, Write


def test_a_recipe_may_be_given_itself_where_there_is_no_file() -> None:
    recipe = load_recipe("llama3_8b_lora_trn1", {"hardware.nodes": 2})

    assert load_recipe(recipe.model_dump_json()) == recipe
    assert load_recipe(recipe.to_json(), {"hardware.nodes": 4}).hardware.nodes == 4


def test_a_recipe_of_several_lines_is_the_recipe_itself() -> None:
    text = (RECIPES / "tiny_llama_cpu.yaml").read_text(encoding="utf-8")

    assert load_recipe(text) == load_recipe("tiny_llama_cpu")
    with pytest.raises(InvalidInput, match=r"(?s)^Recipe given as text:.*trainign: unknown field"):
        load_recipe(text.replace("training:", "trainign:"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"name": "x"', "Recipe given as text is not valid JSON"),
        ('{"name": "x"}', "Recipe given as text"),
        ('{"name": "x", "name": "y"}', "key 'name' is given twice"),
    ],
)
def test_a_recipe_given_itself_is_as_strict_as_a_file(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        load_recipe(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be a mapping of sections, but is empty."),
        ("# only a comment", "must be a mapping of sections, but is empty."),
        ("training", "must be a mapping of sections, but is text."),
        ("12", "must be a mapping of sections, but is a number."),
        ("true", "must be a mapping of sections, but is true."),
        ("- a\n- b", "must be a mapping of sections, but is a list"),
        ("name: mine\nname: yours", "key 'name' is given twice"),
        (TINY + "graph: {lora: {r: 8, r: 16}}", "key 'r' is given twice"),
        ("name: {{ name }}", "a key must be a word"),
        ("[a, b]: c", "a key must be a word"),
        ("1: x", "a key must be a word"),
        ("name: [", "is not valid YAML"),
        ("a: 1\n\tb: 2", "is not valid YAML"),
        ("a: 1\n---\nb: 2", "is not valid YAML"),
        ("name: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("name: !!binary aGVsbG8=", "bytes is not JSON serializable"),
        ("name: &a [*a]", "Circular reference"),
        ("name: " + "9" * 5000, "is not valid YAML"),
        ("name: \x00", "is not valid YAML"),
        (b"name: gr\xf6\xdfe", "is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_recipe_says_why(write: Write, text: str | bytes, words: str) -> None:
    path = write(text)

    with pytest.raises(InvalidInput) as caught:
        load_recipe(path)

    assert path in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: b\nbase_model\ntraining: {}", "line 3, column 1: could not find expected ':'."),
        ("a: 1\n\tb: 2", "line 2, column 1: found character '\\t' that cannot start any token."),
        ("name: x\nname: y", "line 2, column 1: key 'name' is given twice."),
        ("name: \x00", "special characters are not allowed (U+0000 at character 7)."),
    ],
)
def test_an_error_of_syntax_names_the_place_and_the_problem_only(write: Write, text: str, words: str) -> None:
    """The parser's own message ends in `in "<unicode string>", line 2, column 1: name: b ^`."""
    path = write(text)

    with pytest.raises(InvalidInput) as caught:
        load_recipe(path)

    assert str(caught.value) == f"Recipe {path} is not valid YAML: {words}"


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "is not valid JSON"), ('{"name": "a", "name": "b"}', "key 'name' is given twice"), ("[]", "is a list")],
)
def test_a_json_file_that_is_no_recipe_says_why(write: Write, text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        load_recipe(write(text, "mine.json"))


def test_a_missing_file_and_an_unknown_name_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        load_recipe(str(tmp_path / "nope.yaml"))
    with pytest.raises(InvalidInput, match=r"did you mean 'tiny_llama_cpu'.*Shipped: .*must end in \.yaml"):
        load_recipe("tiny_lama_cpu")
    with pytest.raises(InvalidInput, match=r"There is no recipe .\.\./recipes/tiny_llama_cpu"):
        load_recipe("../recipes/tiny_llama_cpu")


def test_a_file_in_utf8_with_a_byte_order_mark_loads(write: Write) -> None:
    assert load_recipe(write(b"\xef\xbb\xbf" + TINY.encode())).name == "mine"


@pytest.mark.parametrize("text", ["2e-5", "2E-5", "2.0e-5", "0.00002", ".00002", "2e-05", "+2e-5", ".2e-4"])
def test_every_way_to_write_a_number_is_that_number(write: Write, text: str) -> None:
    recipe = load_recipe(write(TINY.replace("max_steps: 10", f"max_steps: 10, learning_rate: {text}")))

    assert recipe.training.learning_rate == 2e-5


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_survives_its_way_to_a_step(write: Write, name: str) -> None:
    recipe = load_recipe(name)

    again = load_recipe(write(recipe.to_json(), "recipe.json"))

    assert again == recipe


@pytest.mark.parametrize(
    "prompt", ["line\u2028separator", "next\x85line", "del\x7f", 'tab\tquote"\\', "😀 größe", "\n"]
)
def test_no_character_of_a_prompt_changes_on_the_way_to_a_step(write: Write, prompt: str) -> None:
    """Read as YAML, a line separator became a space, so the step looked for its inputs at other addresses."""
    recipe = load_recipe("tiny_llama_cpu", {"dataset.system_prompt": prompt})

    again = load_recipe(write(recipe.to_json(), "recipe.json"))

    assert again.dataset.system_prompt == prompt
