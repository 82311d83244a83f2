"""What a run on the test cluster does and says, step by step; its steps are those of code_location.py."""

import json
import subprocess
from dataclasses import dataclass
from typing import Any

from dagster import DagsterEvent, DagsterEventType

from tests.cluster.deployment import Deployment
from tests.cluster.objects import Object, dig

FAILURE, RETRY = DagsterEventType.STEP_FAILURE, DagsterEventType.STEP_UP_FOR_RETRY
SUCCESS, SAID = DagsterEventType.STEP_SUCCESS, DagsterEventType.ENGINE_EVENT


@dataclass
class Story:
    """One run and what was said about each of its steps."""

    deployment: Deployment
    run_id: str

    def events(self, step: str, *kinds: DagsterEventType) -> list[DagsterEvent]:
        return [event for event in self.deployment.events(self.run_id, *kinds) if event.step_key == step]

    def ends(self, step: str) -> list[str]:
        return [event.event_type_value for event in self.events(step, FAILURE, RETRY, SUCCESS)]

    def error(self, step: str) -> str:
        """The message of a step's first failure or retry."""
        data: Any = self.events(step, FAILURE, RETRY)[0].event_specific_data
        return str(data.error.message)

    def told(self) -> str:
        """Everything that was said, for a test that fails."""
        return "\n".join(str(event.message or event.event_type_value) for event in self.deployment.events(self.run_id))

    def said(self, step: str) -> list[str]:
        return [str(event.message) for event in self.events(step, SAID)]


def behave(deployment: Deployment, **behaviours: str) -> None:
    for name, behaviour in behaviours.items():
        (deployment.home.parent / name).write_text(behaviour)


def starts(deployment: Deployment, step: str) -> int:
    return len(list(deployment.home.parent.glob(f"{step}-started-*")))


def wait_for_start(deployment: Deployment, step: str, times: int = 1) -> None:
    deployment.cluster.wait_for(lambda: starts(deployment, step) >= times, f"{step} to start", 180)


def pod_of(deployment: Deployment, step: str) -> Object:
    return deployment.cluster.pods(f"dagster/op={step}")[-1]


def living(deployment: Deployment) -> list[str]:
    """Step pods that have not ended."""
    pods = deployment.cluster.pods("app.kubernetes.io/component=step_worker")
    return [pod["metadata"]["name"] for pod in pods if dig(pod, "status.phase") in ("Pending", "Running")]


def execute(deployment: Deployment, asset: str, **fields: str) -> "subprocess.Popen[str]":
    """Run one asset with fields of the fine_tuning resource."""
    config = json.dumps({"resources": {"fine_tuning": {"config": fields}}})
    file = deployment.home.parent / "config.yaml"
    file.write_text(config)
    return deployment.start("job", "execute", "-m", deployment.module, "-j", f"only_{asset}", "-c", str(file))
