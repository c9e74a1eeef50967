"""The page of one simulation: every view of it (R1 to R10), with where its numbers come from.

`rowhit timeline --pictures` writes it. plotly.js is in the page: it is one file, which opens without a network.
"""

from __future__ import annotations

import html
from pathlib import Path

from explorer.files import write_atomically
from explorer.page import LIMITS, facts_table, page, sections
from explorer.provenance import versions
from explorer.views import index
from explorer.views.look import DETERMINISTIC
from explorer.views.run_data import RunData
from explorer.views.view import drawn

PAGE = "run.html"


def write_run(folder: Path, run: RunData, trace: Path, settings: str) -> Path:
    """Write the page into a folder, made where it is missing, and return its path; `trace` is what it points to.

    Raises OSError where the folder cannot be written.
    """
    from plotly.offline import get_plotlyjs

    metrics = run.metrics
    facts = versions() | {name: str(metrics[name]) for name in ("program_hash", "machine_hash") if name in metrics}
    whole = f"Every interval of every unit is in {trace.name}, which ui.perfetto.dev opens."
    body = [
        f"<p>{html.escape(settings)}</p><p>{html.escape(whole)}</p>",
        *sections(drawn(index.RUN, run)),
        f"<footer><h2>Provenance</h2><p>{DETERMINISTIC} {LIMITS}</p>{facts_table(facts)}</footer>",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PAGE, page(run.title, body, script=get_plotlyjs()).encode())
    return folder / PAGE
