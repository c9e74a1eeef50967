"""The command line: reads arguments, calls one function, prints; the only place that reads the environment.

Every user error ends as one line on stderr and exit status 2; an interrupted search says how to continue and
ends with 130. Heavy libraries are imported inside the commands, so that `rowhit --help` answers at once.
"""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explorer.cli_dram import dram
from explorer.cli_predict import predict
from explorer.json_text import Json, print_json

if TYPE_CHECKING:
    from explorer.query import Query

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(dram, name="dram", help="Ask one DRAM controller: replay a trace, check commands, list configurations.")
app.command()(predict)

Jobs = Annotated[int | None, typer.Option(min=1, max=1024, help="Worker processes.  [default: one per CPU]")]
OneJob = Annotated[int, typer.Option(min=1, max=1024, help="Worker processes.")]
Machine = Annotated[str, typer.Option(help="A machine by name, or a YAML file.")]
Kernel = Annotated[str, typer.Option(help="A kernel by name, as `rowhit kernels` lists them.")]
Model = Annotated[str | None, typer.Option(help="A model by name, or a config.json.")]
BatchSize = Annotated[int | None, typer.Option(help="Sequences in the batch.  [default: 1]")]
Context = Annotated[int | None, typer.Option(help="KV tokens of every sequence.")]
Trace = Annotated[str | None, typer.Option(help="Draw the lengths from a trace instead: azure or mooncake.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the batch and of shuffled pages.")]
Size = Annotated[int | None, typer.Option(help="The same as --size NAME=VALUE.")]
Sizes = Annotated[
    list[str] | None,
    typer.Option("--size", help="NAME=VALUE[,NAME=VALUE]: sizes or choices, as `rowhit kernels NAME` lists them."),
]
Suggest = Annotated[bool, typer.Option("--suggest", help="Take knobs that suit the problem for those not set.")]
Engine = Annotated[str, typer.Option(help="compiled, or reference: the same numbers by SimPy processes, slower.")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="path=value[,path=value]: a knob (see `rowhit kernels NAME`), batch, context or a machine number.",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"rowhit {version('rowhit')}")
        raise typer.Exit


