"""What compiled graphs cost and save on a CPU: `python benchmarks/compile.py [--runs 3]`.

Warm-ups on the demo's training (the loop's own program: an evaluation, two steps, an evaluation), each a process of
its own, in turn: eager, compiled with an empty cache, compiled with a copy of the cache that the second left. Then,
how long a second dataset version takes to find the graphs of the first. CPU seconds count user and system, children
included; one thread.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

RAW = Path(__file__).parent.parent / "neuron_ops" / "demo" / "raw"

REUSE = """
import sys
from neuron_ops.store.artifacts import ArtifactStore
from neuron_ops.store.raw_datasets import RawDatasets
from neuron_ops.recipe.file import load_recipe
from neuron_ops.steps.addresses import Lineage
recipe, store, raw = sys.argv[1:]
lineage = Lineage(load_recipe(recipe), ArtifactStore(store), RawDatasets(raw), "demo-v2")
lineage.require_inputs("compiled_graph_cache")
lineage.require("compiled_graph_cache").check_sizes()
assert "torch" not in sys.modules
"""


@dataclass(frozen=True)
class Cost:
    """What one process cost."""

    wall: float
    cpu: float


def main() -> None:
    """Print medians and the ratios of neighbouring runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        eager, compiled = write_recipes(folder)
        store = folder / "store"
        step("fetch", compiled, store)
        compare([warm_up_all(folder, eager, compiled, store, number) for number in range(runs)])
        step("compile", compiled, store)
        costs = [spent([sys.executable, "-c", REUSE, str(compiled), str(store), str(RAW)]) for _ in range(runs)]
        wall, cpu = (statistics.median(getattr(cost, name) for cost in costs) for name in ("wall", "cpu"))
        print(f"\nsecond dataset version: {wall:.2f} s, {cpu:.2f} CPU s, one Python process without torch")


def warm_up_all(folder: Path, eager: Path, compiled: Path, store: Path, number: int) -> dict[str, dict[str, float]]:
    """Run the three ways, one after the other."""
    empty, full = folder / f"empty-{number}", folder / f"full-{number}"
    empty.mkdir()
    found = {"eager": warm_up(eager, store, folder / "unused"), "cold": warm_up(compiled, store, empty)}
    shutil.copytree(empty, full, ignore=shutil.ignore_patterns("locks"))
    return {**found, "warm": warm_up(compiled, store, full)}


def warm_up(recipe: Path, store: Path, cache: Path) -> dict[str, float]:
    """Seconds of the warm-up's parts, and CPU seconds of its process."""
    with tempfile.TemporaryDirectory() as out:
        argv = [sys.executable, "-m", "neuron_ops.steps.warmup", "--recipe", str(recipe), "--store", str(store)]
        cost = spent([*argv, "--out", out], {"TORCHINDUCTOR_CACHE_DIR": str(cache)})
        return {**json.loads(Path(out, "warmup.json").read_text()), "cpu": cost.cpu}


def compare(rounds: list[dict[str, dict[str, float]]]) -> None:
    """Print one line for each way."""
    names = ("first_evaluation_seconds", "first_step_seconds", "second_step_seconds", "cpu")
    print(f"medians of {len(rounds)} runs\n")
    print("way      first evaluation (s)   first step (s)   second step (s)   process (CPU s)")
    for way in rounds[0]:
        values = [statistics.median(found[way][name] for found in rounds) for name in names]
        print(f"{way:<9}{values[0]:>20.2f}{values[1]:>17.2f}{values[2]:>18.3f}{values[3]:>18.1f}")
    for way in ("cold", "warm"):
        ratio = statistics.median(
            found[way]["first_step_seconds"] / found["eager"]["first_step_seconds"] for found in rounds
        )
        extra = statistics.median(found[way]["cpu"] - found["eager"]["cpu"] for found in rounds)
        print(f"\n{way} / eager, first step: {ratio:.1f}; {extra:.1f} CPU s more than eager")
    ratio = statistics.median(
        found["cold"]["first_step_seconds"] / found["warm"]["first_step_seconds"] for found in rounds
    )
    saved = [
        (found["cold"]["cpu"] - found["eager"]["cpu"]) / (found["warm"]["cpu"] - found["eager"]["cpu"])
        for found in rounds
    ]
    print(f"\ncold / warm, first step: {ratio:.1f}; CPU s beyond eager: {statistics.median(saved):.1f}")


def write_recipes(folder: Path) -> tuple[Path, Path]:
    """Write the demo's recipe as it is, and with compilation."""
    from neuron_ops.recipe.file import load_recipe

    files = []
    for name, overrides in (("eager", {}), ("compiled", {"graph.torch_compile": True})):
        files.append(folder / f"{name}.json")
        files[-1].write_text(load_recipe("tiny_llama_cpu", overrides).to_json())
    return files[0], files[1]


def step(verb: str, recipe: Path, store: Path) -> None:
    """Run a step of the graph."""
    version = [] if verb == "fetch" else ["--dataset-version", "demo-v1"]
    argv = [sys.executable, "-m", f"neuron_ops.steps.{verb}", "--recipe", str(recipe), "--store", str(store)]
    spent([*argv, "--raw", str(RAW), *version])


def spent(argv: list[str], variables: dict[str, str] | None = None) -> Cost:
    """Run a program to its end, quietly."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(variables or {})}
    subprocess.run(argv, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.monotonic() - began, cpu)


if __name__ == "__main__":
    main()
