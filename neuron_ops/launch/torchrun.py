"""A group of processes for each node of a step, started together and ended together.

A group is a torchrun process; for `compile` it is the step's program, which starts torchrun below a compiler. Either
way the result has the error that a rank reports; torchrun alone would turn its exit status into 1. The choice of the
program belongs to steps/nodes; restarting from the last checkpoint belongs to the program that started the groups.
"""

import logging
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuron_ops.backends.layout import Layout
from neuron_ops.errors import InvalidInput
from neuron_ops.launch import process
from neuron_ops.launch.grace import NODE_GROUPS_SECONDS
from neuron_ops.launch.oom import MemoryWatch
from neuron_ops.launch.outcome import ERROR_FILE, ExitResult, read_error

log = logging.getLogger(__name__)

RENDEZVOUS_SECONDS = 7 * 24 * 3600
"""How long a node waits for the others. The program that starts the nodes gives up on their machines sooner: it knows
which one is missing and why, and ends them all."""
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Where the nodes of one training find each other: an address of node 0, and a port that is free there."""

    address: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Rendezvous":
        """Read HOST:PORT.

        Raises:
            InvalidInput: the text is anything else.
        """
        address, _, port = text.rpartition(":")
        if not address or not port.isdecimal():
            raise InvalidInput(f"--rendezvous is {text!r}. Give HOST:PORT of node 0.")
        return cls(address, int(port))

    @classmethod
    def on_this_machine(cls) -> "Rendezvous":
        """For groups that all run here: a port that was free a moment ago, with a free one after it."""
        while True:
            with socket.socket() as first, socket.socket() as second:
                first.bind(("127.0.0.1", 0))
                port = int(first.getsockname()[1])
                try:
                    second.bind(("127.0.0.1", port + 1))
                except OSError:
                    continue
                return cls("127.0.0.1", port)


RendezvousEnvironment = Callable[[str, int], Mapping[str, str]]
"""What a backend's processes need besides to find each other, from an address and a free port of node 0."""


def command(world: Layout, node: int, rendezvous: Rendezvous, program: Sequence[str]) -> list[str]:
    """The command line of one node's group."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={world.processes_per_node}"]
    if world.nodes == 1:
        return [*torchrun, "--standalone", *program]  # it finds a free port on its own
    # A static rendezvous: the others find node 0 at this address. Torch's dynamic rendezvous would reassign the ranks.
    return [
        *[*torchrun, f"--nnodes={world.nodes}", f"--node-rank={node}"],
        *[f"--master-addr={rendezvous.address}", f"--master-port={rendezvous.port}"],
        *[f"--rdzv-conf=timeout={RENDEZVOUS_SECONDS}", *program],
    ]


def run_groups(
    commands: Mapping[int, Sequence[str]],
    rendezvous: Rendezvous,
    environment: Mapping[str, str],
    rendezvous_environment: RendezvousEnvironment,
) -> ExitResult:
    """Run the groups of these nodes, `{node: command line}`, to their end; when one fails, the others are ended."""
    with tempfile.TemporaryDirectory(prefix="fine-tune-nodes-") as scratch:
        error_file, memory = Path(scratch, "error"), MemoryWatch()
        variables = {
            **environment,
            # The port after the one of torchrun's own rendezvous.
            **rendezvous_environment(rendezvous.address, rendezvous.port + 1),
            # For a program that starts its node's torchrun itself; torchrun sets them anew for its ranks.
            "MASTER_ADDR": rendezvous.address,
            "MASTER_PORT": str(rendezvous.port),
            ERROR_FILE: str(error_file),
            "PET_LOG_DIR": scratch,  # torchrun's --log-dir: otherwise it leaves a folder in TMPDIR each time
        }
        groups: dict[int, subprocess.Popen[bytes]] = {}
        try:
            for node, argv in commands.items():
                groups[node] = process.start(argv, {**variables, "RANK": str(node)}, own_group=False)
            status = _wait(groups)
        finally:
            _end(list(groups.values()))
        return ExitResult(status, read_error(error_file), memory.verdict() if status != 0 else "")


def _wait(groups: dict[int, subprocess.Popen[bytes]]) -> int:
    """The status of the first group that fails, or 0 once all have succeeded."""
    while True:
        statuses = {node: group.poll() for node, group in groups.items()}
        for node, status in statuses.items():
            if status:
                log.warning("the processes of node %d ended with exit status %d", node, status)
                return status
        if all(status == 0 for status in statuses.values()):
            return 0
        time.sleep(POLL_SECONDS)


def _end(groups: list[subprocess.Popen[bytes]]) -> None:
    for group in groups:
        group.terminate()  # does nothing if the group has already ended
    deadline = time.monotonic() + NODE_GROUPS_SECONDS
    for group in groups:
        try:
            group.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            group.kill()
            group.wait()
