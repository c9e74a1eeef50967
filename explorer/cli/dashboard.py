"""The command `dashboard`: results folders in a browser, live."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from explorer.asked import trace_path
from explorer.extras import missing


def dashboard(
    folders: Annotated[list[Path], typer.Argument(help="Results folders.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8050,
    host: Annotated[str, typer.Option(help="Address of this computer to listen on.")] = "127.0.0.1",
) -> None:
    """Show results in a browser, live while a study runs. Linked filters, what-if; Ctrl-C ends it."""
    try:
        from explorer.dashboard.server import serving
    except ImportError as error:
        raise missing("dashboard", str(error.name), "dashboard") from None
    with serving(folders, trace_path, host, port) as server:
        print(f"http://{server.host}:{server.port}", flush=True)
        server.serve_forever()
