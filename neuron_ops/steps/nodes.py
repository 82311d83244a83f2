"""Starting all processes of a step that takes several, on one node or on all nodes.

`python -m neuron_ops.steps.nodes VERB FLAGS…` starts the groups of all nodes on this machine. With --node and
--rendezvous it starts the group of one node, which finds the others over the network: each pod of a cluster runs that.
Groups and how they end belong to launch/torchrun, restarts to the caller of this program.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from neuron_ops import backends
from neuron_ops.errors import InvalidInput
from neuron_ops.launch.torchrun import Rendezvous, command, run_groups
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps import program
from neuron_ops.steps.table import BY_VERB, STEPS, Step

log = logging.getLogger("neuron_ops.steps.nodes")  # as a program, this module has another name


def commands(
    step: Step, recipe: Recipe, flags: Sequence[str], nodes: Sequence[int], rendezvous: Rendezvous
) -> dict[int, list[str]]:
    """The command line of each node, by the node's number."""
    argv = ["-m", f"neuron_ops.steps.{step.verb}", *flags]
    if not step.launched_by_backend:
        return {node: [sys.executable, *argv] for node in nodes}
    world = backends.layout(recipe)
    return {node: command(world, node, rendezvous, argv) for node in nodes}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m neuron_ops.steps.nodes", description="Starts all processes of a step."
    )
    parser.add_argument("--node", type=int, help="number of the one node to start (default: all, on this machine)")
    parser.add_argument("--rendezvous", help="HOST:PORT on which node 0 is found; with --node only")
    parser.add_argument("verb", choices=[step.verb for step in STEPS if step.needs_accelerator])
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="the step's own flags")
    return parser.parse_args()


def _main(arguments: argparse.Namespace) -> int:
    step = BY_VERB[arguments.verb]
    recipe = load_recipe(program.parse(step, arguments.flags).recipe)
    nodes = range(step.nodes(recipe))
    if arguments.node is None:
        rendezvous = Rendezvous.on_this_machine()
    elif arguments.node in nodes and arguments.rendezvous is not None:
        nodes = range(arguments.node, arguments.node + 1)
        rendezvous = Rendezvous.parse(arguments.rendezvous)
    else:
        raise InvalidInput(
            f"--node is {arguments.node}. Give one of 0 to {len(nodes) - 1}, and --rendezvous HOST:PORT."
        )
    ended = run_groups(
        commands(step, recipe, arguments.flags, nodes, rendezvous),
        rendezvous,
        backends.environment(recipe),
        lambda address, port: backends.rendezvous_environment(recipe, address, port),
    )
    if ended.error is not None:
        raise ended.error
    if ended.status != 0:  # last, below torchrun's messages about the processes that it ended
        unknown = "but no process reported an error; look above for the root cause that torchrun names"
        log.error("%s failed, %s", arguments.verb, ended.reason or unknown)
    return ended.status if ended.status >= 0 else 128 - ended.status


if __name__ == "__main__":
    parsed = _parse()
    program.run_program(lambda: _main(parsed))
