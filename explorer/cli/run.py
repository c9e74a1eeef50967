"""The commands that ask about one kernel: `run`, `explain` and `program`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from explorer.cli.options import Engine, Question, asks, say_engine, say_long, say_suggestion, with_what_fits
from explorer.files import require_place, write_atomically
from explorer.text.json_text import Json, print_json

if TYPE_CHECKING:
    from explorer.explain import Explanation
    from hwmodel.timeline import Timeline


@asks()
def run(
    question: Question,
    engine: Engine = "compiled",
    save: Annotated[Path | None, typer.Option(help="A file to write the program and its result to.")] = None,
    as_json: Json = False,
) -> None:
    """Simulate one kernel on one machine."""
    from explorer import evaluate, programs
    from explorer.text import run as run_view
    from explorer.text import tables
    from hwmodel.saving import archive

    if save is not None:
        require_place(save, "--save")
    query, saved = with_what_fits(question.query(), lambda query: evaluate.saved_run(query, engine, say_long))
    knobs = programs.knobs(query)
    assert saved.result is not None
    metrics = saved.result.metrics()
    if save is not None:
        write_atomically(save, archive(saved))
    say_engine(programs.machine_of(query.machine, query.machine_overrides), query.machine, engine)
    say_suggestion(query, saved.result)
    if as_json:
        source = programs.batch_source(query)
        print_json(dict(metrics) | {"knobs": knobs} | ({"batch": source} if source is not None else {}))
    else:
        print(programs.describe(query))
        print(tables.knobs_line(knobs))
        if line := tables.energy_line(metrics):
            print(line)
        print()
        print(run_view.run_text(metrics))


@asks(kernel="")
def explain(
    question: Question,
    file: Annotated[Path | None, typer.Argument(help="What `rowhit run --save` wrote, in place of a kernel.")] = None,
    engine: Engine = "compiled",
    path: Annotated[bool, typer.Option("--path", help="The critical path, too, by the reference: slower.")] = False,
    as_json: Json = False,
) -> None:
    """Say why one kernel takes as long as it does. Its stalls, and reruns with one obstacle taken away each."""
    from explorer import evaluate, programs
    from explorer.progress import bar
    from explorer.study import settings
    from explorer.text import tables

    machine, sets = question.machine, question.sets
    if file is not None:
        if question != Question(machine, "", sets=sets):
            raise ValueError(f"explain {file}: a saved run takes --machine, --set of its numbers, --engine and --json")
        overrides = settings.machine_numbers(settings.parse(",".join(sets))) if sets else ()
        with bar(wanted=not as_json) as progress:
            found, saved = evaluate.explanation_of(file, machine, overrides, engine, progress, say_long)
        title = f"{saved.title}\n{tables.knobs_line(saved.settings)}"
        ran = saved.program and path and evaluate.recorded(saved.program, programs.machine_of(machine, overrides))
        _say_explanation(found, ran or None, title, as_json)
        return
    if not question.kernel:
        raise ValueError("explain: give --kernel, or a file that `rowhit run --save` wrote")
    with bar(wanted=not as_json) as progress:
        query, found = with_what_fits(
            question.query(), lambda query: evaluate.explanation(query, engine, progress, say_long)
        )
        ran = evaluate.timeline(query) if path else None
    say_engine(programs.machine_of(query.machine, query.machine_overrides), query.machine, engine)
    say_suggestion(query, found.result)
    title = f"{programs.describe(query)}\n{tables.knobs_line(programs.knobs(query))}"
    _say_explanation(found, ran, title, as_json)


def _say_explanation(found: Explanation, ran: Timeline | None, title: str, as_json: bool) -> None:
    from explorer.text import path as path_view
    from explorer.text import run as run_view

    if as_json:
        path = {"critical_path": [line.record() for line in path_view.path_lines(ran)]} if ran else {}
        print_json(found.record() | path)
    else:
        texts = [title, run_view.explanation_text(found), *([path_view.path_text(ran)] if ran else [])]
        print("\n\n".join(texts))


@asks()
def program(
    question: Question,
    as_json: Json = False,
) -> None:
    """Print what one kernel compiles to. Tensors, buffers, the instruction streams, and a map of the scratchpad."""
    from explorer import programs
    from explorer.text import tables

    query, (facts, text) = with_what_fits(question.query(), programs.program_facts)
    knobs = programs.knobs(query)
    if as_json:
        print_json(facts | {"knobs": knobs})
    else:
        print("\n".join([programs.describe(query), tables.knobs_line(knobs), text]))
