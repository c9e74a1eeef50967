"""The command `step`: every kernel of a step of a whole model."""

from __future__ import annotations

from typing import Annotated

import typer

from explorer.cli_query import BatchSize, Context, Engine, Machine, Seed, Trace, lengths_of, say_engine, warn
from explorer.json_text import Json, print_json


def step(
    machine: Machine,
    model: Annotated[str, typer.Option(help="A model by name, or a config.json.")],
    batch: BatchSize = None,
    context: Context = None,
    trace: Trace = None,
    seed: Seed = 0,
    prefill: Annotated[
        bool, typer.Option("--prefill", help="All tokens of the contexts, instead of one more.")
    ] = False,
    parallel: Annotated[int, typer.Option(min=1, help="Devices of the tensor-parallel group; the step of one.")] = 1,
    weights: Annotated[
        str,
        typer.Option(help="Weights of products and experts: model, 16-bit, fp8, mxfp8, mxfp4, nvfp4 or w4a16."),
    ] = "model",
    cache: Annotated[
        str, typer.Option("--kv-dtype", "--kv-cache-dtype", help="Keys, values and latents: model or fp8.")
    ] = "model",
    sets: Annotated[list[str] | None, typer.Option("--set", help="path=value[,path=value]: machine numbers.")] = None,
    engine: Engine = "compiled",
    as_json: Json = False,
) -> None:
    """Simulate a step of a whole model, kernel by kernel: a decode step, or a prefill."""
    from explorer import evaluate, settings
    from explorer.step_view import step_facts

    lengths = lengths_of(batch, context, trace, seed)
    if lengths is None:
        raise ValueError("step: give --context or --trace")
    warn(model)
    changes = settings.machine_numbers(settings.parse(",".join(sets))) if sets else ()
    target = evaluate.machine_of(machine, changes)
    formats = {"weights": weights, "cache": cache}
    text, facts = step_facts(target, model, lengths, prefill=prefill, parallel=parallel, engine=engine, **formats)
    say_engine(target, machine, engine)
    if as_json:
        print_json(facts)
    else:
        kind = "prefill" if prefill else "decode step"
        devices = f" · one of {parallel} devices" if parallel > 1 else ""
        numbers = "".join(f" · {path} = {value}" for path, value in changes)
        print(f"{kind} · {model} · {machine}{numbers}{devices} · every kernel by itself")
        print(text)
