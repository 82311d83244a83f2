#!/usr/bin/env python
"""Stands in for the program `neuron_parallel_compile`, which exists on Neuron images only. It compiles nothing.

It leaves cache entries and prints a report as the real one's documentation shows, by a plan that lies beside it: one
round for each call, on each node. The program that it is to run it does not run: the nodes of a plan that meet do so
here, where torchrun would have their ranks meet. So it exercises what we do with a compiler and its results, and proves
nothing about the compiler.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, os.environ["STAND_IN_ROOT"])

from tests.neuron_ops.compilers.cache_entries import COMPILER, write_entry  # noqa: E402 - needs the path above

FOREVER = 600


def main() -> int:
    """Play the next round of this node's plan, and note how it was called."""
    flags = dict(word.split("=", 1) for word in sys.argv if word.startswith("--") and "=" in word)
    node = flags.get("--node-rank", "0")
    calls = HERE / f"calls-{node}.jsonl"
    number = len(calls.read_text().splitlines()) if calls.exists() else 0
    plan = json.loads((HERE / f"plan-{node}.json").read_text())[number]
    peer = meet(node, flags["--master-addr"], int(flags["--master-port"])) if "meets" in plan else None
    variables = {name: value for name, value in os.environ.items() if name.startswith("NEURON_")}
    with calls.open("a") as file:
        file.write(json.dumps({"argv": sys.argv[1:], "variables": variables, "pid": os.getpid()}) + "\n")
    play(plan)
    if peer is not None and plan["meets"] == "and follows":
        peer.recv(1)  # as ranks do whose collective fails because others are gone
    if peer is not None and plan["meets"] == "and hangs":
        time.sleep(FOREVER)
    return int(plan.get("status", 0))


def meet(node: str, address: str, port: int) -> socket.socket:
    """The connection between two nodes, once both are there."""
    if node == "0":
        with socket.create_server((address, port)) as server:
            return server.accept()[0]
    deadline = time.monotonic() + FOREVER
    while True:
        try:
            return socket.create_connection((address, port))
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def play(plan: dict[str, Any]) -> None:
    """Leave what the plan says."""
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


if __name__ == "__main__":
    sys.exit(main())
