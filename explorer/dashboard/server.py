"""The server: Dash behind the guard, on loopback, with worker processes for simulations."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from explorer.dashboard.app import Dashboard
from explorer.dashboard.guard import Guard, hosts
from explorer.workers import workers

WORKERS = 2  # one page does not wait for another's simulation
EVERYWHERE = ("", "0.0.0.0", "::", "*")


@contextmanager
def serving(
    folders: Sequence[Path], trace_path: Callable[[str | None], str | None], address: str, port: int
) -> Iterator[Any]:
    """Give a server that listens on an address (port 0: a free one); `serve_forever` runs it, also in a thread.

    Raises ValueError for folders without results and for an address that is everywhere, OSError for a port in use.
    """
    from werkzeug.serving import make_server

    if address in EVERYWHERE:
        raise ValueError(f"--host {address}: every network; allowed: one address of this computer")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request says nothing to a reader
    with workers(WORKERS) as executor:
        application = Dashboard(folders, executor, trace_path).application().server
        server = make_server(address, port, application, threaded=True)
        server.app = Guard(application.wsgi_app, hosts(address, server.port))
        try:
            yield server
        finally:
            server.server_close()


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
