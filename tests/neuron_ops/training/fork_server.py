"""Forks trainings from one process that has imported everything; a line of JSON in, a line of JSON out for each.

A fork is a fresh process: torch has computed nothing here before, so no thread of its own is lost.
"""

import importlib
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from neuron_ops import cli, train

# What every training imports sooner or later; none of it computes anything yet.
LATE_IMPORTS = (
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "neuron_ops.backends.cpu",
    "torch.nn.parallel.distributed",
    "transformers.models.llama.modeling_llama",
)


def main() -> None:
    """Serve until standard input ends."""
    for module in LATE_IMPORTS:
        importlib.import_module(module)
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile("w+") as log:
            port = _free_port()
            pids = [_fork(rank, port, request, log.fileno()) for rank in range(request["ranks"])]
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
            log.seek(0)
            sys.stdout.write(json.dumps({"codes": codes, "log": log.read()}) + "\n")
            sys.stdout.flush()


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
        if request["kill"] and request["kill"]["rank"] == rank:
            _arm(**request["kill"])
        sys.argv = ["train", *request["argv"]]
        cli.main("train", train.build)
        code = 0
    except SystemExit as error:
        code = error.code
    finally:
        if not isinstance(code, int):
            code = 1
        if sys.exc_info()[0] is not None and code == 1:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        sys.stderr.flush()
        os._exit(code)


def _torchrun(rank: int, port: int, ranks: int) -> dict[str, str]:
    """What torchrun tells its processes."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in names.items()}}


def _arm(function: str, call: int, after: bool, rank: int) -> None:
    """Let the process die at the given call."""
    module, _, path = function.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    main()
