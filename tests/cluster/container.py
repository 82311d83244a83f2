"""One container as a local process: its start, its log, its end, and the end of everything that it started."""

import asyncio
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

from tests.cluster.container_log import ContainerLog
from tests.cluster.objects import Object, now
from tests.cluster.pod_setup import Launch

MARK = "CLUSTER_CONTAINER_ID"
MESSAGE_BYTES = 4096


class Container:
    """Runs once; a restart is another object."""

    def __init__(self, spec: Object, identity: str, log_file: Path) -> None:
        self.spec, self.name, self._identity = spec, str(spec["name"]), identity
        self.log = ContainerLog(log_file)
        self.state: Object = {"waiting": {"reason": "ContainerCreating"}}
        self._process: asyncio.subprocess.Process | None = None
        self._cause = ""

    @property
    def is_running(self) -> bool:
        return "running" in self.state

    @property
    def exit_code(self) -> int | None:
        ended = self.state.get("terminated")
        return None if ended is None else int(ended["exitCode"])

    async def start(self, launch: Launch) -> None:
        """Start the process; what cannot be started has ended at once, with the code that runtimes give that."""
        self._launch = launch
        # A pipe of our own: asyncio's would make waiting for the process wait for all who inherited its output.
        self._output, write_end = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *_tied_to_this_process(launch),
                env=launch.environment | {MARK: self._identity},
                cwd=launch.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._output)
            message = f"failed to create containerd task: failed to create shim task: exec: {error}"
            self._end(128, "StartError", message)
        else:
            self.state = {"running": {"startedAt": now()}}
        finally:
            os.close(write_end)

    async def wait(self) -> None:
        """Until the process has ended, and with it whatever it started: a container's processes end with its first."""
        if self._process is None:
            return
        reading = asyncio.create_task(self.log.fill(self._output))
        try:
            code = await self._process.wait()
        finally:
            self.kill_all()
        while not (await asyncio.wait([reading], timeout=0.1))[0]:
            self.kill_all()  # somebody still holds the log: a process that was just being started
        code = code if code >= 0 else 128 - code
        self._end(code, self._cause or ("Completed" if code == 0 else "Error"), self._message(code))

    def terminate(self) -> None:
        """Ask it to end. As in a container, only its first process hears it."""
        self._signal(signal.SIGTERM)

    def kill(self, cause: str = "") -> None:
        """End it at once; the cause is what its status says afterwards."""
        self._cause = self._cause or cause
        self._signal(signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill every process of the container: those in its group, and those that left the group."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            for pid in _marked(self._identity):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # Not by asyncio's process: before it signals, it looks whether the process has ended, and takes its exit code
        # from under the thread that waits for it. The container's would then be 255.
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def _end(self, code: int, reason: str, message: str) -> None:
        started = self.state.get("running", {}).get("startedAt", now())
        ended = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": now()}
        self.state = {"terminated": ended | ({"message": message} if message else {})}
        self.log.close()

    def _message(self, code: int) -> str:
        """What the container left to say: its termination message, or the end of its log if it asks for that."""
        with suppress(OSError):
            if text := self._launch.message_file.read_text(encoding="utf-8", errors="replace"):
                return text[:MESSAGE_BYTES]
        fallback = self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError"
        return self.log.tail() if code and fallback else ""


def _tied_to_this_process(launch: Launch) -> list[str]:
    """The command, such that a cluster that is killed takes its containers along where the system can do that."""
    if not launch.argv:
        raise FileNotFoundError("no command specified")
    program = shutil.which(launch.argv[0], path=launch.environment["PATH"])
    if program is None:
        raise FileNotFoundError(f'"{launch.argv[0]}": executable file not found in $PATH')
    tie = shutil.which("setpriv")
    return [*([tie, "--pdeathsig", "KILL", "--"] if tie else []), program, *launch.argv[1:]]


def _marked(identity: str) -> list[int]:
    """The processes that carry this container's mark in their environment."""
    mark, found = f"{MARK}={identity}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found
