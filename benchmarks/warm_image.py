"""An image of the test cluster whose containers are forked from one process that has imported everything already.

Importing Dagster costs a pod 2 to 3 CPU seconds, so 1,600 pods would take more than an hour of two cores. Here a pod's
process is a small program in the image, `dagster`, that hands its arguments, environment, folder and output to the warm
process. That one forks; the small program passes signals on, waits, and ends as the fork ended. When it is killed, its
fork is killed. Only the imports are saved; the warm process also imports dagster_k8s, which a step's pod
does not.
"""

import atexit
import contextlib
import gc
import importlib
import marshal
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
SOCKET = "warm.socket"
HEADER = 4
KILLED = 256
"""Added to the number of a signal that ended a fork, to distinguish it from an exit code."""
# It must start fast: no site-packages, no environment, few imports.
CLIENT = """#!{python} -IS
import marshal, os, signal, socket, sys
warm = socket.socket(socket.AF_UNIX)
warm.connect({socket!r})
text = marshal.dumps((sys.argv, dict(os.environ), os.getcwd()))
socket.send_fds(warm, [len(text).to_bytes({header}, "big")], [0, 1, 2])
warm.sendall(text)
pid = int.from_bytes(warm.recv({header}, socket.MSG_WAITALL), "big")
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
ended = warm.recv({header}, socket.MSG_WAITALL)
code = int.from_bytes(ended, "big") if ended else 1
if code > {killed}:
    signal.signal(code - {killed}, signal.SIG_DFL) if code - {killed} != signal.SIGKILL else None
    os.kill(os.getpid(), code - {killed})
os._exit(code)
"""


@contextlib.contextmanager
def warm_image(folder: Path, modules: list[str], environment: Mapping[str, str]) -> Iterator[Path]:
    """The folder of the image's programs, while its warm process runs."""
    folder.mkdir(parents=True)
    path = folder / SOCKET
    client = folder / "dagster"
    python = os.path.realpath(sys.executable)
    client.write_text(CLIENT.format(python=python, socket=str(path), header=HEADER, killed=KILLED))
    client.chmod(0o755)
    program = f"import sys; sys.path.insert(0, {str(HERE)!r}); import warm_image; warm_image.main(*sys.argv[1:])"
    command = [sys.executable, "-c", program, str(path), *modules]
    with subprocess.Popen(command, env={**os.environ, **environment}, stdin=subprocess.PIPE) as process:
        try:
            while not path.exists():
                if process.poll() is not None:
                    raise RuntimeError(f"The warm process ended with {process.returncode}.")
                threading.Event().wait(0.1)
            yield folder
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


@dataclass
class Warm:
    """The warm process: one thread, a connection for each running fork."""

    listener: socket.socket
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    forks: dict[socket.socket, int] = field(default_factory=dict)

    def serve(self) -> None:
        """Serve until standard input ends."""
        self.selector.register(self.listener, selectors.EVENT_READ, self.accept)
        self.selector.register(sys.stdin, selectors.EVENT_READ, None)
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is sys.stdin:
                    for pid in self.forks.values():
                        _kill(pid)
                    return
                key.data()

    def accept(self) -> None:
        """Fork for one client."""
        client, _ = self.listener.accept()
        header, files, _, _ = socket.recv_fds(client, HEADER, 3)
        text = client.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL) if len(files) == 3 else b""
        if not text:  # killed before it could say what it wants
            client.close()
        elif pid := os.fork():
            self.forks[client] = pid
            self.selector.register(client, selectors.EVENT_READ, lambda: self.client_ended(client))
            ended = os.pidfd_open(pid)
            self.selector.register(ended, selectors.EVENT_READ, lambda: self.fork_ended(client, pid, ended))
            with contextlib.suppress(OSError):
                client.sendall(pid.to_bytes(HEADER, "big"))
        else:
            argv, environment, folder = marshal.loads(text)  # noqa: S302 (from our own client)
            become(argv, environment, folder, files)
        for file in files:
            os.close(file)

    def client_ended(self, client: socket.socket) -> None:
        """The pod's process was killed, so kill its fork too."""
        self.selector.unregister(client)
        _kill(self.forks[client])

    def fork_ended(self, client: socket.socket, pid: int, ended: int) -> None:
        """Tell the pod's process how its fork ended."""
        self.selector.unregister(ended)
        os.close(ended)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(KeyError):
            self.selector.unregister(client)
        with contextlib.suppress(OSError):
            client.sendall((code if code >= 0 else KILLED - code).to_bytes(HEADER, "big"))
        client.close()
        del self.forks[client]


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)  # only this process waits for it, so the number is still its own
    with contextlib.suppress(ProcessLookupError):  # killed before it had a group
        os.killpg(pid, signal.SIGKILL)


def become(argv: list[str], environment: dict[str, str], folder: str, files: list[int]) -> None:
    """In a fork: run as the process that the client stands for, to its end."""
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.closerange(3, 4096)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = argv
    code: object = 1
    try:
        from dagster._cli import main as dagster

        dagster()  # type: ignore[no-untyped-call]  # dagster gives it no types
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:  # noqa: BLE001 (as the interpreter itself does)
        sys.excepthook(*sys.exc_info())
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def main(path: str, *modules: str) -> None:
    """The warm process: import, then listen."""
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # all forks share the objects that exist now: the collector would write to them
    assert threading.active_count() == 1, threading.enumerate()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen(1024)
        os.rename(f"{path}.new", path)
        Warm(listener).serve()
