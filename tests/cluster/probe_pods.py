"""Pods of one container that runs a script, and what the cluster says about it."""

from typing import Any

from tests.cluster.cluster import Cluster
from tests.cluster.conftest import pod
from tests.cluster.kinds import NODES, PODS
from tests.cluster.objects import Object, dig

WAIT = "trap 'echo asked to end; exit 3' TERM; echo started; while true; do sleep 0.05; done"


def start(cluster: Cluster, name: str, script: str, *, spec: Object | None = None, **in_container: Any) -> None:
    """A node, unless there is one, and a pod on it."""
    if not cluster.objects(NODES):
        cluster.add_node("node-a")
    made = pod(name, script, **(spec or {}))
    made["spec"]["containers"][0] |= in_container
    cluster.create(PODS, made)


def run(cluster: Cluster, script: str, *, spec: Object | None = None, **in_container: Any) -> str:
    """The log of a pod that succeeds."""
    start(cluster, "probe", script, spec=spec, **in_container)
    cluster.wait_for_phase("probe", "Succeeded")
    return cluster.log("probe")


def state(cluster: Cluster, name: str) -> Object:
    return dict(dig(cluster.pod(name), "status.containerStatuses", [{}])[0].get("state", {}))


def waiting_reason(cluster: Cluster, name: str, reason: str) -> str:
    """The message of a container that waits for this reason."""

    def look() -> str | None:
        waiting = state(cluster, name).get("waiting", {})
        return waiting.get("message") if waiting.get("reason") == reason else None

    return cluster.wait_for(look, f"{name} to wait with {reason}")


def wait_until_started(cluster: Cluster, name: str) -> None:
    cluster.wait_for_phase(name, "Running")
    cluster.wait_for(lambda: "started" in cluster.log(name), f"{name} to speak")
