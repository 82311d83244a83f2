"""Recipes: strict, documented, overridable; every mistake is named with the next move. And the layout they derive."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuron_ops.backends import layout
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.file import RECIPES, load_recipe, parse_overrides, parse_value, shipped_recipes
from neuron_ops.recipe.json_schema import recipe_schema
from neuron_ops.recipe.schema import Recipe, package_path

TINY = """
name: mine
base_model: {path: package:demo/model, name: me/tiny}
training: {max_steps: 10}
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str | bytes, name: str = "mine.yaml") -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def trainium(**hardware: object) -> Recipe:
    return load_recipe("llama3_8b_lora_trn1", {f"hardware.{name}": value for name, value in hardware.items()})


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_loads_under_its_own_name_and_works_out(name: str) -> None:
    recipe = load_recipe(name)

    assert recipe.name == name
    assert layout(recipe).world_size >= 1


def test_the_demo_and_the_trainium_recipe_are_shipped() -> None:
    assert {"tiny_llama_cpu", "llama3_8b_lora_trn1"} <= set(shipped_recipes())


def test_the_trainium_recipe_has_the_numbers_it_promises() -> None:
    recipe = load_recipe("llama3_8b_lora_trn1")

    assert recipe.base_model.repository == "meta-llama/Llama-3.1-8B"
    assert recipe.dataset.format == "dolly"
    assert recipe.graph.sequence_length == 1024
    assert recipe.graph.dtype == "bfloat16"
    assert recipe.graph.gradient_accumulation_steps == 3
    lora = recipe.graph.lora
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, lora.target_modules) == (16, 16.0, 0.05, ("q_proj", "v_proj"))
    training = recipe.training
    assert (training.learning_rate, training.warmup_steps, training.weight_decay) == (2e-5, 100, 0.01)
    assert (training.max_steps, training.save_steps) == (1200, 400)


def test_the_trainium_recipe_leaves_no_core_idle() -> None:
    found = layout(load_recipe("llama3_8b_lora_trn1"))

    assert (found.processes_per_node, found.world_size) == (32, 32)
    assert (found.tensor_parallel_size, found.data_parallel_size, found.pipeline_parallel_size) == (8, 4, 1)


@pytest.mark.parametrize(
    ("instance_type", "processes"),
    [
        ("trn1.2xlarge", 2),
        ("trn1.32xlarge", 32),
        ("ml.trn1.32xlarge", 32),
        ("trn1n.32xlarge", 32),
        ("trn2.48xlarge", 64),
    ],
)
def test_the_instance_type_alone_decides_the_processes(instance_type: str, processes: int) -> None:
    found = layout(trainium(instance_type=instance_type, tensor_parallel_size=2))

    assert found.processes_per_node == processes
    assert found.data_parallel_size == processes // 2


