"""The command `step`: every kernel of a step of a whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from explorer.asked import lengths_of
from explorer.cli.options import BatchSize, Context, Engine, Machine, Seed, Trace, say_engine, warn
from explorer.text.json_text import Json, print_json

if TYPE_CHECKING:
    from workloads.scheduled import Scheduled

BUDGET = "--budget: allowed with --trace, and without --context, --prefill, --draft and --chunk"
AT_S = 60  # seconds of served traffic before the step, by default


Prefill = Annotated[bool, typer.Option("--prefill", help="Compute all tokens of the contexts, instead of one more.")]
Draft = Annotated[int, typer.Option(min=0, help="Drafted tokens per sequence, verified beside its one new token.")]
Chunks = Annotated[
    list[str] | None,
    typer.Option(help="NEW or NEW@CONTEXT: a prompt, or NEW tokens of one up to its KV token CONTEXT; repeatable."),
]
Budget = Annotated[
    int | None,
    typer.Option(min=1, help="Serve --trace with so many tokens a step at most, and simulate one of its steps."),
]
At = Annotated[
    float | None,
    typer.Option(min=0, help=f"With --budget: seconds after which the step begins.  [default: {AT_S}]"),
]
Parallel = Annotated[int, typer.Option(min=1, help="Devices of the tensor-parallel group; what one of them does.")]
Weights = Annotated[
    str, typer.Option(help="Weights of products and experts: model, 16-bit, fp8, mxfp8, mxfp4, nvfp4 or w4a16.")
]
Cache = Annotated[str, typer.Option("--kv-dtype", "--kv-cache-dtype", help="Keys, values and latents: model or fp8.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="path=value[,path=value]: machine numbers.")]
Knobs = Annotated[
    list[str] | None, typer.Option("--knob", help="STEP.KNOB=VALUE, for steps of that title: 'qkv.stages=2'.")
]

NoShortcuts = Annotated[
    bool, typer.Option("--no-shortcuts", help="Simulate every run of a kernel, of equal layers too; the same answer.")
]


def step(
    machine: Machine,
    model: Annotated[str, typer.Option(help="A model by name, or a config.json.")],
    batch: BatchSize = None,
    context: Context = None,
    trace: Trace = None,
    seed: Seed = 0,
    prefill: Prefill = False,
    draft: Draft = 0,
    chunk: Chunks = None,
    budget: Budget = None,
    at: At = None,
    parallel: Parallel = 1,
    weights: Weights = "model",
    cache: Cache = "model",
    sets: Sets = None,
    knobs: Knobs = None,
    engine: Engine = "compiled",
    no_shortcuts: NoShortcuts = False,
    as_json: Json = False,
) -> None:
    """Simulate a step of a whole model, kernel by kernel. Decode, prefill, drafts to verify, or several of these."""
    from explorer import programs
    from explorer.progress import bar
    from explorer.step_work import work_of
    from explorer.study import settings
    from explorer.text.step import step_facts, title_of

    lengths = batch, context, trace, seed
    if budget is None:
        if at is not None:
            raise ValueError("--at: allowed with --budget")
        work, source = work_of(lengths_of(*lengths), chunk or [], prefill=prefill, draft=draft)
    elif prefill or draft or chunk:
        raise ValueError(BUDGET)
    else:
        work, source = _served(*lengths, budget, AT_S if at is None else at)
    warn(model)
    changes = settings.machine_numbers(settings.parse(",".join(sets))) if sets else ()
    target = programs.machine_of(machine, changes)
    asked = {"parallel": parallel, "seed": seed, "engine": engine, "weights": weights, "cache": cache}
    how = {"knobs": knobs or [], "every_run": no_shortcuts}
    with bar(wanted=not as_json) as progress:
        text, facts = step_facts(target, model, work, **asked, **how, progress=progress)  # type: ignore[arg-type]
    say_engine(target, machine, engine)
    if as_json:
        said = {"model": model, "machine": machine, "set": dict(changes), "knob": knobs or []}
        print_json(said | asked | facts | {"batch": source})
        return
    numbers = [f"{path} = {value}" for path, value in changes]
    devices = [f"one of {parallel} devices"] if parallel > 1 else []
    asked_of = [title_of(work), model, target.spec.name, *numbers, *devices, *(knobs or [])]
    print(" · ".join([*asked_of, "every kernel by itself"]))
    print(f"{source}\n{text}")


def _served(
    batch: int | None, context: int | None, trace: str | None, seed: int, budget: int, at: float
) -> tuple[Scheduled, str]:
    """Return a step of served traffic, and where it comes from."""
    from explorer.step_work import SERVED_SEQUENCES, served_work

    if trace is None:
        raise ValueError(BUDGET)
    lengths = lengths_of(min(SERVED_SEQUENCES, budget) if batch is None else batch, context, trace, seed)
    assert lengths is not None  # a trace is given
    return served_work(lengths, budget, at)
