"""What the commands that ask about one kernel or one model share: their options, and how these become a query."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from explorer.asked import query_of

if TYPE_CHECKING:
    from explorer.query import Query
    from hwmodel.program import Program
    from hwmodel.result import Result

Found = TypeVar("Found")
Machine = Annotated[str, typer.Option(help="A machine by name, or a YAML file.")]
Kernel = Annotated[str, typer.Option(help="A kernel by name, as `rowhit kernels` lists them.")]
Model = Annotated[str | None, typer.Option(help="A model by name, or a config.json.")]
BatchSize = Annotated[int | None, typer.Option(help="Sequences in the batch.  [default: 1]")]
Context = Annotated[int | None, typer.Option(help="KV tokens of every sequence.")]
Trace = Annotated[str | None, typer.Option(help="Draw the lengths from a trace instead: azure or mooncake.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the batch and of shuffled pages.")]
Size = Annotated[list[int] | None, typer.Option(metavar="<int>", help="The same as --size NAME=VALUE.")]
Sizes = Annotated[
    list[str] | None,
    typer.Option("--size", help="NAME=VALUE[,NAME=VALUE]: sizes or choices, as `rowhit kernels NAME` lists them."),
]
Routing = Annotated[
    str | None, typer.Option(help="A CSV or .npz file of recorded choices of experts, for kernels of experts.")
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


@dataclass(frozen=True)
class Question:
    """What the shared options ask about one kernel, in the order in which `--help` lists them."""

    machine: Machine
    kernel: Kernel
    model: Model = None
    batch: BatchSize = None
    context: Context = None
    trace: Trace = None
    seed: Seed = 0
    m: Size = None
    n: Size = None
    k: Size = None
    sizes: Sizes = None
    routing: Routing = None
    sets: Sets = None
    suggest: Suggest = False

    def query(self) -> Query:
        """Return the query that is asked, and print what of its model is not known; ValueError names a wrong option."""
        options = sizes_of(self.sizes, {"m": self.m, "n": self.n, "k": self.k})
        lengths = self.batch, self.context, self.trace, self.seed
        query = query_of(self.machine, self.kernel, self.model, *lengths, options, self.routing)
        warn(self.model)
        if self.model is not None and "format" not in options:
            say_format(self.model, self.kernel)
        return with_knobs(query, self.sets, self.suggest)


def asks(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the shared options, of which `defaults` replace some defaults, and hand it their `Question`."""
    shared = [
        option.replace(default=defaults.get(option.name, option.default))
        for option in signature(Question, eval_str=True).parameters.values()
    ]

    def giving(command: Callable[..., None]) -> Callable[..., None]:
        own = list(signature(command, eval_str=True).parameters.values())[1:]

        @wraps(command)
        def asked(**given: Any) -> None:
            command(Question(**{option.name: given.pop(option.name) for option in shared}), **given)

        options = [option.replace(kind=Parameter.KEYWORD_ONLY) for option in (*shared, *own)]
        asked.__signature__ = Signature(options)  # type: ignore[attr-defined]  # typer reads it
        return asked

    return giving


def sizes_of(texts: list[str] | None, flags: dict[str, list[int] | None]) -> dict[str, int | str]:
    """Return the sizes, and the choices among names, given by flags of their own and by --size NAME=VALUE[,...]."""
    from explorer.query import NAME_PATTERN

    for name, given in flags.items():
        if given and given[1:]:
            raise ValueError(f"--{name} {given[1]}: {name} is given twice")
    found: dict[str, int | str] = {name: given[0] for name, given in flags.items() if given}
    for text in ",".join(texts).split(",") if texts else []:
        name, _, value = text.partition("=")
        number = value.isascii() and value.isdigit() and len(value) < 19
        if not name.isidentifier() or not (number or re.fullmatch(NAME_PATTERN, value)):
            raise ValueError(f"--size {text[:40]}: allowed: NAME=VALUE, with an integer of at least 0 or a name")
        if name in found:
            raise ValueError(f"--size {text}: {name} is given twice")
        found[name] = int(value) if number else value
    return found


def with_knobs(query: Query, sets: list[str] | None, suggest: bool) -> Query:
    """Return the query with what is set, then with the suggested knobs for the rest, where they are asked for."""
    from explorer import programs
    from explorer.study import settings

    if sets:
        query = settings.apply(query, settings.parse(",".join(sets)), programs.settable(query.kernel))
    return programs.suggested(query) if suggest else query


def with_what_fits(query: Query, ask: Callable[[Query], Found]) -> tuple[Query, Found]:
    """Return a query with what is found for it; with the suggested knobs where the defaults need too much scratchpad.

    That they are taken is said on stderr. Where knobs are set, or none fit, the error is that of the query.
    """
    from explorer import programs
    from hwmodel.machine import DoesNotFit

    with programs.suggesting(query):
        try:
            return query, ask(query)
        except DoesNotFit as error:
            other = programs.suggested(query) if not query.knobs else query
            if other == query or not programs.fits(other):
                raise
            taken = programs.taken_instead(query, other)
            print(f"rowhit: with default knobs {error}; taken instead, as by --suggest: {taken}", file=sys.stderr)
    return other, ask(other)


def say_format(model: str, kernel: str) -> None:
    """Say on stderr where a kernel takes the weights of experts in 16 bits that the model stores in fewer."""
    from explorer.programs import kernel_of
    from workloads.layers.formats import SIXTEEN, formats_of
    from workloads.model import load_model
    from workloads.model.feed_forward import Experts

    if "format" not in kernel_of(kernel).optional:
        return
    found = load_model(model)
    routed = {number for number, layer in enumerate(found.layers) if isinstance(layer.feed_forward, Experts)}
    stored = {formats.experts for formats, layers in formats_of(found).items() if routed & set(layers)} - {SIXTEEN}
    for weights in sorted(stored, key=str):
        here = f"{model}: experts are stored as {weights.text} and taken in 16 bits"
        print(f"{here}; --size format=NAME takes others", file=sys.stderr)


def say_engine(machine: Any, name: str, engine: str) -> None:
    """Say on stderr where the reference has simulated what was meant for the compiled engine."""
    from explorer.evaluate import left_to_reference

    if engine == "compiled" and (why := left_to_reference(machine)):
        print(f"{name}: simulated by the reference; not known to the engine: {why}", file=sys.stderr)


def say_long(program: Program, runs: int) -> None:
    """Say on stderr how much a program moves where so many runs of it take long, and what answers sooner."""
    from explorer.long_run import warning

    if line := warning(program, runs):
        print(f"rowhit: {line}", file=sys.stderr, flush=True)


def say_suggestion(query: Query, result: Result) -> None:
    """Say on stderr which knobs are suggested instead of the defaults of a run, where these may be clearly faster."""
    from explorer.suggestion import suggestion

    if line := suggestion(query, result):
        print(f"rowhit: {line}", file=sys.stderr)


def warn(model: str | None) -> None:
    """Print what of a model's file is not known."""
    from explorer.text.model import warnings

    for warning in warnings(model) if model is not None else ():
        print(f"rowhit: warning: {warning}", file=sys.stderr)
