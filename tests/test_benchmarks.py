"""The benchmarks still run: figures in the README have a command behind them, and a command that fails has none."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import postgres

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

# Those that need seconds with the smallest input; the others make a graph or a tokenizer first.
SMALLEST = {
    "merge": (("--shapes", "tiny", "--runs", "1"), "merge and verify"),
    "consolidate": (("--shapes", "tiny", "--runs", "1"), "tiny, 8 ranks, adapter"),
    "train": (("--steps", "12", "--runs", "1", "--rows", "400"), "loop / bare, CPU per step: median"),
    "cluster_storm": (("--runs", "2"), "0 runs failed, 0 steps lost, 0 run twice"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_runs_to_its_end(name: str, tmp_path: Path) -> None:
    options, figure = SMALLEST[name]
    if name == "cluster_storm" and postgres.programs() is None:
        pytest.skip("NO POSTGRESQL: many runs at once were not tested. Install Debian's: apt-get install postgresql")

    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), *options],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )

    assert done.returncode == 0, done.stderr
    assert figure in done.stdout


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_the_page_of_figures_names_every_benchmark(path: Path) -> None:
    is_program = "__main__" in path.read_text(encoding="utf-8")

    page = (BENCHMARKS.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert is_program == (f"`benchmarks/{path.name}`" in page)
