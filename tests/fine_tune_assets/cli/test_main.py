"""`fine-tune …`: each command does one thing, and each mistake ends in one line with nothing changed."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from dagster import AssetKey

from fine_tune_assets.partitions import PARTITIONS_NAME
from neuron_ops.recipe.file import load_recipe
from neuron_ops.steps.table import RAW_DATASET
from tests.fine_tune_assets.conftest import Project, Typed, assert_refused

MALFORMED = ["../x", "-v1"]


def registered(project: Project) -> list[str]:
    with project.instance() as instance:
        return sorted(instance.get_dynamic_partitions(PARTITIONS_NAME))


# --- partitions


def test_a_landed_version_is_registered_with_the_event_of_its_delivery(project: Project, typed: Typed) -> None:
    project.deliver("v1")

    result = typed("partitions", "add", "v1")

    assert (result.exit_code, result.stdout) == (0, "added v1\n")
    assert registered(project) == ["v1"]
    with project.instance() as instance:
        event = instance.get_latest_materialization_event(AssetKey(RAW_DATASET))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.partition == "v1"


def test_registered_versions_are_listed_one_a_line(project: Project, typed: Typed) -> None:
    for version in ("v2", "v1"):
        project.deliver(version)
    typed("partitions", "add", "v2", "v1")

    assert typed("partitions", "list").stdout == "v1\nv2\n"


def test_nothing_registered_is_an_empty_list(typed: Typed) -> None:
    result = typed("partitions", "list")

    assert (result.exit_code, result.output) == (0, "")


def test_a_removed_version_is_forgotten_and_its_rows_stay(project: Project, typed: Typed) -> None:
    project.deliver("v1")
    typed("partitions", "add", "v1")

    result = typed("partitions", "remove", "v1")

    assert (result.exit_code, result.stdout) == (0, "removed v1\n")
    assert registered(project) == []
    assert project.raw.has_landed("v1")


def test_a_version_that_has_not_landed_is_not_registered_and_neither_are_those_beside_it(
    project: Project, typed: Typed
) -> None:
    project.deliver("v1")

    assert_refused(typed("partitions", "add", "v1", "v2"), 3, "'v2' has not landed", "fine-tune dataset add")
    assert registered(project) == []


def test_a_version_that_is_registered_already_is_refused_and_nothing_is_added(project: Project, typed: Typed) -> None:
    for version in ("v1", "v2"):
        project.deliver(version)
    typed("partitions", "add", "v1")

    assert_refused(typed("partitions", "add", "v2", "v1"), 2, "'v1' is registered already", "Nothing was added")
    assert registered(project) == ["v1"]


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("words", [("partitions", "add"), ("dataset", "add"), ("plan",), ("report",)])
def test_a_malformed_name_is_refused_everywhere(
    project: Project, typed: Typed, words: tuple[str, ...], name: str
) -> None:
    folder = (str(project.root),) if words[0] == "dataset" else ()
    (project.root / "rows.jsonl").touch()

    assert_refused(typed(*words, "--", name, *folder), 2, f"{name!r} cannot name a dataset version", "such as dolly-")
    assert registered(project) == []
    assert not (project.root / "raw").exists()


def test_removing_an_unknown_version_removes_nothing_and_shows_the_known_ones(project: Project, typed: Typed) -> None:
    project.deliver("v1")
    typed("partitions", "add", "v1")

    assert_refused(typed("partitions", "remove", "v1", "v9"), 2, "'v9' is not registered", "Registered: v1.")
    assert registered(project) == ["v1"]


@pytest.mark.parametrize(
    ("words", "home", "says"),
    [
        (("add", "v1"), "", "DAGSTER_HOME is not set"),
        (("remove", "v1"), "", "DAGSTER_HOME is not set"),
        (("list",), "", "DAGSTER_HOME is not set"),
        (("list",), "relative/home", "an absolute path"),
        (("list",), "FILE", "cannot be used as a folder"),
    ],
)
def test_partitions_need_a_home_that_lasts(
    project: Project, typed: Typed, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], home: str, says: str
) -> None:
    project.deliver("v1")
    (project.root / "file").touch()
    monkeypatch.setenv("DAGSTER_HOME", home.replace("FILE", str(project.root / "file")))
    monkeypatch.chdir(project.root)

    assert_refused(typed("partitions", *words), 2, says)
    assert not (project.root / "relative").exists()


def test_a_new_home_is_made_on_first_use(project: Project, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(project.root / "new" / "home"))

    assert typed("partitions", "list").exit_code == 0
    assert (project.root / "new" / "home" / "dagster.yaml").is_file()


@pytest.mark.slow
def test_a_dagster_home_that_is_mounted_is_left_as_it_is(project: Project) -> None:
    config = project.home / "dagster.yaml"
    os.utime(config, (1, 1))

    assert project.command("fine-tune", "partitions", "list").returncode == 0
    assert config.stat().st_mtime == 1  # in a pod the file is read-only


# --- datasets


def test_a_delivered_folder_lands_with_its_marker(project: Project, typed: Typed) -> None:
    (project.root / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    (project.root / "notes.txt").touch()

    result = typed("dataset", "add", "v1", str(project.root))

    assert (result.exit_code, result.stdout) == (0, f"v1 landed in {project.settings.raw}/v1\n")
    assert sorted(path.name for path in (project.root / "raw" / "v1").iterdir()) == ["_SUCCESS", "rows.jsonl"]


def test_the_datasets_of_the_package_can_be_delivered_by_name(project: Project, typed: Typed) -> None:
    result = typed("dataset", "add", "demo-v1", "package:demo/raw/demo-v1")

    assert result.exit_code == 0
    assert project.raw.has_landed("demo-v1")


def test_landed_datasets_are_listed_and_unfinished_deliveries_are_not(project: Project, typed: Typed) -> None:
    for version in ("v2", "v1", "v3"):
        project.deliver(version)
    (project.root / "raw" / "v3" / "_SUCCESS").unlink()

    assert typed("dataset", "list").stdout == "v1\nv2\n"


def test_a_version_never_changes(project: Project, typed: Typed) -> None:
    project.deliver("v1")
    before = project.raw.digest("v1")
    (project.root / "rows.jsonl").write_text("{}\n", encoding="utf-8")

    assert_refused(typed("dataset", "add", "v1", str(project.root)), 2, "'v1' is already in", "never changes")
    assert project.raw.digest("v1") == before


@pytest.mark.parametrize(
    ("folder", "says"), [("nowhere", "is not a folder"), (".", "holds no .jsonl or .parquet file")]
)
def test_a_folder_without_rows_is_refused(
    project: Project, typed: Typed, monkeypatch: pytest.MonkeyPatch, folder: str, says: str
) -> None:
    monkeypatch.chdir(project.root)

    assert_refused(typed("dataset", "add", "v1", folder), 2, says)
    assert not (project.root / "raw").exists()


# --- recipes


def test_shipped_recipes_are_listed_by_name(typed: Typed) -> None:
    assert typed("recipe", "list").stdout.split() == ["llama3_8b_lora_trn1", "tiny_llama_cpu"]


def test_a_recipe_is_shown_with_every_default_and_the_overrides_and_can_be_read_back(
    project: Project, typed: Typed
) -> None:
    result = typed("recipe", "show", "--set", "training.max_steps=7", "--set", "training.warmup_steps=1")
    (project.root / "shown.yaml").write_text(result.stdout, encoding="utf-8")

    assert result.exit_code == 0
    overrides = {"training.max_steps": 7, "training.warmup_steps": 1}
    assert load_recipe(str(project.root / "shown.yaml")) == load_recipe("tiny_llama_cpu", overrides)
    assert yaml.safe_load(result.stdout)["training"]["adam_beta2"] == 0.999


def test_the_schema_documents_every_field(typed: Typed) -> None:
    schema = json.loads(typed("recipe", "schema").stdout)

    sections = [schema, *schema["$defs"].values()]
    fields = [field for section in sections for field in section.get("properties", {}).items()]
    assert len(fields) > 40
    assert [name for name, field in fields if not field.get("description")] == []


SHOW = ("recipe", "show")


@pytest.mark.parametrize(
    ("words", "options", "says"),
    [
        (SHOW, ("--recipe", "tiny_lama_cpu"), "did you mean 'tiny_llama_cpu'?"),
        (SHOW, ("--recipe", "nowhere.yaml"), "'nowhere.yaml' does not exist"),
        (SHOW, ("--set", "training.max_steps"), "has no '='"),
        (SHOW, ("--set", "training.max_step=5"), "did you mean 'max_steps'?"),
        (SHOW, ("--set", "training.max_steps=many"), "training.max_steps"),
        (SHOW, ("--set", "training.max_steps=[1"), "is not a YAML value"),
        (SHOW, ("--set", "training.max_steps.more=1"), "is a value, not a section"),
        (("plan", "v1"), ("--recipe", "tiny_lama_cpu"), "did you mean 'tiny_llama_cpu'?"),
        (("plan", "v1"), ("--set", "training.max_step=5"), "did you mean 'max_steps'?"),
    ],
)
def test_a_recipe_or_an_override_that_cannot_work_is_refused(
    project: Project, typed: Typed, words: tuple[str, ...], options: tuple[str, ...], says: str
) -> None:
    project.deliver("v1")

    assert_refused(typed(*words, *options), 2, says)


# --- reports


@pytest.mark.parametrize("command", ["plan", "report"])
def test_a_version_that_has_not_landed_has_neither_plan_nor_report(typed: Typed, command: str) -> None:
    assert_refused(typed(command, "v1"), 3, "'v1' has not landed", "fine-tune dataset add")


def test_a_report_before_the_evaluation_says_what_to_materialize(project: Project, typed: Typed) -> None:
    project.deliver("v1")

    assert_refused(typed("report", "v1"), 3, "was never finished", "dagster asset materialize -m fine_tune_assets")


# --- the command itself


def test_help_answers_without_importing_dagster_or_torch() -> None:
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom fine_tune_assets.cli.main import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "print([name for name in ('dagster', 'torch', 's3fs') if name in sys.modules])"
    )

    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


def test_the_installed_command_ends_with_the_errors_exit_code(project: Project) -> None:
    done = project.command("fine-tune", "plan", "../x")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: '../x' cannot name a dataset version")
    assert done.stderr.count("\n") == 1
