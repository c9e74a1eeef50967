"""The commands that ask about one kernel: `run`, `explain`, `program` and `whatif`."""

from __future__ import annotations

from typing import Annotated

import typer

from explorer.cli_query import (
    BatchSize,
    Context,
    Engine,
    Kernel,
    Machine,
    Model,
    Seed,
    Sets,
    Size,
    Sizes,
    Suggest,
    Trace,
    query_of,
    say_engine,
    sizes_of,
    warn,
)
from explorer.json_text import Json, print_json

OneJob = Annotated[int, typer.Option(min=1, max=1024, help="Worker processes.")]


def run(
    machine: Machine,
    kernel: Kernel,
    model: Model = None,
    batch: BatchSize = None,
    context: Context = None,
    trace: Trace = None,
    seed: Seed = 0,
    m: Size = None,
    n: Size = None,
    k: Size = None,
    sizes: Sizes = None,
    sets: Sets = None,
    suggest: Suggest = False,
    engine: Engine = "compiled",
    as_json: Json = False,
) -> None:
    """Simulate one kernel on one machine."""
    from explorer import evaluate, run_view, settings, tables

    query = query_of(machine, kernel, model, batch, context, trace, seed, sizes_of(sizes, {"m": m, "n": n, "k": k}))
    warn(model)
    if sets:
        query = settings.apply(query, settings.parse(",".join(sets)), evaluate.defaults(query.kernel))
    if suggest:
        query = evaluate.suggested(query)
    metrics, knobs = evaluate.simulate(query, engine).metrics, evaluate.knobs(query)
    say_engine(evaluate.machine_of(query.machine, query.machine_overrides), query.machine, engine)
    if as_json:
        source = evaluate.batch_source(query)
        print_json(dict(metrics) | {"knobs": knobs} | ({"batch": source} if source is not None else {}))
    else:
        print(evaluate.describe(query))
        print(tables.knobs_line(knobs))
        if line := tables.energy_line(metrics):
            print(line)
        print()
        print(run_view.run_text(metrics))


def explain(
    machine: Machine,
    kernel: Kernel,
    model: Model = None,
    batch: BatchSize = None,
    context: Context = None,
    trace: Trace = None,
    seed: Seed = 0,
    m: Size = None,
    n: Size = None,
    k: Size = None,
    sizes: Sizes = None,
    sets: Sets = None,
    suggest: Suggest = False,
    engine: Engine = "compiled",
    as_json: Json = False,
) -> None:
    """Say why one kernel takes as long as it does: its stalls, and reruns with one obstacle taken away each."""
    from explorer import evaluate, run_view, settings, tables

    query = query_of(machine, kernel, model, batch, context, trace, seed, sizes_of(sizes, {"m": m, "n": n, "k": k}))
    warn(model)
    if sets:
        query = settings.apply(query, settings.parse(",".join(sets)), evaluate.defaults(query.kernel))
    if suggest:
        query = evaluate.suggested(query)
    found = evaluate.explanation(query, engine)
    say_engine(evaluate.machine_of(query.machine, query.machine_overrides), query.machine, engine)
    if as_json:
        print_json(found.record())
    else:
        print("\n".join([evaluate.describe(query), tables.knobs_line(evaluate.knobs(query)), ""]))
        print(run_view.explanation_text(found))


def program(
    machine: Machine,
    kernel: Kernel,
    model: Model = None,
    batch: BatchSize = None,
    context: Context = None,
    trace: Trace = None,
    seed: Seed = 0,
    m: Size = None,
    n: Size = None,
    k: Size = None,
    sizes: Sizes = None,
    sets: Sets = None,
    suggest: Suggest = False,
    as_json: Json = False,
) -> None:
    """Print what one kernel compiles to: tensors, buffers, the instruction streams, and a map of the scratchpad."""
    from explorer import evaluate, settings, tables

    query = query_of(machine, kernel, model, batch, context, trace, seed, sizes_of(sizes, {"m": m, "n": n, "k": k}))
    if sets:
        query = settings.apply(query, settings.parse(",".join(sets)), evaluate.defaults(query.kernel))
    if suggest:
        query = evaluate.suggested(query)
    facts, text = evaluate.program_facts(query)
    knobs = evaluate.knobs(query)
    if as_json:
        print_json(facts | {"knobs": knobs})
    else:
        print("\n".join([evaluate.describe(query), tables.knobs_line(knobs), text]))


def whatif(
    machine: Machine,
    kernel: Kernel,
    sets: Sets = None,
    model: Model = None,
    batch: BatchSize = None,
    context: Context = None,
    trace: Trace = None,
    seed: Seed = 0,
    m: Size = None,
    n: Size = None,
    k: Size = None,
    sizes: Sizes = None,
    jobs: OneJob = 1,
    as_json: Json = False,
) -> None:
    """Simulate a baseline and its variants, one per --set."""
    from explorer import evaluate, settings, tables
    from explorer.whatif import what_if
    from explorer.workers import workers

    query = query_of(machine, kernel, model, batch, context, trace, seed, sizes_of(sizes, {"m": m, "n": n, "k": k}))
    warn(model)
    if not sets:
        raise ValueError("whatif needs at least one --set path=value")
    changes = [settings.parse(text) for text in sets]
    with workers(jobs) as executor:
        record = what_if(query, changes, evaluate.EVALUATOR, executor)
    if as_json:
        print_json(record)
    else:
        print(evaluate.describe(query))
        print(tables.whatif_table(record))
