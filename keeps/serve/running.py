"""Listening: on this machine unless there is a key, until Ctrl-C, with what is under way brought to its end."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from keeps.errors import SettingsError

if TYPE_CHECKING:
    from keeps.serve.app import Served

GRACE = 5  # seconds that replies under way get to end when the server is stopped
SPARE = 64  # connections beyond four a place; more are refused, so that nobody fills the memory with half requests
LOCAL = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("example.org")
    (True, True, False, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_host(host: str, key: str) -> None:
    """Refuse to be reached from elsewhere without a key.

    Raises:
        SettingsError: ``host`` is more than this machine, and there is no key.
    """
    if not key and not is_loopback(host):
        mend = "name an environment variable that holds a key with --api-key-env, or stay at 127.0.0.1"
        raise SettingsError("a server that others reach needs an API key", where=f"--host {host}", mend=mend)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens at ``host`` and ``port`` (0: any free one).

    Raises:
        SettingsError: the port is taken or not allowed, or the host is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        mend = "choose another --port or --host"
        raise SettingsError(f"nothing can listen there ({error})", where=f"{host}:{port}", mend=mend) from None


def address_of(listener: socket.socket) -> str:
    """Where clients find the protocol.

    >>> with listening("127.0.0.1", 0) as listener:
    ...     address_of(listener).startswith("http://127.0.0.1:")
    True
    """
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def run(served: Served, listener: socket.socket) -> None:
    """Answer until the process is told to end by Ctrl-C or SIGTERM."""
    server = _server(served)
    try:
        with contextlib.suppress(KeyboardInterrupt):  # raised once more when everything has ended
            server.run(sockets=[listener])
    finally:
        served.desk.close()
        listener.close()


@contextlib.contextmanager
def in_background(served: Served, listener: socket.socket) -> Iterator[str]:
    """The address of a server that runs in a thread while the block lasts."""
    server = _server(served)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield address_of(listener)
    finally:
        server.should_exit = True
        thread.join()
        served.desk.close()
        listener.close()


def _server(served: Served) -> Any:
    """A server of uvicorn."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            served.app,
            http="h11",
            ws="none",
            lifespan="off",
            log_level="warning",
            limit_concurrency=SPARE + 4 * served.limits.max_concurrency,
            access_log=False,  # what is asked is nobody's business
            server_header=False,
            timeout_graceful_shutdown=GRACE,
        )
    )
