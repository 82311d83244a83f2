"""One pod on a kubelet: volumes, init containers, containers, restarts, its status, and its end."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from tests.cluster.client import Client
from tests.cluster.container import Container
from tests.cluster.container_slot import Slot
from tests.cluster.errors import UNANSWERED, insist
from tests.cluster.kinds import PODS
from tests.cluster.objects import Object, condition, dig, name_of, namespace_of, now, uid_of, with_conditions
from tests.cluster.pod_setup import Image, Launch, NotReadyYet, PodSetup, find_image
from tests.cluster.tasks import spawn

Made = TypeVar("Made")
SOURCE = "kubelet"


@dataclass(frozen=True, slots=True)
class KubeletSettings:
    """What the pods of a kubelet share."""

    root: Path
    """Logs, volumes and working folders are below it."""
    images: Mapping[str, Image]
    """By name, or by a pattern such as `local/*`. Any other image cannot be pulled."""
    backoff: float = 10.0
    """Seconds between two tries to pull an image, to find a secret, or to restart a container that failed."""


class PodWorker:
    """Brings one pod to its end and reports on the way."""

    def __init__(self, client: Client, settings: KubeletSettings, pod: Object) -> None:
        self._client, self._settings, self._pod = client, settings, pod
        self._setup = PodSetup(client, pod, settings.root)
        self.slots = {spec["name"]: Slot(spec) for spec in pod["spec"]["containers"]}
        self.init_slots = {spec["name"]: Slot(spec) for spec in dig(pod, "spec.initContainers", [])}
        self._stopping, self._dead = asyncio.Event(), asyncio.Event()
        self._finished, self._initialized = False, not self.init_slots
        self._verdict: Object = {}
        """Reason and message of a pod that the kubelet itself ended."""
        self._started_at = now()
        self._reported: Object = {}
        self._reporting = asyncio.Lock()
        self._tasks = [spawn(self._run())]

    def update(self, pod: Object) -> None:
        """Take note of what others wrote about the pod."""
        self._pod = pod

    def all_slots(self) -> dict[str, Slot]:
        return self.init_slots | self.slots

    def stop(self, grace_seconds: float) -> None:
        """Ask the containers to end, and kill those that are still there after the grace period."""
        self._stopping.set()
        self._tasks.append(spawn(self._stop(grace_seconds)))

    def evict(self, message: str, grace_seconds: float = 0.0) -> None:
        """What a kubelet does when its node runs out of memory or disk."""
        self._verdict = {"reason": "Evicted", "message": message}
        self.stop(grace_seconds)

    def kill(self, container: str, cause: str) -> None:
        """Kill one container, as the kernel does when it uses more memory than it may (cause: OOMKilled)."""
        found = self.slots[container].container
        if found is not None:
            found.kill(cause)

    async def vanish(self) -> None:
        """The machine is gone: everything ends, nobody reports it."""
        self._dead.set()
        self._stopping.set()
        for slot in self.all_slots().values():
            if slot.container is not None:
                slot.container.kill()
        await self.done()

    async def done(self) -> None:
        """Until there is nothing more to do for the pod, as far as is known."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        await self._report()
        if await self._until_ready(self._setup.prepare_volumes, [*self.all_slots().values()]) is not None:
            await self._run_containers()
        self._finished = True
        await self._report()
        await self._leave()

    async def _stop(self, grace_seconds: float) -> None:
        await self._end_containers(grace_seconds)
        await self._leave()  # the pod may have ended by itself, before it was known that it is to go

    async def _leave(self) -> None:
        """Take a pod that was deleted, and has ended, out of the cluster."""
        if not self._finished:
            return
        if self._pod["metadata"].get("deletionTimestamp") and not self._dead.is_set():
            await insist(partial(self._client.delete, PODS, self._pod, grace_seconds=0), self._dead)

    async def _run_containers(self) -> None:
        for slot in self.init_slots.values():
            await self._keep_running(slot, is_init=True)
            if slot.container is None or slot.container.exit_code != 0:
                return
        self._initialized = True
        await asyncio.gather(*(self._keep_running(slot) for slot in self.slots.values()))

    async def _keep_running(self, slot: Slot, *, is_init: bool = False) -> None:
        while not self._stopping.is_set():
            launch = await self._until_ready(lambda: self._prepare(slot), [slot])
            if launch is None:
                return
            code = await self._run_once(slot, launch)
            if self._stopping.is_set() or not self._restarts(code, is_init=is_init):
                return
            delay = f"back-off restarting failed container={slot.spec['name']} pod={name_of(self._pod)}"
            slot.waiting = {"reason": "CrashLoopBackOff", "message": delay}
            await self._report()
            await self._pause(self._settings.backoff)
            slot.restarts += 1

    def _restarts(self, code: int, *, is_init: bool) -> bool:
        policy = dig(self._pod, "spec.restartPolicy", "Always")
        return (policy == "Always" and not is_init) or (policy != "Never" and code != 0)

    async def _run_once(self, slot: Slot, launch: Launch) -> int:
        name = slot.spec["name"]
        identity = f"{uid_of(self._pod)}/{name}/{slot.restarts}"
        where = f"{namespace_of(self._pod)}_{name_of(self._pod)}_{uid_of(self._pod)}/{name}/{slot.restarts}.log"
        slot.previous = slot.container
        slot.container = Container(slot.spec, identity, self._settings.root / "logs" / where)
        await slot.container.start(launch)
        slot.waiting = {}
        if self._stopping.is_set():
            slot.container.kill()
        reporting = spawn(self._report())
        await slot.container.wait()
        await reporting
        await self._report()
        return slot.container.exit_code or 0

    async def _prepare(self, slot: Slot) -> Launch:
        name = slot.spec["image"]
        if (image := find_image(self._settings.images, name)) is None:
            pulled = slot.waiting.get("reason") in ("ErrImagePull", "ImagePullBackOff")
            missing = f'failed to resolve reference "{name}": {name}: not found'
            if not pulled:
                await self._tell("Failed", f'Failed to pull image "{name}": {missing}')
                raise NotReadyYet("ErrImagePull", missing)
            await self._tell("BackOff", f'Back-off pulling image "{name}"', once=True)
            raise NotReadyYet("ImagePullBackOff", f'Back-off pulling image "{name}": ErrImagePull: {missing}')
        return await self._setup.launch(slot.spec, image)

    async def _until_ready(self, make: Callable[[], Awaitable[Made]], slots: list[Slot]) -> Made | None:
        """Try until it works, saying each time what is missing; None if the pod is to end before."""
        told = ""
        while not self._stopping.is_set():
            try:
                made = await make()
            except NotReadyYet as missing:
                shown = "ContainerCreating" if missing.reason == "FailedMount" else missing.reason
                for slot in slots:
                    slot.waiting = {"reason": shown, "message": missing.message}
                if missing.message != told and "Image" not in missing.reason:
                    await self._tell(_event_reason(missing), _event_text(missing))
                told = missing.message
                await self._report()
                await self._pause(self._settings.backoff)
            except UNANSWERED:
                await self._pause(self._settings.backoff)
            else:
                return made
        return None

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _end_containers(self, grace_seconds: float) -> None:
        running = [slot.container for slot in self.all_slots().values() if slot.container and slot.is_running]
        for container in running:
            container.terminate()
        waited = 0.0
        while waited < grace_seconds and any(container.is_running for container in running):
            await asyncio.sleep(0.05)
            waited += 0.05
        for container in running:
            container.kill()

    async def _tell(self, reason: str, message: str, *, once: bool = False) -> None:
        kind = "Normal" if once else "Warning"
        await self._client.event(self._pod, kind, reason, message, SOURCE)

    async def _report(self) -> None:
        """Write the status if it has changed, whatever the API server's mood."""
        async with self._reporting:
            while (status := self._status()) != self._reported and not self._dead.is_set():
                await insist(partial(self._client.patch_status, PODS, self._pod, status), self._dead)
                self._reported = status

    def _status(self) -> Object:
        phase = self._phase()
        ready = phase == "Running" and all(slot.is_running for slot in self.slots.values())
        done = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(phase, "ContainersNotReady")
        changed = [
            condition("Initialized", "True" if self._initialized else "False"),
            *(condition(kind, str(ready), "" if ready else done) for kind in ("Ready", "ContainersReady")),
        ]
        if self._verdict:
            changed.append(condition("DisruptionTarget", "True", "TerminationByKubelet", self._verdict["message"]))
        return {
            "phase": phase,
            "startTime": self._started_at,
            "hostIP": "127.0.0.1",
            "podIP": "127.0.0.1",
            "conditions": self._kept(changed),
            "containerStatuses": [slot.status() for slot in self.slots.values()],
            **({"initContainerStatuses": [s.status() for s in self.init_slots.values()]} if self.init_slots else {}),
            **self._verdict,
        }

    def _kept(self, changed: list[Object]) -> list[Object]:
        """Only the kubelet's own conditions, with the time at which each last changed."""
        own = {"status": {"conditions": self._reported.get("conditions", [])}}
        return with_conditions(own, *changed)

    def _phase(self) -> str:
        slots = self.slots.values()
        if self._finished:
            ended = [slot.container.exit_code if slot.container else None for slot in slots]
            return "Succeeded" if not self._verdict and all(code == 0 for code in ended) else "Failed"
        return "Running" if any(slot.container for slot in slots) else "Pending"


def _event_reason(missing: NotReadyYet) -> str:
    return "FailedMount" if missing.reason == "FailedMount" else "Failed"


def _event_text(missing: NotReadyYet) -> str:
    return (
        f"MountVolume.SetUp failed for volume: {missing.message}"
        if missing.reason == "FailedMount"
        else (f"Error: {missing.message}")
    )
