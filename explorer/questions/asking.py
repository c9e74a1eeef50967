"""Questions from scripts and notebooks: `explorer.ask` and `explorer.whatif`.

    import explorer
    answer = explorer.ask(machine="h100-sxm", kernel="decode-attention", model="llama-3.1-8b", batch=32, context=4096)
    answer.time_us, answer.gap, answer.limited_by, answer.validated
    explorer.whatif(answer, variants=[{"hbm.stacks": 6}], sweep={"context": [1024, 4096, 16384]}).to_pandas()

Names and values are those of the command line. Every error is a ValueError in one line. Answers are kept in the
process; a file that has changed since the last question is read again.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from explorer import evaluate, programs
from explorer.asked import query_of
from explorer.names import unknown
from explorer.query import Query, Scalar
from explorer.questions.answer import Answer, answer_of
from explorer.questions.fidelity import DEFAULT, Measured, check, measure
from explorer.questions.sweep import axes_of
from explorer.questions.validated import validation
from explorer.questions.variants import Asker, Table, what_if
from explorer.space.bounding import bound_of
from explorer.study import settings
from explorer.study.settings import Settings
from explorer.workers import workers
from explorer.workers.sources import digests, files_of, read_anew

Changes = Mapping[str, Scalar]


def ask(
    *,
    machine: str,
    kernel: str,
    model: str | None = None,
    batch: int | None = None,
    context: int | None = None,
    trace: str | None = None,
    seed: int = 0,
    sizes: Mapping[str, int | str] | None = None,
    routing: str | None = None,
    knobs: Changes | None = None,
    set: Changes | None = None,
    suggest: bool = False,
    fidelity: str = "exact",
) -> Answer:
    """Simulate one kernel on one machine and return the answer.

    `machine`, `model`: names, or paths of files. `sizes`: as `--size`. `knobs`: of the kernel; `set`: knobs, batch,
    context, sizes and numbers of the machine ("hbm.stacks"), as `--set`. `suggest`: knobs that suit the problem for
    those not set. `fidelity`: "exact", "windows", "auto" or "bound" (`explorer.questions.fidelity`). Raises ValueError
    for what cannot be run.
    """
    check(fidelity)
    check_types({"machine": machine, "kernel": kernel}, str, "a name, or the path of a file")
    check_types({"model": model, "trace": trace, "routing": routing}, str | None, "a name, or the path of a file")
    check_types({"batch": batch, "context": context, "seed": seed}, int | None, "a whole number")
    check_types({"sizes": sizes, "knobs": knobs, "set": set}, Mapping | None, "values by name")
    query = query_of(machine, kernel, model, batch, context, trace, seed, dict(sizes or {}), routing)
    read_anew(digests(files_of([query])))
    query = settings.apply(query, _settings({**(knobs or {}), **(set or {})}), programs.settable(kernel))
    if suggest:
        query = programs.suggested(query)
    with programs.suggesting(query):
        return answer_to(query, measure(query, fidelity))


def whatif(
    base: Answer | Mapping[str, Any],
    variants: Sequence[Changes] = (),
    sweep: Mapping[str, str | Iterable[Scalar]] | None = None,
    *,
    against: Changes | None = None,
    fidelity: str = DEFAULT,
    jobs: int = 1,
) -> Table:
    """Return a question beside variants of it, along one or two swept axes where there are some.

    `base`: an answer, or the arguments of `ask` but its fidelity. `variants`, `against`: as `set` of `ask`; with
    `against` the variants (or the base itself, without any) are compared with that change of it. `sweep`: values by
    path, one by one or as after `--sweep PATH=`. `jobs`: worker processes. Raises ValueError for what cannot be run.
    """
    check_types({"base": base}, Answer | Mapping, "an answer, or the arguments of ask by name")
    check_types({"variants": variants}, Sequence, "a list of changes")
    check_types({"jobs": jobs}, int, "a whole number")
    query = base.query if isinstance(base, Answer) else _query_of(base)
    read_anew(digests(files_of([query])))
    if not isinstance(sweep, Mapping | None):
        raise ValueError(f"sweep: {str(sweep)[:40]!r}: allowed: values by path")
    changes, axes = [_settings(change) for change in variants], axes_of(sweep or {})
    if not against and () in changes:
        raise ValueError(f"variants[{changes.index(())}]: changes nothing; allowed: changes of the baseline")
    if not (changes or axes or against):
        raise ValueError("whatif: give variants, or a sweep")
    with workers(jobs) as executor:
        return what_if((query,), changes, axes, check(fidelity), ASKER, executor, _settings(against or {}))


def answer_to(query: Query, measured: Measured) -> Answer:
    """Return the numbers of a query as an answer, with its key and where it stands to measurements."""
    time_us = measured.metrics.get("time_us", measured.metrics["bound_us"])
    assert isinstance(time_us, int | float)
    known = programs.knobs(query) | query.settings()
    title, engine = programs.describe(query), programs.source_digest(programs.FLOORS)
    return answer_of(query, title, known, measured, engine, validation(query, time_us))


ASKER = Asker(
    programs.settable,
    evaluate.check,
    measure,
    answer_to,
    programs.describe,
    partial(bound_of, evaluate.EVALUATOR),
)


def _query_of(base: Mapping[str, Any]) -> Query:
    """Return the query that arguments of `ask` stand for, without asking it."""
    allowed = [name for name in inspect.signature(ask).parameters if name != "fidelity"]
    if wrong := next((name for name in base if name not in allowed), None):
        raise ValueError(f"base: {unknown('argument', str(wrong), allowed)}")
    if missing := next((name for name in ("machine", "kernel") if name not in base), None):
        raise ValueError(f"base: {missing} is missing")
    return ask(**base, fidelity="bound").query


def check_types(given: Mapping[str, Any], kind: Any, allowed: str) -> None:
    """Raise ValueError for an argument that is not of a kind; truths are no numbers."""
    for name, value in given.items():
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{name}: {str(value)[:40]!r}: allowed: {allowed}")


def _settings(changes: Changes) -> Settings:
    """Return changes by path as settings. Raises ValueError for what is none, or a value that is no number or text."""
    if not isinstance(changes, Mapping):
        raise ValueError(f"{str(changes)[:40]!r}: allowed: numbers and texts by path")
    for path, value in changes.items():
        if not isinstance(path, str) or not isinstance(value, bool | int | float | str):
            raise ValueError(f"{path}: {str(value)[:40]!r}: allowed: numbers and texts by path")
    return tuple((path, str(value)) for path, value in changes.items())
