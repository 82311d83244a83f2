"""A PostgreSQL server for a test session, and an empty Dagster database in it for each test.

The programs are the system's: on the PATH, or where Debian's package puts them.
"""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2

from tests.ports import free_port

USER = "dagster"
OPTIONS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "listen_addresses=127.0.0.1")
DATABASES = itertools.count()


def programs() -> Path | None:
    """The folder of initdb and postgres; None where PostgreSQL is not installed."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    return versions[-1] if versions else None


@contextmanager
def serve(folder: Path, *more_options: str) -> Iterator[str]:
    """Start a server on an empty folder's data; the URL has no database in it."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="postgres-", dir=_memory()) as name:
        data = Path(name) / "data"
        owner = _owner(Path(name))
        _run_initdb(data, owner)
        tie = shutil.which("setpriv")  # a test session that is killed takes its server along
        command = [*([tie, "--pdeathsig", "INT", "--"] if tie else []), str(_program("postgres"))]
        command += ["-D", str(data), "-p", str(port), "-k", name]
        options = [word for option in (*OPTIONS, *more_options) for word in ("-c", option)]
        with (folder / "postgres.log").open("wb") as log:
            server = subprocess.Popen([*command, *options], stdout=log, stderr=subprocess.STDOUT, user=owner)
            try:
                _wait_until_up(server, port, folder / "postgres.log")
                yield f"postgresql://{USER}@127.0.0.1:{port}"
            finally:
                server.send_signal(signal.SIGINT)  # fast shutdown: do not wait for clients
                server.wait()


def new_database(server: str, template: str = "template1") -> str:
    """The URL of a new database, a copy of the template."""
    name = f"test_{next(DATABASES)}"
    with closing(psycopg2.connect(f"{server}/postgres")) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return f"{server}/{name}"


def _program(name: str) -> Path:
    folder = programs()
    if folder is None:
        raise FileNotFoundError("PostgreSQL is not installed. On Debian: apt-get install postgresql.")
    return folder / name


def _run_initdb(data: Path, owner: str | None) -> None:
    command = [str(_program("initdb")), "-D", str(data), "-A", "trust", "-U", USER, "-E", "UTF8", "--no-sync"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=owner, cwd="/")


def _owner(folder: Path) -> str | None:
    """PostgreSQL refuses to run as root: give the folder to somebody else then."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    owner = next(name for name in ("postgres", "nobody") if name in names)
    shutil.chown(folder, owner)
    return owner


def _memory() -> str | None:
    """Where files cost no disk; the ordinary temporary folder elsewhere."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _wait_until_up(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    while True:
        try:
            psycopg2.connect(f"postgresql://{USER}@127.0.0.1:{port}/postgres").close()
            return
        except psycopg2.OperationalError as error:
            if server.poll() is not None:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text()}") from error
            time.sleep(0.05)
