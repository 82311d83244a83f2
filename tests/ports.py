"""A port for a server that has to be told one."""

import secrets
import socket
from contextlib import suppress


def free_port() -> int:
    """One that is free, and not among those that the system gives to every outgoing connection: those would be taken
    before a server that needs half a minute to start has come to it."""
    while True:
        port = 10_000 + secrets.randbelow(10_000)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
