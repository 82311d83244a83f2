"""One container of a pod through all its restarts, and its part of the pod's status."""

from dataclasses import dataclass, field

from tests.cluster.container import Container
from tests.cluster.objects import Object


@dataclass(slots=True)
class Slot:
    """One container of the pod, through all its restarts."""

    spec: Object
    waiting: Object = field(default_factory=lambda: {"reason": "ContainerCreating"})
    container: Container | None = None
    """The one that runs or ran last; None before the first."""
    previous: Container | None = None
    restarts: int = 0

    @property
    def state(self) -> Object:
        return {"waiting": self.waiting} if self.waiting or self.container is None else self.container.state

    @property
    def is_running(self) -> bool:
        return "running" in self.state

    def status(self) -> Object:
        has_ended = self.container is not None and self.container.exit_code is not None
        last = self.container if self.waiting and has_ended else self.previous
        return {
            "name": self.spec["name"],
            "image": self.spec["image"],
            "imageID": "" if self.container is None else self.spec["image"],
            "ready": self.is_running,
            "started": self.is_running,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": last.state if last else {},
        }
