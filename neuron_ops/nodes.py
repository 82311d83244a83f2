"""Every process of a training or of its rehearsal: a group for each node, started together and ended together.

`python -m neuron_ops.nodes VERB FLAGS…` starts the groups of all nodes on this machine. With --node and --meet it
starts the group of one node, which finds the others over the network: each pod of a cluster runs that. A group is a
torchrun; of `compile` it is the step's program, which starts torchrun below a compiler. Either way it ends with the
exit status of the error that a rank reports, which torchrun alone would turn into 1. Starting again from the last
checkpoint belongs to whoever started it.
"""

import argparse
import logging
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuron_ops import backends, cli, launch
from neuron_ops.backends import Layout
from neuron_ops.ending import ERROR_FILE, Ending, read_error
from neuron_ops.errors import InvalidInput
from neuron_ops.memory import MemoryWatch
from neuron_ops.recipe import Recipe
from neuron_ops.recipe_file import load_recipe
from neuron_ops.steps import BY_VERB, STEPS, Step

log = logging.getLogger("neuron_ops.nodes")  # as a program, this module has another name

MEETING_SECONDS = 1800
"""How long a node waits for the others: their pods may still be pulling an image."""
GRACE_SECONDS = 40.0
"""torchrun itself gives its ranks 30 seconds; it must not end before them, or they would hold the accelerator."""
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the nodes of one training find each other: an address of node 0, and a port that is free there."""

    address: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Meeting":
        """HOST:PORT."""
        address, _, port = text.rpartition(":")
        if not address or not port.isdecimal():
            raise InvalidInput(f"--meet is {text!r}. Give HOST:PORT of node 0.")
        return cls(address, int(port))


def command(world: Layout, node: int, meeting: Meeting, program: Sequence[str]) -> list[str]:
    """The command line of one node's group."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={world.processes_per_node}"]
    if world.nodes == 1:
        return [*torchrun, "--standalone", *program]  # it finds a free port by itself
    # A static rendezvous: node 0 is where the others look for it. Torch's dynamic one hands out the ranks anew.
    return [
        *[*torchrun, f"--nnodes={world.nodes}", f"--node-rank={node}"],
        *[f"--master-addr={meeting.address}", f"--master-port={meeting.port}"],
        *[f"--rdzv-conf=timeout={MEETING_SECONDS}", *program],
    ]


def run(recipe: Recipe, commands: Mapping[int, Sequence[str]], meeting: Meeting) -> Ending:
    """Run the groups of these nodes to their end; when one fails, the others are ended."""
    with tempfile.TemporaryDirectory(prefix="fine-tune-nodes-") as scratch:
        error_file, memory = Path(scratch, "error"), MemoryWatch()
        environment = {
            **backends.environment(recipe),
            # The port beside the one that torchrun meets on.
            **backends.rendezvous_environment(recipe, meeting.address, meeting.port + 1),
            # For a program that starts its node's torchrun by itself; torchrun tells its ranks their own.
            "MASTER_ADDR": meeting.address,
            "MASTER_PORT": str(meeting.port),
            ERROR_FILE: str(error_file),
            "PET_LOG_DIR": scratch,  # torchrun's --log-dir: else it leaves a folder in TMPDIR each time
        }
        groups: dict[int, subprocess.Popen[bytes]] = {}
        try:
            for node, argv in commands.items():
                groups[node] = launch.start(argv, {**environment, "RANK": str(node)}, own_group=False)
            status = _wait(groups)
        finally:
            _end(list(groups.values()))
        return Ending(status, read_error(error_file), memory.verdict() if status != 0 else "")


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
        group.terminate()  # nothing where it has ended already
    deadline = time.monotonic() + GRACE_SECONDS
    for group in groups:
        try:
            group.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            group.kill()
            group.wait()


def _free_port() -> int:
    """A port that was free a moment ago, with a free one after it."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m neuron_ops.nodes", description="Starts all processes of a step.")
    parser.add_argument("--node", type=int, help="number of the one node to start (default: all, on this machine)")
    parser.add_argument("--meet", help="HOST:PORT on which node 0 is found; with --node only")
    parser.add_argument("verb", choices=[step.verb for step in STEPS if step.needs_accelerator])
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="the step's own flags")
    return parser.parse_args()


def _commands(
    step: Step, recipe: Recipe, flags: Sequence[str], nodes: Sequence[int], meeting: Meeting
) -> dict[int, list[str]]:
    """What each node runs, by its number."""
    program = ["-m", f"neuron_ops.{step.verb}", *flags]
    if not step.launched_by_backend:
        return {node: [sys.executable, *program] for node in nodes}
    world = backends.layout(recipe)
    return {node: command(world, node, meeting, program) for node in nodes}


def _main(arguments: argparse.Namespace) -> int:
    step = BY_VERB[arguments.verb]
    recipe = load_recipe(cli.parse(step, arguments.flags).recipe)
    nodes = range(step.nodes(recipe))
    if arguments.node is None:
        meeting = Meeting("127.0.0.1", _free_port())
    elif arguments.node in nodes and arguments.meet is not None:
        nodes, meeting = range(arguments.node, arguments.node + 1), Meeting.parse(arguments.meet)
    else:
        raise InvalidInput(f"--node is {arguments.node}. Give one of 0 to {len(nodes) - 1}, and --meet HOST:PORT.")
    ending = run(recipe, _commands(step, recipe, arguments.flags, nodes, meeting), meeting)
    if ending.error is not None:
        raise ending.error
    if ending.status != 0:  # last, below what torchrun says of processes that it ended because of the first
        unknown = "and no process could say why; what torchrun calls the root cause came first"
        log.error("%s failed, %s", arguments.verb, ending.reason or unknown)
    return ending.status if ending.status >= 0 else 128 - ending.status


if __name__ == "__main__":
    parsed = _parse()
    cli.run_program(lambda: _main(parsed))
