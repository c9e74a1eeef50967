"""The command `predict`: the times of kernels in a table, on a machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from explorer.files import require_place
from explorer.text.json_text import Json, print_json


def predict(
    table: Annotated[Path, typer.Argument(help="A CSV, compressed or not, with the columns of measured kernels.")],
    machine: Annotated[str, typer.Option(help="A machine by name, or a YAML file.")],
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    sets: Annotated[list[str] | None, typer.Option("--set", help="path=value: a machine number.")] = None,
    fidelity: Annotated[
        str,
        typer.Option(help="exact: simulated whole. auto, windows: long ones in parts. estimate: nothing is simulated."),
    ] = "windows",
    jobs: Annotated[int | None, typer.Option(min=1, max=1024, help="Worker processes.  [default: one per CPU]")] = None,
    as_json: Json = False,
) -> None:
    """Predict the time of every row of a table of kernels. The best schedule, what bounds it, or why there is none.

    Exit status 1 if no row can be modelled.
    """
    from explorer import prediction_table as tables
    from explorer.progress import bar
    from explorer.study import settings

    overrides = settings.machine_numbers(settings.parse(",".join(sets))) if sets else ()
    if out.suffix != ".parquet":
        raise ValueError(f"--out: {out}: allowed: a name that ends in .parquet")
    require_place(out, "--out", table)
    rows = tables.read_rows(table)
    if found := tables.passed_over(rows):
        print(f"rowhit: warning: {table}: {found}", file=sys.stderr)
    with bar(not as_json) as progress:
        answers = tables.predict_rows(
            tables.rows_of(rows),
            machine,
            overrides,
            fidelity=fidelity,
            jobs=jobs or os.cpu_count() or 1,
            progress=progress,
        )
    tables.write_parquet(tables.with_answers(rows, answers), out)
    modelled = sum(answer.reason is None for answer in answers)
    if as_json:
        print_json({"rows": len(answers), "modelled": modelled, "out": str(out)})
    else:
        print("\n".join([*tables.summary(answers, rows), str(out)]))
    if answers and not modelled:
        raise typer.Exit(1)
