#!/usr/bin/env python
"""Stands in for the program `neuron_parallel_compile`, which exists on Neuron images only. It compiles nothing.

It leaves cache entries and prints a report as the real one's documentation shows, by a plan that lies beside it: one
round for each call. So it exercises what we do with a compiler's results, and proves nothing about the compiler.
"""

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, os.environ["STAND_IN_ROOT"])

from tests.neuron_ops.graphs.cache_entries import COMPILER, write_entry  # noqa: E402 - needs the path above


def main() -> int:
    """Play the next round of the plan, and note how it was called."""
    calls = HERE / "calls.jsonl"
    number = len(calls.read_text().splitlines()) if calls.exists() else 0
    variables = {name: value for name, value in os.environ.items() if name.startswith("NEURON_")}
    with calls.open("a") as file:
        file.write(json.dumps({"argv": sys.argv[1:], "variables": variables}) + "\n")
    plan = json.loads((HERE / "plan.json").read_text())[number]
    cache = Path(os.environ["NEURON_COMPILE_CACHE_URL"])
    report = {}
    for key, (state, seconds) in plan.get("entries", {}).items():
        entry = write_entry(cache, key, state)
        values = {"status": state == "complete", "retry": 0, "compile_time": seconds}
        report[str(entry / "model.hlo_module.pb")] = values
    if plan.get("error"):
        Path(os.environ["FINE_TUNE_ERROR_FILE"]).write_text(json.dumps(plan["error"]) + "\n")
    text = json.dumps({"compilation_summary": {"true": len(report)}, "compilation_report": report}, indent=4)
    print(f"2026-11-01 10:00:00.000895:  161136  INFO ||NEURON_PARALLEL_COMPILE||: {text}")  # noqa: T201
    print(f"INFO ||NEURON_PARALLEL_COMPILE||: Total graphs: {len(report)} in {COMPILER}")  # noqa: T201
    return int(plan.get("status", 0))


if __name__ == "__main__":
    sys.exit(main())
