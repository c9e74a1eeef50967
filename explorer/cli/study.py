"""The commands that search the space of a study, `explore`, and write its report again, `report`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from explorer.asked import trace_paths
from explorer.text.json_text import Json, print_json

Cluster = Annotated[str | None, typer.Option(help="The workers of a Dask scheduler instead: tcp://HOST:PORT.")]
Storage = Annotated[str | None, typer.Option(help="Keep the rows in a database, too: postgresql://USER@HOST/DATABASE.")]
Jobs = Annotated[int | None, typer.Option(min=1, max=1024, help="Worker processes.  [default: one per CPU]")]


def explore(
    study: Annotated[Path, typer.Argument(help="A study file (YAML).")],
    jobs: Jobs = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Search seed instead of the study's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Results folder.  [default: results/NAME]")] = None,
    cluster: Cluster = None,
    storage: Storage = None,
    no_memo: Annotated[
        bool, typer.Option("--no-memo", help="Neither read nor write the memo of earlier simulations.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Search the space of a study; run it again to continue."""
    for library in ("OPENBLAS", "MKL", "OMP"):  # before NumPy: sums in parts round otherwise on another number of cores
        os.environ[f"{library}_NUM_THREADS"] = "1"
    _check_addresses(cluster, storage)
    from explorer.evaluate import EVALUATOR
    from explorer.explore import explore as search
    from explorer.progress import bar
    from explorer.report.folder import write_report
    from explorer.search import ending
    from explorer.storage.memo import Memo, cache_folder
    from explorer.study.study import load_study
    from explorer.text import tables

    question = load_study(study).with_seed(seed)
    folder = out or Path("results") / question.name
    memo = None if no_memo else Memo(cache_folder())
    try:
        with bar(wanted=not as_json) as progress:
            count = jobs or os.cpu_count() or 1
            summary = search(
                question, folder, count, EVALUATOR, progress, trace_paths(question), cluster, storage, memo
            )
        page = write_report(folder)
    except KeyboardInterrupt:
        print(f"rowhit: stopped; what is done is kept in {folder}, the same command continues", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print_json(summary.record() | {"report": str(page)})
    else:
        print(summary.identity.title)
        print(tables.result_table(summary))
        print(tables.verdict(summary))
        print(ending.how_it_ended(summary))
        if len(summary.objectives) > 1:
            print(ending.front_table(summary))
        print(page)


def report(
    folders: Annotated[list[Path], typer.Argument(help="Results folders; several are compared.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the comparison of several.  [default: report]")] = None,
    storage: Annotated[
        str | None, typer.Option(help="Read the rows from a database: postgresql://USER@HOST/DATABASE.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the report of a results folder, or compare several.

    The report of one is written into its folder, a comparison into a folder of its own. With --storage the rows come
    from the studies of the folders' names in the database.
    """
    _check_addresses(None, storage)
    from explorer.report.folder import write_comparison, write_report
    from explorer.storage.folder import restore
    from explorer.summary import summarise

    if storage is not None:
        for folder in folders:
            restore(folder, storage)
    if len(folders) > 1:
        page = write_comparison(folders, out or Path("report"))
        record = {"studies": [summarise(folder).record() for folder in folders]}
    elif out is not None:
        raise ValueError("--out: allowed with several results folders; the report of one is written into it")
    else:
        page = write_report(folders[0])
        record = summarise(folders[0]).record()
    if as_json:
        print_json(record | {"report": str(page)})
    else:
        print(page)


def _check_addresses(cluster: str | None, storage: str | None) -> None:
    """Raise ValueError for what cannot be an address, before anything heavy is loaded."""
    from explorer.storage.postgres_url import parse_url
    from explorer.workers.address import check_address

    if cluster is not None:
        check_address(cluster)
    if storage is not None:
        parse_url(storage)
