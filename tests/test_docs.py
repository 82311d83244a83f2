"""What the documents say must be so: commands exist, targets exist, the schema is the recipe's."""

import json
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fine_tune_assets.cli.main import main
from neuron_ops.recipe.json_schema import recipe_schema

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _commands(program: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return sorted({line.split(" #")[0].strip() for line in lines if line.startswith(f"{program} ")})


def test_the_published_schema_is_the_recipe_s() -> None:
    published = json.loads((ROOT / "docs" / "recipe.schema.json").read_text())

    assert published == recipe_schema(), "run: fine-tune recipe schema > docs/recipe.schema.json"


@pytest.mark.parametrize("command", _commands("fine-tune"))
def test_every_fine_tune_command_in_the_readme_exists(command: str) -> None:
    words = shlex.split(command.split(">")[0])[1:]
    group: click.Command = main
    for word in list(words):
        if not isinstance(group, click.Group):
            break
        assert word in group.commands, f"{command!r}: there is no {word!r}"
        group, words = group.commands[word], words[1:]

    assert group.make_context("fine-tune", words, resilient_parsing=False)
    assert CliRunner().invoke(group, ["--help"]).exit_code == 0


@pytest.mark.parametrize("command", _commands("make"))
def test_every_make_target_in_the_readme_exists(command: str) -> None:
    target = command.split()[1]

    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_every_path_in_the_documents_exists() -> None:
    pages = ("README.md", "CONTRIBUTING.md", "docs/architecture.md")
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in pages)
    paths = re.findall(r"`((?:neuron_ops|fine_tune_assets|docs|tests|benchmarks|tools)/[\w./]*)`", text)

    # NAME and VERB stand for what a contributor adds.
    written = [path for path in paths if "NAME" not in path and "VERB" not in path]
    assert [path for path in written if not (ROOT / path).exists()] == []
    assert paths
