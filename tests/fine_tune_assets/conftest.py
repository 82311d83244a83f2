"""A project of a test's own: rows, store and Dagster home below a temporary folder, and the commands people type.

Its dataset is the first rows of the demo's, so that the whole graph costs seconds.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pytest
from click.testing import CliRunner, Result
from dagster import AssetKey, DagsterInstance, Definitions, ExecuteInProcessResult

from fine_tune_assets.cli.main import main
from fine_tune_assets.definitions import build_definitions
from fine_tune_assets.partitions import PARTITIONS_NAME
from fine_tune_assets.sensors import delivery
from fine_tune_assets.settings import Settings
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import package_path
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.artifacts import ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets

ROOT = Path(__file__).parents[2]
RECIPE = "tiny_llama_cpu"

# Everything small enough for a test of the graph, and a rate high enough to improve on the base in these few steps.
FEW_STEPS: dict[str, Any] = {
    "dataset.holdout_fraction": 0.1,
    "graph.sequence_length": 128,
    "graph.micro_batch_size": 2,
    "training.max_steps": 6,
    "training.warmup_steps": 1,
    "training.learning_rate": 0.005,
    "training.logging_steps": 2,
    "training.eval_steps": 2,
    "training.save_steps": 2,
    "evaluation.prompts": 1,
    "evaluation.max_new_tokens": 4,
}

# Dagster warns about calls inside Dagster; no code of ours can avoid them.
DAGSTERS_OWN_WARNINGS = ("ignore:AssetExecutionContext.run_id is deprecated:DeprecationWarning",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Silence those warnings for the tests of this folder, and nothing else."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for warning in DAGSTERS_OWN_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@dataclass(frozen=True, slots=True)
class Project:
    """Where one test keeps everything."""

    root: Path
    overrides: dict[str, Any] = field(default_factory=lambda: dict(FEW_STEPS))
    recipe: str = RECIPE

    @property
    def settings(self) -> Settings:
        """What the environment below says."""
        return Settings(self.recipe, str(self.root / "store"), str(self.root / "raw"), str(self.home))

    @property
    def home(self) -> Path:
        """DAGSTER_HOME."""
        return self.root / "dagster"

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment with the project's places."""
        return {
            **os.environ,
            "DAGSTER_HOME": str(self.home),
            "FINE_TUNE_RECIPE": self.recipe,
            "FINE_TUNE_STORE": self.settings.store,
            "FINE_TUNE_RAW": self.settings.raw,
        }

    @property
    def raw(self) -> RawDatasets:
        """What has landed."""
        return RawDatasets(self.settings.raw)

    @property
    def definitions(self) -> Definitions:
        """The code location, as the environment makes it."""
        return build_definitions(self.settings)

    def deliver(self, version: str, first: int = 0, rows: int = 120) -> None:
        """Let a dataset version land."""
        folder = self.root / f"delivery-{version}"
        folder.mkdir()
        with Path(str(package_path("package:demo/raw/demo-v1")), "rows.jsonl").open(encoding="utf-8") as lines:
            (folder / "rows.jsonl").write_text("".join(islice(lines, first, first + rows)), encoding="utf-8")
        self.raw.land(version, folder)

    def lineage(self, version: str | None) -> Lineage:
        """The addresses of everything made with this project's overrides."""
        return Lineage(load_recipe(self.recipe, self.overrides), ArtifactStore(self.settings.store), self.raw, version)

    def instance(self) -> DagsterInstance:
        """The instance of the Dagster home."""
        return DagsterInstance.from_config(str(self.home))

    def register(self, version: str) -> None:
        """What `fine-tune partitions add` and the sensor do with a version that has landed."""
        with self.instance() as instance:
            instance.add_dynamic_partitions(PARTITIONS_NAME, [version])
            instance.report_runless_asset_event(delivery(self.raw, version, self.raw.digest(version)))

    def materialize(self, version: str, *assets: str, **overrides: object) -> ExecuteInProcessResult:
        """Materialize assets (none: all) in this process; `training__max_steps=3` overrides training.max_steps."""
        changed = {name.replace("__", "."): value for name, value in overrides.items()}
        with self.instance() as instance:
            return self.definitions.resolve_job_def("fine_tune").execute_in_process(
                run_config=run_config({**self.overrides, **changed}),
                instance=instance,
                partition_key=version,
                asset_selection=[AssetKey(asset) for asset in assets] or None,
                raise_on_error=False,
            )

    def start(self, *words: str, output: int | IO[str] = subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
        """Start a command of this Python's environment (dagster, dg, fine-tune) where a person would start it."""
        return subprocess.Popen(
            [Path(sys.executable).with_name(words[0]), *words[1:]],
            cwd=ROOT,
            env={**self.environment, **environment},
            stdout=output,
            stderr=output,
            text=True,
        )

    def command(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run such a command to its end."""
        with self.start(*words, output=subprocess.PIPE, **environment) as process:
            stdout, stderr = process.communicate()
            return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)

    def materialize_words(self, version: str, selection: str) -> tuple[str, ...]:
        """What a person types to materialize assets with this project's overrides."""
        return (
            *("dagster", "asset", "materialize", "-m", "fine_tune_assets.definitions"),
            *("--select", selection, "--partition", version),
            *("--config-json", json.dumps(run_config(self.overrides))),
        )


def run_config(overrides: dict[str, Any]) -> dict[str, Any]:
    """Recipe overrides as the launchpad and --config-json take them."""
    return {"resources": {"fine_tuning": {"config": {"overrides": overrides}}}}


@pytest.fixture(scope="session")
def dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty Dagster home with its databases made, which takes longer than most tests; copied, never used."""
    home = tmp_path_factory.mktemp("dagster-home")
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    with DagsterInstance.from_config(str(home)) as instance:
        instance.get_dynamic_partitions(PARTITIONS_NAME)
        instance.get_runs()
        instance.all_instigator_state()
    return home


@pytest.fixture
def project(tmp_path: Path, dagster_home: Path) -> Project:
    """An empty project whose Dagster home exists."""
    project = Project(tmp_path)
    shutil.copytree(dagster_home, project.home)
    return project


Typed = Callable[..., Result]


@pytest.fixture
def typed(project: Project, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Type a `fine-tune` command in the project's environment."""
    for name in ("DAGSTER_HOME", "FINE_TUNE_RECIPE", "FINE_TUNE_STORE", "FINE_TUNE_RAW"):
        monkeypatch.setenv(name, project.environment[name])
    return lambda *words: CliRunner().invoke(main, words)


def assert_refused(result: Result, exit_code: int, *says: str) -> None:
    """One message of ours, on stderr, and no traceback."""
    assert result.exit_code == exit_code, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("Error: ") == 1
    for text in says:
        assert text in result.stderr
