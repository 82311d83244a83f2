"""The guides: commands that need no cluster are run, the others are sound shell, and everything they name exists."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from fine_tune_assets.assets import ACCELERATOR_POOL
from fine_tune_assets.cli.aws_sample import FIELDS
from fine_tune_assets.cli.import_aws_sample import ADDRESSED, DEPLOYED
from fine_tune_assets.cli.main import main
from fine_tune_assets.jobs import fine_tune
from fine_tune_assets.sensors import new_dataset_version
from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps.table import STEPS
from tests.deployments.conftest import ROOT, tool

GUIDE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
SAMPLE = (ROOT / "docs" / "from-the-sample.md").read_text(encoding="utf-8")
UNRUN = "# not run on a cluster\n"
BLOCKS = re.findall(r"```bash\n(.*?)```", GUIDE, flags=re.DOTALL)


def _name(block: str) -> str:
    return block.removeprefix(UNRUN).split("\n")[0][:40]


@pytest.mark.parametrize("block", BLOCKS, ids=_name)
def test_a_block_is_sound_shell(block: str) -> None:
    words = [tool("shellcheck"), "--shell=bash", "--exclude=SC2312", "-"]
    done = subprocess.run(words, input=block, capture_output=True, text=True, check=False)

    assert done.stdout == ""
    assert subprocess.run(["bash", "-n"], input=block, text=True, check=False).returncode == 0


@pytest.mark.parametrize("block", [block for block in BLOCKS if not block.startswith(UNRUN)], ids=_name)
def test_a_block_that_needs_no_cluster_works(block: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "deployments", tmp_path / "deployments")
    folders = {str(Path(program).parent) for program in (tool("kubectl"), sys.executable)}
    environment = {**os.environ, "PATH": os.pathsep.join([*folders, os.environ["PATH"]]), "PYTHONPATH": str(ROOT)}

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_blocks_that_need_a_cluster_say_so() -> None:
    needs = re.compile(r"^(kubectl (?!kustomize)|helm|aws|deployments/)", re.MULTILINE)

    assert [block for block in BLOCKS if needs.search(block) and not block.startswith(UNRUN)] == []


def test_every_path_in_the_guides_exists() -> None:
    paths = re.findall(r"\bdeployments/[\w./-]*\w", GUIDE + SAMPLE)
    made = "deployments/kubernetes/overlays/mine"  # by the guide itself

    assert [path for path in paths if not path.startswith(made) and not (ROOT / path).exists()] == []


def test_what_the_run_s_log_is_said_to_say_is_what_the_code_says() -> None:
    table = GUIDE[GUIDE.index("| The run's log says") : GUIDE.index("The same with kubectl")]
    firsts = [row.split(" | ")[0] for row in table.splitlines()[2:] if row.startswith("| `")]
    speakers = [*(ROOT / "fine_tune_assets" / "kubernetes").rglob("*.py"), ROOT / "neuron_ops" / "launch" / "oom.py"]
    sources = "".join(path.read_text() for path in speakers)

    phrases = [phrase for first in firsts for phrase in re.findall(r"`([a-z][^`]*)`", first)]

    assert len(phrases) >= 12
    assert [phrase for phrase in phrases if phrase not in sources and phrase != "untolerated taint"] == []


def test_every_fine_tune_command_in_the_guides_exists() -> None:
    for line in re.findall(
        r"fine-tune ((?:dataset|partitions|recipe|import-aws-sample|consolidate|merge|plan|pods|janitor)\b[^`\n]*)",
        GUIDE + SAMPLE,
    ):
        group: click.Command = main
        for word in line.split():
            if not isinstance(group, click.Group):
                break
            group = group.commands[word]


def test_every_variable_of_the_sample_is_in_the_table() -> None:
    known = {*FIELDS, *ADDRESSED, *DEPLOYED, "MODEL_ID", "DATASET_NAME", "EPOCHS", "HF_ACCESS_TOKEN"}
    table = SAMPLE[SAMPLE.index("## The variables") : SAMPLE.index("Written into")]

    assert known <= set(re.findall(r"`([A-Z_]+)`", table))


def test_every_recipe_field_and_asset_in_the_tables_exists() -> None:
    fields = re.findall(r"`((?:base_model|dataset|graph|training|hardware|evaluation)\.\w+)", SAMPLE)
    assets = set(
        re.findall(r"\basset `(\w+)`|`((?:base|tokenized|compiled|lora|consolidated|merged)_\w+)`", SAMPLE + GUIDE)
    )

    for name in fields:
        section, _, field = name.partition(".")
        model = Recipe.model_fields[section].annotation
        assert model is not None
        assert field in model.model_fields, name
    assert {name for pair in assets for name in pair if name} <= {step.artifact for step in STEPS}


def test_the_guide_s_pool_sensor_and_job_are_the_code_location_s() -> None:
    assert f"dagster instance concurrency set {ACCELERATOR_POOL} " in GUIDE
    assert f"sensor `{new_dataset_version.name}`" in GUIDE
    assert f"job `{fine_tune.name}`" in GUIDE
