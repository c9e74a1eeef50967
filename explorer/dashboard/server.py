"""The server: Dash behind the guard, on loopback, with worker processes for simulations."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from explorer.dashboard.app import Dashboard
from explorer.dashboard.guard import Guard, hosts
from explorer.workers import workers

WORKERS = 2  # one page does not wait for another's simulation


@contextmanager
def serving(
    folders: Sequence[Path], trace_path: Callable[[str | None], str | None], address: str, port: int
) -> Iterator[Any]:
    """Give a server that listens on an address (port 0: a free one); `serve_forever` runs it, also in a thread.

    Raises ValueError for folders without results, an address that is everywhere or not of this computer, a port in use.
    """
    from werkzeug.serving import make_server

    if is_everywhere(address):
        raise ValueError(f"--host {address}: every network; allowed: one address of this computer")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request says nothing to a reader
    with listening(address, port) as ear, workers(WORKERS) as executor:
        application = Dashboard(folders, executor, trace_path).application().server
        server = make_server(address, port, application, threaded=True, fd=ear.fileno())
        server.app = Guard(application.wsgi_app, hosts(address, server.port))
        try:
            yield server
        finally:
            server.server_close()


def is_everywhere(address: str) -> bool:
    """Tell whether to listen on an address is to listen on every network, in whatever way it is written ("0", "::0").

    Raises ValueError for what is no address of a computer.
    """
    if not address:
        return True
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(f"--host {address[:80]}: {error.strerror}; allowed: one address of this computer") from None
    addresses = [ip_address(str(where[0])) for *_, where in found]
    return any((getattr(each, "ipv4_mapped", None) or each).is_unspecified for each in addresses)


def listening(address: str, port: int) -> socket.socket:
    """Return a socket that listens; ValueError where that cannot be, before anything slow is done."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family)
    except OSError as error:
        why = str(error.strerror).partition(" (while")[0]  # the address follows, which stands here already
        raise ValueError(
            f"--host {address} --port {port}: {why}; allowed: an address of this computer, a free port (0 finds one)"
        ) from None


@contextmanager
def in_thread(server: Any) -> Iterator[str]:
    """Run a server in a thread inside the block, and give its address."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{server.host}:{server.port}"
    finally:
        server.shutdown()
        thread.join()
