"""Merges the logs of a training's pods: each line once, as it arrives, prefixed with the number of its node.

Finding the pods belongs to launcher; reading one pod's log belongs to the client.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fine_tune_assets.kubernetes.api.client import Client
from fine_tune_assets.kubernetes.api.kinds import Object
from fine_tune_assets.kubernetes.multi_node.nodes import has_started, node_number, phase
from neuron_ops.errors import OpsError

DRAIN_SECONDS = 15.0
"""How long to wait for the last lines of pods that have ended."""
RETRY_SECONDS = 1.0


@dataclass(slots=True)
class _Follower:
    """The thread that copies one pod's log, and whether the pod has ended."""

    thread: threading.Thread
    ended: threading.Event


@dataclass(slots=True)
class Logs:
    """The logs of one training. `write` gets whole lines, from several threads."""

    client: Client
    write: Callable[[str], None]
    _followers: dict[str, _Follower] = field(default_factory=dict)

    def follow(self, pods: list[Object]) -> None:
        """Take the pods' current state, and start to copy the logs of pods that have started."""
        for pod in filter(has_started, pods):
            follower = self._followers.get(pod["metadata"]["uid"]) or self._begin(pod)
            if phase(pod) in ("Succeeded", "Failed"):
                follower.ended.set()

    def drain(self) -> None:
        """Wait for the last lines."""
        deadline = time.monotonic() + DRAIN_SECONDS
        for follower in self._followers.values():
            follower.ended.set()
            follower.thread.join(max(0.0, deadline - time.monotonic()))

    def _begin(self, pod: Object) -> _Follower:
        ended = threading.Event()
        thread = threading.Thread(target=self._copy, args=(pod, ended), name="pod-log", daemon=True)
        follower = self._followers[pod["metadata"]["uid"]] = _Follower(thread, ended)
        thread.start()
        return follower

    def _copy(self, pod: Object, ended: threading.Event) -> None:
        last: str | None = None
        while True:
            complete = ended.is_set()  # read before the request: if set, the request brings the whole log
            try:
                for line in self.client.follow_log(pod, since=last):
                    stamp, _, text = line.partition(" ")
                    if last is None or stamp > last:
                        last = stamp
                        self.write(f"[node {node_number(pod)}] {text}\n")
            except OpsError:
                pass  # the API failed, or the pod is gone; the launcher finds out which
            if complete:
                return
            ended.wait(RETRY_SECONDS)