@pytest.mark.parametrize(
    ("hardware", "words"),
    [
        ({"tensor_parallel_size": 3}, ["tensor_parallel_size is 3", "32 cores", "divisor of 32"]),
        ({"tensor_parallel_size": 64, "nodes": 2}, ["tensor_parallel_size is 64", "must fit in one instance"]),
        ({"tensor_parallel_size": 8, "pipeline_parallel_size": 2}, ["pipeline_parallel_size is 2", "Set it to 1"]),
        ({"processes": 8}, ["hardware.processes is 8", "32 cores", "Remove the field"]),
        ({"instance_type": "trn1.2xlarge", "tensor_parallel_size": 2, "nodes": 2}, ["nodes is 2", "no Elastic Fabric"]),
        ({"instance_type": None}, ["instance_type is None", "trn1.32xlarge"]),
        ({"instance_type": "p5.48xlarge"}, ["'p5.48xlarge'", "trn1.32xlarge"]),
        (
            {"backend": "cpu", "instance_type": None},
            ["data-parallel only", "tensor_parallel_size is 8", "Set both to 1"],
        ),
        ({"backend": "cpu", "tensor_parallel_size": 1}, ["only backend neuron", "Remove it"]),
    ],
)
def test_hardware_that_does_not_work_out_is_refused_with_the_numbers(
    hardware: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        layout(trainium(**hardware))

    assert [word for word in words if word not in str(caught.value)] == []


def test_cpu_processes_are_all_data_parallel() -> None:
    found = layout(load_recipe("tiny_llama_cpu", {"hardware.processes": 2}))

    assert (found.processes_per_node, found.data_parallel_size) == (2, 2)


def test_nodes_multiply_the_processes_and_change_nothing_else() -> None:
    alone = layout(load_recipe("tiny_llama_cpu", {"hardware.processes": 4}))

    shared = layout(load_recipe("tiny_llama_cpu", {"hardware.processes": 2, "hardware.nodes": 2}))

    assert (shared.world_size, shared.processes_per_node) == (4, 2)
    assert shared.as_json() == alone.as_json(), "the same training at the same address"


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
        ("evaluation: {prompts: true}", ["evaluation.prompts: should be a valid integer (got True)"]),
        ("evaluation: {prompts: 0}", ["evaluation.prompts: should be greater than or equal to 1 (got 0)"]),
        ("evaluation: {prompts: 010}", ["(got '010')"]),
        ("evaluation: {prompts: 1:30}", ["(got '1:30')"]),
        ("evaluation: {prompts: 1_0}", ["(got '1_0')"]),
        ("evaluation: {prompts: 2026-11-01}", ["(got '2026-11-01')"]),
        ("evaluation: {min_improvement: .nan}", ["evaluation.min_improvement: should be a valid number"]),
        ("evaluation: {min_improvement: 1e999}", ["evaluation.min_improvement: should be a finite number"]),
        ("dataset: {packing: 1}", ["dataset.packing: should be a valid boolean (got 1)"]),
        ("dataset: {format: sharegpt}", ["dataset.format: should be 'dolly' (got 'sharegpt')"]),
        ("dataset:", ["dataset: should be an object (got None)"]),
        ("graph: {lora: {target_modules: q_proj}}", ["graph.lora.target_modules: should be a valid array"]),
        (
            "graph: {lora: {target_modules: [q_proj, query]}}",
            ["must be one or more", "down_proj (got ['q_proj', 'query'])"],
        ),
        ("graph: {lora: {target_modules: []}}", ["must be one or more"]),
        ("graph: {lora: {target_modules: [q_proj, q_proj]}}", ["each once"]),
        ("graph: {sequence_length: 100}", ["graph.sequence_length: should be a multiple of 8 (got 100)"]),
        ("hardware: {backend: tpu}", ["'cpu', 'cuda' or 'neuron'", "got 'tpu'"]),
    ],
)
def test_a_wrong_field_is_named_with_what_would_be_right(write: Any, line: str, words: list[str]) -> None:
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
def test_a_base_model_has_one_source_that_cannot_change(write: Any, section: str, words: str) -> None:
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
def test_fields_that_contradict_each_other_are_named_together(write: Any, training: dict[str, int], words: str) -> None:
    overrides = {f"training.{name}": value for name, value in training.items()}

    with pytest.raises(InvalidInput) as caught:
        load_recipe(write(TINY), overrides)

    assert words in str(caught.value)


@pytest.mark.parametrize("field", ["training.seed", "training.max_steps"])
def test_numbers_that_nothing_below_could_hold_are_refused(write: Any, field: str) -> None:
    """A generator takes no such seed, and the names of checkpoints have six digits."""
    with pytest.raises(InvalidInput, match=rf"{field}: should be less than"):
        load_recipe(write(TINY), {field: 10**20})


@pytest.mark.parametrize("repository", ["x y", "a/b/c", "https://huggingface.co/a/b", "a/-b", "a--b", "a/b.git", ""])
def test_a_repository_that_the_hub_cannot_have_is_refused(write: Any, repository: str) -> None:
    revision = "0" * 40
    with pytest.raises(InvalidInput, match=r"base_model.repository: must be the id of a Hugging Face repository"):
        load_recipe(write(TINY), {"base_model": {"repository": repository, "revision": revision}})


