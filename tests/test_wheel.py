"""The wheel holds all that the package needs: it makes the demo's first assets where there is no checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PACKAGES = ("fine_tune_assets", "neuron_ops")

Run = Callable[..., str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves folders of its own beside what it builds."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture
def run(wheel: Path, tmp_path: Path) -> Run:
    """Run Python where the wheel is installed and the checkout is not on the path; what it said."""
    installed, home = tmp_path / "installed", tmp_path / "dagster"
    _pip("install", "--no-deps", "--no-index", "--target", installed, wheel)
    home.mkdir()
    places = {"DAGSTER_HOME": home, "FINE_TUNE_STORE": tmp_path / "store", "FINE_TUNE_RAW": tmp_path / "raw"}
    unset = {name: value for name, value in os.environ.items() if not name.startswith("FINE_TUNE_")}
    environment = {**unset, "PYTHONPATH": str(installed), **{name: str(path) for name, path in places.items()}}

    def run(*words: str) -> str:
        command = [sys.executable, *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    files = {path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    needed = {path.as_posix() for path in files if "__pycache__" not in path.parts}

    packed = set(zipfile.ZipFile(wheel).namelist())

    assert needed - packed == set()
    assert {f"{package}/py.typed" for package in PACKAGES} <= packed


def test_the_installed_package_makes_the_demo_s_model_and_rows(run: Run, tmp_path: Path) -> None:
    places = "import neuron_ops, fine_tune_assets; print(neuron_ops.__file__, fine_tune_assets.__file__)"
    assert all(path.startswith(str(tmp_path / "installed")) for path in run("-c", places).split())
    fine_tune = ("-m", "fine_tune_assets.cli.main")

    assert "tiny_llama_cpu" in run(*fine_tune, "recipe", "list").split()
    run(*fine_tune, "dataset", "add", "demo-v1", "package:demo/raw/demo-v1")
    run(*fine_tune, "partitions", "add", "demo-v1")
    run(
        *("-m", "dagster", "asset", "materialize", "-m", "fine_tune_assets.definitions"),
        *("--select", "base_model,tokenized_dataset", "--partition", "demo-v1"),
    )

    made = {path.parts[-4] for path in (tmp_path / "store" / "tokenized_dataset").rglob("manifest.json")}
    assert made == {"tokenized_dataset"}
    assert list((tmp_path / "store" / "base_model").rglob("model.safetensors"))


def _pip(*words: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
