"""What a recipe may say: every mistake is named with what would be right."""

import pytest

from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.first_defaults import field_values
from tests.neuron_ops.recipe.conftest import TINY, Write


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "trainng: {max_steps: 1}",
            ["trainng: unknown field; did you mean 'training'?", "Known here: name, base_model"],
        ),
        ("graph: {sequence_lenght: 256}", ["graph.sequence_lenght: unknown field; did you mean 'sequence_length'?"]),
        (
            "graph: {lora: {lora_dropuot: 0.1}}",
            ["graph.lora.lora_dropuot: unknown field; did you mean 'lora_dropout'?"],
        ),
        (
            "graph: {lora: {zzz: 0.1}}",
            ["graph.lora.zzz: unknown field. Known here: r, lora_alpha, lora_dropout, target_modules"],
        ),
        ("evaluation: {prompts: '4'}", ["evaluation.prompts: should be a valid integer (got '4')"]),
        ("evaluation: {prompts: 4.0}", ["evaluation.prompts: should be a valid integer (got 4.0)"]),
        ("evaluation: {prompts: true}", ["evaluation.prompts: should be a valid integer (got true)"]),
        ("evaluation: {prompts: 0}", ["evaluation.prompts: should be greater than or equal to 1 (got 0)"]),
        ("evaluation: {prompts: 010}", ["(got '010')"]),
        ("evaluation: {prompts: 1:30}", ["(got '1:30')"]),
        ("evaluation: {prompts: 1_0}", ["(got '1_0')"]),
        ("evaluation: {prompts: 2026-11-01}", ["(got '2026-11-01')"]),
        ("evaluation: {min_improvement: .nan}", ["evaluation.min_improvement: should be a valid number"]),
        ("evaluation: {min_improvement: 1e999}", ["evaluation.min_improvement: should be a finite number"]),
        ("dataset: {packing: 1}", ["dataset.packing: should be a valid boolean (got 1)"]),
        ("dataset: {format: sharegpt}", ["dataset.format: should be 'dolly' (got 'sharegpt')"]),
        ("dataset:", ["dataset: should be a section (got null)"]),
        ("graph: {lora: {target_modules: q_proj}}", ["graph.lora.target_modules: should be a list (got 'q_proj')"]),
        (
            "graph: {lora: {target_modules: [q_proj, query]}}",
            ["must name one or more", "down_proj (got ['q_proj', 'query'])"],
        ),
        ("graph: {lora: {target_modules: []}}", ["must name one or more"]),
        ("graph: {lora: {target_modules: [q_proj, q_proj]}}", ["each once"]),
        (
            "evaluation: {prompts: [4, null, true]}",
            ["evaluation.prompts: should be a valid integer (got [4, null, true])"],
        ),
        (
            "training.max_steps: 10",
            ["training.max_steps: a file nests its sections; write 'training:' with 'max_steps:'"],
        ),
        ("graph.lora.r: 8", ["write 'graph:' with 'lora:' beneath it, with 'r:' beneath it."]),
        ("graph: {lora.r: 8}", ["graph.lora.r: a file nests its sections; write 'lora:' with 'r:' beneath it."]),
        ("elsewhere.r: 8", ["elsewhere.r: unknown field."]),
        ("graph: {sequence_length: 100}", ["graph.sequence_length: should be a multiple of 8 (got 100)"]),
        ("hardware: {backend: tpu}", ["'cpu', 'cuda' or 'neuron'", "got 'tpu'"]),
    ],
)
def test_a_wrong_field_is_named_with_what_would_be_right(write: Write, line: str, words: list[str]) -> None:
    path = write(TINY + line)

    with pytest.raises(InvalidInput) as caught:
        load_recipe(path)

    assert path in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("{repository: me/model, revision: main}", "must be a full commit id"),
        ("{repository: me/model}", "repository needs revision"),
        ("{path: /model}", "path needs name"),
        ("{name: x}", "give either repository (with revision) or path (with name)"),
        ("{repository: me/model, revision: " + "a" * 40 + ", path: /model, name: x}", "give either"),
    ],
)
def test_a_base_model_has_one_source_that_cannot_change(write: Write, section: str, words: str) -> None:
    path = write(f"name: mine\nbase_model: {section}\ntraining: {{max_steps: 10}}")

    with pytest.raises(InvalidInput) as caught:
        load_recipe(path)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"save_steps": 30, "eval_steps": 20}, "save_steps (30) must be a multiple of eval_steps"),
        ({"warmup_steps": 10}, "warmup_steps (10) must be below max_steps (10)"),
    ],
)
def test_fields_that_contradict_each_other_are_named_together(
    write: Write, training: dict[str, int], words: str
) -> None:
    overrides = {f"training.{name}": value for name, value in training.items()}

    with pytest.raises(InvalidInput) as caught:
        load_recipe(write(TINY), overrides)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_train_epochs": 2.0}, "training: max_steps and num_train_epochs are both given; set one of them to null"),
        ({"max_steps": None}, "training: neither max_steps nor num_train_epochs is given; give one of them"),
    ],
)
def test_two_lengths_of_a_training_and_none_are_told_apart(
    write: Write, changes: dict[str, object], words: str
) -> None:
    """`--set training.num_train_epochs=2` on a recipe with steps was answered "give either", which had been done."""
    with pytest.raises(InvalidInput) as caught:
        load_recipe(write(TINY), {f"training.{name}": value for name, value in changes.items()})

    assert words in str(caught.value)


def test_the_override_that_the_error_names_gives_epochs_to_a_recipe_with_steps(write: Write) -> None:
    recipe = load_recipe(write(TINY), {"training.num_train_epochs": 2.0, "training.max_steps": None})

    assert (recipe.training.num_train_epochs, recipe.training.max_steps) == (2.0, None)


@pytest.mark.parametrize("field", ["training.seed", "training.max_steps"])
def test_numbers_that_nothing_below_could_hold_are_refused(write: Write, field: str) -> None:
    """A generator takes no such seed, and the names of checkpoints have six digits."""
    with pytest.raises(InvalidInput, match=rf"{field}: should be less than"):
        load_recipe(write(TINY), {field: 10**20})


@pytest.mark.parametrize("repository", ["x y", "a/b/c", "https://huggingface.co/a/b", "a/-b", "a--b", "a/b.git", ""])
def test_a_repository_that_the_hub_cannot_have_is_refused(write: Write, repository: str) -> None:
    revision = "0" * 40
    with pytest.raises(InvalidInput, match=r"base_model.repository: must be the id of a Hugging Face repository"):
        load_recipe(write(TINY), {"base_model": {"repository": repository, "revision": revision}})


def test_every_mistake_is_told_at_once(write: Write) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_recipe(write("name: No Spaces\nbase_model: {path: /m, name: x}\ntraining: {seed: -1, step: 1}"))

    assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        "name",
        "training.seed",
        "training.step",
    ]


def test_a_recipe_cannot_be_changed_after_it_was_checked() -> None:
    recipe = load_recipe("tiny_llama_cpu")

    with pytest.raises(ValueError, match="frozen"):
        recipe.training.max_steps = 5


def test_the_order_in_which_a_recipe_names_the_targets_moves_no_address() -> None:
    one, other, some = (
        load_recipe("tiny_llama_cpu", {"graph.lora.target_modules": modules})
        for modules in (["q_proj", "v_proj"], ["v_proj", "q_proj"], ["down_proj", "o_proj", "q_proj"])
    )

    assert one == other
    assert field_values(other, ("graph.lora.target_modules",)) == {}  # it is the first default too
    assert some.graph.lora.target_modules == ("q_proj", "o_proj", "down_proj")