def test_every_mistake_is_told_at_once(write: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_recipe(write("name: No Spaces\nbase_model: {path: /m, name: x}\ntraining: {seed: -1, step: 1}"))

    assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        "name",
        "training.seed",
        "training.step",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be a mapping of sections, but is a NoneType"),
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
def test_a_file_that_is_no_recipe_says_why(write: Any, text: str | bytes, words: str) -> None:
    path = write(text)

    with pytest.raises(InvalidInput) as caught:
        load_recipe(path)

    assert path in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "is not valid JSON"), ('{"name": "a", "name": "b"}', "key 'name' is given twice"), ("[]", "is a list")],
)
def test_a_json_file_that_is_no_recipe_says_why(write: Any, text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        load_recipe(write(text, "mine.json"))


def test_a_missing_file_and_an_unknown_name_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        load_recipe(str(tmp_path / "nope.yaml"))
    with pytest.raises(InvalidInput, match=r"did you mean 'tiny_llama_cpu'.*Shipped: .*must end in \.yaml"):
        load_recipe("tiny_lama_cpu")
    with pytest.raises(InvalidInput, match=r"There is no recipe .\.\./recipes/tiny_llama_cpu"):
        load_recipe("../recipes/tiny_llama_cpu")


def test_a_file_in_utf8_with_a_byte_order_mark_loads(write: Any) -> None:
    assert load_recipe(write(b"\xef\xbb\xbf" + TINY.encode())).name == "mine"


@pytest.mark.parametrize("text", ["2e-5", "2E-5", "2.0e-5", "0.00002", ".00002", "2e-05", "+2e-5", ".2e-4"])
def test_every_way_to_write_a_number_is_that_number(write: Any, text: str) -> None:
    recipe = load_recipe(write(TINY.replace("max_steps: 10", f"max_steps: 10, learning_rate: {text}")))

    assert recipe.training.learning_rate == 2e-5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20", 20),
        ("-1", -1),
        ("1e-4", 1e-4),
        ("1.", 1.0),
        ("true", True),
        ("null", None),
        ("", None),
        ("<|pad|>", "<|pad|>"),
        ("[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("2026-11-01", "2026-11-01"),
        ("0120", "0120"),
        ("1:30", "1:30"),
    ],
)
def test_an_override_is_read_as_the_yaml_of_a_recipe(text: str, value: object) -> None:
    found = parse_value(text)

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["[", "{{x}}", "a: b: c", "!!python/none x"])
def test_an_override_that_is_no_yaml_is_shown(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a YAML value"):
        parse_value(text)


def test_overrides_are_pairs() -> None:
    assert parse_overrides(["training.max_steps=20", "dataset.system_prompt=a=b"]) == {
        "training.max_steps": 20,
        "dataset.system_prompt": "a=b",
    }
    with pytest.raises(InvalidInput, match=r"'training\.max_steps' has no '='"):
        parse_overrides(["training.max_steps"])


def test_overrides_reach_any_depth_and_sections_that_the_file_left_out(write: Any) -> None:
    recipe = load_recipe(
        write(TINY),
        {"training.max_steps": 20, "graph.lora.r": 4, "graph.lora.target_modules": ["o_proj"], "name": "other"},
    )

    assert recipe.training.max_steps == 20
    assert recipe.graph.lora.r == 4
    assert recipe.graph.lora.target_modules == ("o_proj",)
    assert recipe.name == "other"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("training.lerning_rate", 1.0, "did you mean 'learning_rate'"),
        ("training.max_steps", "20", r"training\.max_steps: should be a valid integer \(got '20'\)"),
        ("training.learning_rate", float("inf"), "should be a finite number"),
        ("training.max_steps.x", 1, "'max_steps' is a value, not a section"),
        ("graph", 1, "graph: should be an object"),
        ("no.such.thing", 1, "no: unknown field"),
        ("", 1, "unknown field"),
        ("training.seed", object(), "not JSON serializable"),
    ],
)
def test_a_wrong_override_is_named(write: Any, key: str, value: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        load_recipe(write(TINY), {key: value})


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_survives_its_way_to_a_step(write: Any, name: str) -> None:
    recipe = load_recipe(name)

    again = load_recipe(write(recipe.to_json(), "recipe.json"))

    assert again == recipe


@pytest.mark.parametrize(
    "prompt", ["line\u2028separator", "next\x85line", "del\x7f", 'tab\tquote"\\', "😀 größe", "\n"]
)
def test_no_character_of_a_prompt_changes_on_the_way_to_a_step(write: Any, prompt: str) -> None:
    """Read as YAML, a line separator became a space, so the step looked for its inputs at other addresses."""
    recipe = load_recipe("tiny_llama_cpu", {"dataset.system_prompt": prompt})

    again = load_recipe(write(recipe.to_json(), "recipe.json"))

    assert again.dataset.system_prompt == prompt


def test_a_recipe_cannot_be_changed_after_it_was_checked() -> None:
    recipe = load_recipe("tiny_llama_cpu")

    with pytest.raises(ValueError, match="frozen"):
        recipe.training.max_steps = 5


def test_every_field_says_what_it_means() -> None:
    schema = recipe_schema()

    for section in (schema, *schema["$defs"].values()):
        silent = [name for name, field in section["properties"].items() if not field.get("description")]
        assert silent == [], section["title"]


def test_editors_get_a_schema_with_meanings_and_limits() -> None:
    schema = json.loads(json.dumps(recipe_schema()))

    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"name", "base_model", "training"}
    training = schema["$defs"]["TrainingSection"]
    assert training["additionalProperties"] is False
    assert training["properties"]["learning_rate"]["exclusiveMinimum"] == 0.0
    assert "Peak learning rate" in training["properties"]["learning_rate"]["description"]


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_plain_yaml_to_any_other_reader(name: str) -> None:
    path = package_path(f"package:recipe/shipped/{name}.yaml")
    assert path is not None

    data = yaml.safe_load(path.read_text())

    assert data["name"] == name


def test_only_a_package_path_is_looked_up_in_the_package() -> None:
    assert package_path("/some/folder") is None
    assert package_path("s3://bucket/model") is None
    assert package_path("package:recipe") == Path(package_path.__code__.co_filename).parent
