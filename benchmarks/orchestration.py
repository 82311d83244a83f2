"""What this project adds to Dagster's own cost: `python benchmarks/orchestration.py`.

Two pairs, each run in turn as separate processes: loading the code location against `import dagster` with empty
definitions, and materializing the finished graph once more against a chain of as many assets that do nothing. It prints
CPU seconds (user + system, children included), their ratio or their difference per asset, as medians over the runs.
The finished graph is made first if it is not there (about a minute).
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

VERSION = "demo-v1"
NUM_ASSETS = 7

EMPTY = "import dagster; dagster.Definitions()"
OURS = "import fine_tune_assets.definitions"

CHAIN = f"""
import dagster as dg

partitions = dg.DynamicPartitionsDefinition(name="dataset_version")

def link(index):
    @dg.asset(name=f"asset_{{index}}", deps=[f"asset_{{index - 1}}"] if index else [], partitions_def=partitions)
    def nothing():
        return dg.MaterializeResult(metadata={{"index": index}})
    return nothing

defs = dg.Definitions(assets=[link(index) for index in range({NUM_ASSETS})], executor=dg.in_process_executor)
"""


def main() -> None:
    """Measure both pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as scratch:
        load(runs)
        rematerialize(runs, Path(scratch))


def load(runs: int) -> None:
    """The code location against Dagster alone; the goal is a ratio of at most 1.15."""
    floor, ours = paired(runs, lambda: cpu([sys.executable, "-c", EMPTY]), lambda: cpu([sys.executable, "-c", OURS]))
    print(f"load: dagster alone {floor:.2f} CPU s, code location {ours:.2f}, ratio {ours / floor:.3f} ({runs} runs)")


def rematerialize(runs: int, scratch: Path) -> None:
    """The finished graph against a chain that does nothing; the goal is at most 0.2 s per asset."""
    environment = prepare(scratch)
    chain = scratch / "chain.py"
    chain.write_text(CHAIN)
    dagster = [str(Path(sys.executable).with_name("dagster")), "asset", "materialize", "--select", "*"]
    target = ["--partition", VERSION]
    floor, ours = paired(
        runs,
        lambda: cpu([*dagster, *target, "-f", str(chain)], environment),
        lambda: cpu([*dagster, *target, "-m", "fine_tune_assets.definitions"], environment),
    )
    extra = (ours - floor) / NUM_ASSETS
    print(
        f"rematerialize: a chain that does nothing {floor:.2f} CPU s, the finished graph {ours:.2f}, "
        f"{extra:.3f} s more per asset ({runs} runs)"
    )


def prepare(scratch: Path) -> dict[str, str]:
    """An instance with the partition, and the graph materialized once."""
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(scratch / "dagster"),
        "FINE_TUNE_STORE": str(scratch / "artifacts"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    fine_tune = str(Path(sys.executable).with_name("fine-tune"))
    for command in (
        [fine_tune, "dataset", "add", VERSION, f"package:demo/raw/{VERSION}"],
        [fine_tune, "partitions", "add", VERSION],
        [
            *(str(Path(sys.executable).with_name("dagster")), "asset", "materialize", "--select", "*"),
            *("--partition", VERSION, "-m", "fine_tune_assets.definitions"),
        ],
    ):
        subprocess.run(command, env=environment, check=True, capture_output=True)
    return environment


def paired(runs: int, first: Callable[[], float], second: Callable[[], float]) -> tuple[float, float]:
    """Medians of two measurements taken in turn, after one of each that does not count."""
    first()
    second()
    pairs = [(first(), second()) for _ in range(runs)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def cpu(command: list[str], environment: dict[str, str] | None = None) -> float:
    """CPU seconds of a command and everything it started."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
