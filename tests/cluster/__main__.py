"""A cluster to play with, or nodes for a control plane that runs elsewhere: `python -m tests.cluster --help`."""

import argparse
import signal
import tempfile
import threading
from pathlib import Path

from tests.cluster.checkout import CHECKOUT
from tests.cluster.cluster import Cluster


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument(
        "--kubeconfig", type=Path, help="of a real control plane; without it the stand-in's own is started"
    )
    parser.add_argument(
        "--node",
        action="append",
        type=_node,
        metavar="NAME[,RESOURCE=AMOUNT…]",
        help="a node to add, such as trn1-1,aws.amazon.com/neuron=16 (again for more)",
    )
    arguments = parser.parse_args()
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with (
        tempfile.TemporaryDirectory(prefix="cluster-") as folder,
        Cluster(Path(folder), images={"local/*": CHECKOUT}, kubeconfig=arguments.kubeconfig) as cluster,
    ):
        for node in arguments.node or [("node-1", {})]:
            cluster.add_node(*node)
        print(f"export KUBECONFIG={cluster.kubeconfig}   # until Ctrl-C", flush=True)  # noqa: T201
        stopped.wait()


def _node(text: str) -> tuple[str, dict[str, str]]:
    name, *resources = text.split(",")
    if not name or not all("=" in resource for resource in resources):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME or NAME,RESOURCE=AMOUNT")
    return name, dict(resource.split("=", 1) for resource in resources)


if __name__ == "__main__":
    main()
