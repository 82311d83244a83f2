"""Forks trainings from one process that has imported everything; a line of JSON in, a line of JSON out for each.

A request may name another function than `train`'s, which every rank then calls instead.

A fork is a fresh process: torch has computed nothing here before, so no thread of its own is lost.
"""

import importlib
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from neuron_ops.steps import program, train

# What every training imports sooner or later; none of it computes anything yet.
LATE_IMPORTS = (
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "neuron_ops.backends.cpu_process",
    "torch.nn.parallel.distributed",
    "transformers.models.llama.modeling_llama",
)

EVERY_RANK = -1


def main(late_imports: Sequence[str] = LATE_IMPORTS) -> None:
    """Serve until standard input ends."""
    for module in late_imports:
        importlib.import_module(module)
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile("w+") as log:
            port = _free_port()
            pids = [_fork(rank, port, request, log.fileno()) for rank in range(request["ranks"])]
            codes = _wait_for(pids, request["kill"])
            log.seek(0)
            sys.stdout.write(json.dumps({"codes": codes, "log": log.read()}) + "\n")
            sys.stdout.flush()


def _wait_for(pids: list[int], kill: dict[str, Any] | None) -> list[int]:
    """Exit code of each rank; one that was stopped is killed once the others have ended."""
    stopped = kill["rank"] if kill and kill["stop"] else None
    codes = {}
    for rank in sorted(range(len(pids)), key=lambda rank: rank == stopped):
        if rank == stopped:
            os.kill(pids[rank], signal.SIGKILL)
        codes[rank] = os.waitstatus_to_exitcode(os.waitpid(pids[rank], 0)[1])
    return [codes[rank] for rank in range(len(pids))]


def _fork(rank: int, port: int, request: dict[str, Any], log: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code: object = 1
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        if request["ranks"] > 1:
            os.environ.update(_torchrun(rank, port, request["ranks"]))
        if request["kill"] and request["kill"]["rank"] in (rank, EVERY_RANK):
            _arm(**request["kill"])
        sys.argv = ["train", *request["argv"]]
        if request["call"]:
            module, _, name = request["call"].partition(":")
            getattr(importlib.import_module(module), name)(*request["argv"])
        else:
            program.main("train", train.build)
        code = 0
    except SystemExit as error:
        code = error.code
    finally:
        if not isinstance(code, int):
            code = 1
        if sys.exc_info()[0] is not None and code == 1:
            sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(code)


def _torchrun(rank: int, port: int, ranks: int) -> dict[str, str]:
    """What torchrun tells its processes."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    return {
        "MASTER_ADDR": "127.0.0.1",
        "TORCHELASTIC_RUN_ID": "none",
        **{name: str(value) for name, value in names.items()},
    }


def _arm(function: str, call: int, after: bool, rank: int, stop: bool) -> None:
    """Let the process die at the given call, or stop as if its device hung."""
    module, _, path = function.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original: Callable[..., Any] = getattr(owner, name)
    calls, end = 0, signal.SIGSTOP if stop else signal.SIGKILL

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            os.kill(os.getpid(), end)
        result = original(*args, **kwargs)
        if calls == call:
            os.kill(os.getpid(), end)
        return result

    setattr(owner, name, dying)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    main()