@app.callback()
def _rowhit(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Where should every byte live, and what does it cost to move it?"""


@app.command()
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

    query = _query(machine, kernel, model, batch, context, trace, seed, _sizes(sizes, {"m": m, "n": n, "k": k}))
    _warn(model)
    if sets:
        query = settings.apply(query, settings.parse(",".join(sets)), evaluate.defaults(query.kernel))
    if suggest:
        query = evaluate.suggested(query)
    metrics, knobs = evaluate.simulate(query, engine).metrics, evaluate.knobs(query)
    _say_engine(evaluate.machine_of(query.machine, query.machine_overrides), query.machine, engine)
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


@app.command()
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

    query = _query(machine, kernel, model, batch, context, trace, seed, _sizes(sizes, {"m": m, "n": n, "k": k}))
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


@app.command()
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
    sets: Annotated[list[str] | None, typer.Option("--set", help="path=value[,path=value]: machine numbers.")] = None,
    engine: Engine = "compiled",
    as_json: Json = False,
) -> None:
    """Simulate a step of a whole model, kernel by kernel: a decode step, or a prefill."""
    from explorer import evaluate, settings
    from explorer.step_view import step_facts

    lengths = _batch(batch, context, trace, seed)
    if lengths is None:
        raise ValueError("step: give --context or --trace")
    _warn(model)
    changes = settings.machine_numbers(settings.parse(",".join(sets))) if sets else ()
    target = evaluate.machine_of(machine, changes)
    text, facts = step_facts(target, model, lengths, prefill=prefill, parallel=parallel, engine=engine)
    _say_engine(target, machine, engine)
    if as_json:
        print_json(facts)
    else:
        kind = "prefill" if prefill else "decode step"
        devices = f" · one of {parallel} devices" if parallel > 1 else ""
        numbers = "".join(f" · {path} = {value}" for path, value in changes)
        print(f"{kind} · {model} · {machine}{numbers}{devices} · every kernel by itself, weights 16 bits wide")
        print(text)


@app.command()
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

    query = _query(machine, kernel, model, batch, context, trace, seed, _sizes(sizes, {"m": m, "n": n, "k": k}))
    _warn(model)
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


@app.command()
def explore(
    study: Annotated[Path, typer.Argument(help="A study file (YAML).")],
    jobs: Jobs = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Search seed instead of the study's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Results folder.  [default: results/NAME]")] = None,
    as_json: Json = False,
) -> None:
    """Search the space of a study; run it again to continue."""
    from explorer import tables
    from explorer.evaluate import EVALUATOR
    from explorer.explore import explore as search
    from explorer.progress import bar
    from explorer.report import write_report
    from explorer.study import load_study

    question = load_study(study).with_seed(seed)
    folder = out or Path("results") / question.name
    trace = _trace_path(question.batch.trace if question.batch else None)
    try:
        with bar(wanted=not as_json) as progress:
            summary = search(question, folder, jobs or os.cpu_count() or 1, EVALUATOR, progress, trace)
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
        print(page)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A results folder.")],
    as_json: Json = False,
) -> None:
    """Write the report of a results folder again."""
    from explorer.report import write_report
    from explorer.summary import summarise

    page = write_report(folder)
    if as_json:
        print_json(summarise(folder).record() | {"report": str(page)})
    else:
        print(page)


@app.command()
def layout(
    text: Annotated[str, typer.Argument(help="A layout in CuTe's, Triton's, XLA's, MLIR's or TVM's words.")],
    to: Annotated[
        str | None, typer.Option("--as", help="Write it for another system: cute, triton, xla, mlir, tvm.")
    ] = None,
    shape: Annotated[str | None, typer.Option(help="Extents, as in 64,64, where the text has none.")] = None,
    conflicts: Annotated[
        str | None, typer.Option(help="Bank conflicts of an access: 'vector=1:8 lanes=0:4+1:2 banks=32x4'.")
    ] = None,
    draw: Annotated[Path | None, typer.Option(help="Write a page with pictures of it.")] = None,
    element_bytes: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Bytes of an element.  [default: the text's type, else 2]")
    ] = None,
    machine: Annotated[str | None, typer.Option(help="Draw it over the address map of this machine too.")] = None,
    as_json: Json = False,
) -> None:
    """Explain one layout, write it for another system, draw it, count its bank conflicts."""
    from explorer import layout_view
    from explorer.files import write_atomically

    if machine is not None and draw is None:
        raise ValueError("--machine: says whose address map is drawn; give --draw too")
    named = layout_view.element_of(text)
    width = element_bytes or (named[1] if named is not None else 2)
    found, facts = layout_view.facts_of(text, layout_view.extents(shape) if shape is not None else None)
    if to is not None:
        facts["as"] = layout_view.spelt(found, to, named[0] if named is not None and element_bytes is None else width)
    if conflicts is not None:
        facts["conflicts"] = layout_view.conflicts_of(found, conflicts, width)
    if draw is not None:
        page = layout_view.page_of(found, text, width, machine, conflicts)
        try:
            write_atomically(draw, page.encode())
        except OSError as error:  # it names the temporary file
            raise OSError(error.errno, error.strerror, str(draw)) from None
        facts["page"] = str(draw)
    if as_json:
        print_json(facts)
    elif to is not None and conflicts is None and draw is None:
        print(facts["as"])
    else:
        print(layout_view.text_of(facts))


@app.command()
def kernels(
    name: Annotated[str | None, typer.Argument(help="One kernel, by name.")] = None,
    as_json: Json = False,
) -> None:
    """List the kernels by family, or describe one: what its sizes and knobs mean."""
    from explorer import evaluate, tables

    if name is not None:
        facts = evaluate.describe_kernel(name)
        print_json(facts) if as_json else print(tables.kernel_text(facts))
        return
    print_json(evaluate.list_kernels()) if as_json else print(tables.kernel_list(evaluate.kernel_families()))


@app.command()
def machines(
    name: Annotated[str | None, typer.Argument(help="One machine, by name or YAML file.")] = None,
    as_json: Json = False,
) -> None:
    """List the machines, or describe one."""
    from explorer import evaluate, tables

    if name is not None:
        facts = evaluate.describe_machine(name)
        print_json(facts) if as_json else print(tables.sourced_text(facts, evaluate.machine_units()))
        return
    listed = evaluate.list_machines()
    print_json(listed) if as_json else print(
        tables.align([(name, str(facts["description"])) for name, facts in listed.items()])
    )


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="One model, by name or config.json.")] = None,
    kv_dtype: Annotated[
        str | None,
        typer.Option(help="Type of the cache: bf16, fp16, fp32, fp8_e4m3, fp8_e5m2.  [default: the model's]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the models, or describe one: its layers by kind, parameters, cache and state."""
    from explorer import model_view

    if name is not None:
        facts = model_view.describe_model(name, kv_dtype)
        _warn(name)
        print_json(facts) if as_json else print(model_view.model_text(facts))
        return
    if kv_dtype is not None:
        raise ValueError("--kv-dtype: give the model, too")
    listed = model_view.list_models()
    print_json(listed) if as_json else print(model_view.list_text(listed))


def _sizes(texts: list[str] | None, flags: dict[str, int | None]) -> dict[str, int | str]:
    """Return the sizes, and the choices among names, given by flags of their own and by --size NAME=VALUE[,...]."""
    from explorer.query import NAME_PATTERN

    found: dict[str, int | str] = {name: value for name, value in flags.items() if value is not None}
    for text in ",".join(texts).split(",") if texts else []:
        name, _, value = text.partition("=")
        number = value.isascii() and value.isdigit() and len(value) < 19
        if not name.isidentifier() or not (number or re.fullmatch(NAME_PATTERN, value)):
            raise ValueError(f"--size {text[:40]}: allowed: NAME=VALUE, with an integer of at least 0 or a name")
        if name in found:
            raise ValueError(f"--size {text}: {name} is given twice")
        found[name] = int(value) if number else value
    return found


def _query(
    machine: str,
    kernel: str,
    model: str | None,
    batch: int | None,
    context: int | None,
    trace: str | None,
    seed: int,
    options: dict[str, int | str],
) -> Query:
    from explorer import evaluate
    from explorer.query import Query

    if (batch, context, trace) != (None, None, None):
        evaluate.check_takes_batch(kernel)
    for option, value in {"batch": batch, "context": context}.items():
        if value is not None and value < 1:
            raise ValueError(f"--{option} {value}: must be at least 1")
    return Query(machine, kernel, model, _batch(batch, context, trace, seed), tuple(options.items()), seed=seed)


def _batch(sequences: int | None, context: int | None, trace: str | None, seed: int) -> Any:
    from explorer.names import unknown
    from explorer.query import TRACES, BatchSpec

    if sequences is None and context is None and trace is None:
        return None
    if (context is None) == (trace is None):
        raise ValueError("give either --context (tokens of every sequence) or --trace, and not both")
    if trace is not None and trace not in TRACES:
        raise ValueError(f"--trace: {unknown('trace', trace, TRACES)}")
    name = TRACES[trace] if trace else None
    return BatchSpec(1 if sequences is None else sequences, context, name, seed, _trace_path(name))


def _say_engine(machine: Any, name: str, engine: str) -> None:
    """Say on stderr where the reference has simulated what was meant for the compiled engine."""
    from explorer.evaluate import left_to_reference

    if engine == "compiled" and (why := left_to_reference(machine)):
        print(f"{name}: simulated by the reference; not known to the engine: {why}", file=sys.stderr)


def _warn(model: str | None) -> None:
    """Print what of a model's file is not known."""
    from explorer.model_view import warnings

    for warning in warnings(model) if model is not None else ():
        print(f"rowhit: warning: {warning}", file=sys.stderr)


def _trace_path(trace: str | None) -> str | None:
    """Return the file of a trace: under ROWHIT_DATA, or under ../shared/data, or None where there is none.

    Raises ValueError where a trace is asked for and ROWHIT_DATA names no folder.
    """
    from explorer.query import TRACE_FILES

    if trace is None:
        return None
    given = os.environ.get("ROWHIT_DATA")
    if given and not Path(given).is_dir():
        raise ValueError(f"ROWHIT_DATA: {given!r} is no folder; allowed: the folder that holds {TRACE_FILES[trace]}")
    path = Path(given or Path("..") / "shared" / "data") / TRACE_FILES[trace]
    return str(path) if path.is_file() else None


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError):
        path = f"{error.filename}: " if error.filename else ""
        return f"{path}{error.strerror or error}"
    return " ".join(str(error).split())


def main() -> None:
    """Run the command line; user errors become one line and exit status 2, no arguments the help and 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without our characters shows others
            stream.reconfigure(errors="replace")
    arguments = sys.argv[1:]
    try:
        status = app(args=arguments or ["--help"], standalone_mode=False)
    except typer.TyperException as error:  # an unknown option, a missing argument
        _fail(error.format_message())
    except (ValueError, OSError) as error:
        _fail(_one_line(error))
    except MemoryError:
        _fail("out of memory")
    except (KeyboardInterrupt, typer.Abort):
        print("rowhit: interrupted", file=sys.stderr)
        sys.exit(130)
    if not arguments:
        sys.exit(2)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> None:
    print(f"rowhit: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
