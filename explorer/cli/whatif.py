"""The commands that compare: `whatif` along changes and axes, `robust` around the winner of a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from explorer.asked import trace_paths
from explorer.cli.options import Question, asks
from explorer.text.json_text import Json, print_json

OneJob = Annotated[int, typer.Option(min=1, max=1024, help="Worker processes.")]
Fidelity = Annotated[
    str,
    typer.Option(
        help="exact: every burst; windows: long phases by parts of them; auto: only those over 512 MiB; or bound."
    ),
]
AUTO = "auto"
SWEEP = "PATH=A..B, A..B+STEP, A..B*FACTOR or V,V,...: a knob, size, batch, context or number; two make a grid."


@asks()
def whatif(
    question: Question,
    sweeps: Annotated[list[str] | None, typer.Option("--sweep", help=SWEEP)] = None,
    against: Annotated[str | None, typer.Option(help="Compare with this change instead of the baseline.")] = None,
    fidelity: Fidelity = AUTO,
    jobs: OneJob = 1,
    as_json: Json = False,
) -> None:
    """Compare a baseline with variants of it. One per --set, along swept axes where there are some."""
    from explorer.progress import bar
    from explorer.questions.asking import ASKER
    from explorer.questions.fidelity import check
    from explorer.questions.sweep import axes_of, parse_axis
    from explorer.questions.variants import what_if
    from explorer.study import settings
    from explorer.workers import workers

    other = () if against is None else settings.parse(against, "--against")
    if not (question.sets or sweeps or other):
        raise ValueError("whatif needs at least one --set path=value, or a --sweep")
    changes = [settings.parse(text) for text in question.sets or ()]
    axes = axes_of([parse_axis(text) for text in sweeps or ()])
    query = replace(question, sets=None).query()
    with workers(jobs) as executor, bar(wanted=not as_json) as progress:
        table = what_if((query,), changes, axes, check(fidelity), ASKER, executor, other, progress=progress)
    print_json(table.record()) if as_json else print(table)


def robust(
    results: Annotated[Path, typer.Argument(help="The folder that `rowhit explore` wrote.")],
    axes: Annotated[
        list[str] | None, typer.Option("--axis", help=f"As --sweep. {SWEEP}  [default: batch and context]")
    ] = None,
    top: Annotated[int, typer.Option(min=2, max=16, help="Designs of the study that are compared.")] = 3,
    seeds: Annotated[int, typer.Option(min=0, max=1024, help="Held-out batches.")] = 3,
    trace: Annotated[
        str | None, typer.Option(help="Draw held-out batches from azure or mooncake.  [default: the study's]")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="One of the study's, by which designs are compared.  [default: its first]")
    ] = None,
    fidelity: Fidelity = AUTO,
    jobs: OneJob = 1,
    as_json: Json = False,
) -> None:
    """Say where the winner of a study stops winning. Along axes, over uncertain numbers, on other batches."""
    from explorer.names import unknown
    from explorer.progress import bar
    from explorer.query import TRACES
    from explorer.questions.robustness import robust as ask
    from explorer.questions.sweep import parse_axis
    from explorer.storage.folder import read_identity

    if trace is not None and trace not in TRACES:
        raise ValueError(f"--trace: {unknown('trace', trace, TRACES)}")
    with bar(wanted=not as_json) as progress:
        found = ask(
            results,
            axes=[parse_axis(text, "--axis") for text in axes] if axes else None,
            top=top,
            seeds=seeds,
            trace=trace,
            fidelity=fidelity,
            jobs=jobs,
            objective=objective,
            trace_paths=trace_paths(read_identity(results).study, trace),
            progress=progress,
        )
    print_json(found.record()) if as_json else print(found)
