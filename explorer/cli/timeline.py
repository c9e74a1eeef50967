"""The command `timeline`: a run of one kernel as a trace for ui.perfetto.dev."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from explorer.cli.options import Question, asks, with_what_fits
from explorer.files import require_folder, require_place


@asks()
def timeline(
    question: Question,
    out: Annotated[Path, typer.Option(help="The file to write: FILE.json, or FILE.json.gz to compress it.")],
    start_us: Annotated[float, typer.Option("--from", min=0, help="Microsecond from which on to show the run.")] = 0,
    end_us: Annotated[
        float | None, typer.Option("--to", min=0, help="Microsecond up to which to show it.  [default: its end]")
    ] = None,
    pictures: Annotated[Path | None, typer.Option(help="A folder for a page of pictures of the run.")] = None,
    max_mb: Annotated[float, typer.Option(help="Megabytes of JSON, at most; before compression.")] = 100,
) -> None:
    """Write what every unit does when, a trace for ui.perfetto.dev. Simulated by the reference."""
    from explorer import perfetto, programs
    from explorer.text import path as path_view
    from explorer.text import tables
    from explorer.views import run_data

    require_place(out, "--out")
    if pictures is not None:
        require_folder(pictures, "--pictures")
    if not 0 < max_mb <= perfetto.MOST_MB:
        raise ValueError(f"--max-mb: {max_mb:g}; allowed: above 0, up to {perfetto.MOST_MB}")
    query, run = with_what_fits(question.query(), run_data.of_query)
    recorded = run.recorded()
    window = perfetto.window_fs(recorded, start_us, end_us)
    written = perfetto.write(out, recorded, window, int(max_mb * 1_000_000))
    knobs = tables.knobs_line(programs.knobs(query))
    print(run.title)
    print(knobs)
    print(perfetto.text(out, recorded, window, written, max_mb))
    print(f"\n{path_view.path_text(recorded)}")
    if pictures is not None:
        from explorer.report.run import write_run

        print(write_run(pictures, run, out, knobs))
