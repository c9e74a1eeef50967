"""What a query stands for: its kernel, machine, batch, problem and knobs, the program they make, and their identity.

Between `query` and `evaluate`, which bounds and runs the program. Nothing here runs anything. What many queries share
(machine, batch, problem) is kept until `forget`. `hwmodel` and `workloads` are imported when they are first needed, so
that the command line answers at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from explorer.names import unknown
from explorer.query import AZURE, TRACE_FILES, BatchSpec, Query, Scalar
from explorer.study.settings import Settable

Options = tuple[tuple[str, int | str], ...]
FLOORS = ("layouts", "hwmodel", "workloads")
_ROOT = Path(__file__).resolve().parent.parent


def kernel_of(name: str) -> Any:
    """Return a kernel by its name. Raises ValueError for an unknown one."""
    from workloads.kernels import KERNELS

    if name not in KERNELS:
        raise ValueError(unknown("kernel", name, KERNELS))
    return KERNELS[name]


def defaults(kernel: str) -> dict[str, Scalar]:
    """Return the knobs of a kernel with their default values."""
    knobs = kernel_of(kernel).Knobs()
    return {field.name: getattr(knobs, field.name) for field in fields(knobs)}


def settable(kernel: str) -> Settable:
    """Return what of a kernel can be set: its knobs, and its sizes whether they are given or not."""
    return Settable(defaults(kernel), kernel_of(kernel).least_sizes)


def _knobs(query: Query) -> Any:
    known = defaults(query.kernel)
    for name, _ in query.knobs:
        if name not in known:
            raise ValueError(unknown(f"knob of {query.kernel}", name, known))
        if query.routing is not None and name in _drawing():
            raise ValueError(
                f"knob {name}: allowed where experts are drawn; {query.routing} says which each token takes"
            )
    return kernel_of(query.kernel).Knobs(**dict(query.knobs))


def knobs(query: Query) -> dict[str, Scalar]:
    """Return every knob of the query's kernel with the value the query gives it.

    Where choices of experts are recorded, those that would draw them are none.
    """
    found = defaults(query.kernel) | dict(query.knobs)
    if query.routing is None:
        return found
    return {name: value for name, value in found.items() if name not in _drawing()}


def _drawing() -> set[str]:
    """Return the knobs that draw choices of experts."""
    from workloads.kernels.moe_problem import RoutingKnobs

    return {knob.name for knob in fields(RoutingKnobs)}


def suggested(query: Query) -> Query:
    """Return the query with the knobs that its kernel suggests for its problem and machine, but for those it sets."""
    machine = machine_of(query.machine, query.machine_overrides)
    fixed = {name: value for name, value in knobs(query).items() if name in dict(query.knobs)}
    found = kernel_of(query.kernel).suggested(problem_of(query), machine, **fixed)
    for name in knobs(query):
        if name not in fixed:
            query = query.with_knob(name, getattr(found, name))
    return query


@contextmanager
def suggesting(query: Query) -> Iterator[None]:
    """Let an error for want of scratchpad say which knobs `suggested` takes instead, where the query fits with them."""
    from hwmodel.machine import DoesNotFit

    try:
        yield
    except DoesNotFit as error:
        other = suggested(query)
        if not fits(other):
            raise
        raise DoesNotFit(f"{error}; --suggest takes what fits: {taken_instead(query, other)}") from None


def fits(query: Query) -> bool:
    """Return whether a query's program can be compiled for its machine."""
    try:
        program_on(query)
    except ValueError:
        return False
    return True


def taken_instead(query: Query, other: Query) -> str:
    """Return the knobs of another query that differ from those of a query, with their values."""
    before = knobs(query)
    return ", ".join(f"{name}={value}" for name, value in knobs(other).items() if value != before[name])


def check_takes_batch(kernel: str) -> None:
    """Raise ValueError unless the kernel works on a batch."""
    template = kernel_of(kernel)
    if "batch" not in template.needs:
        sizes = ", ".join(template.options)
        raise ValueError(f"batch: kernel {kernel} takes no batch and no context: its sizes are {sizes}")


@lru_cache(maxsize=64)
def _spec(name: str, overrides: tuple[tuple[str, str], ...]) -> Any:
    from hwmodel.spec import load_machine

    spec = load_machine(name)
    return spec.with_overrides(dict(overrides)) if overrides else spec


@lru_cache(maxsize=64)
def machine_of(name: str, overrides: tuple[tuple[str, str], ...] = ()) -> Any:
    """Return a machine with numbers of it replaced."""
    from hwmodel.machine import Machine

    return Machine(_spec(name, overrides))


@lru_cache(maxsize=64)
def batch_of(spec: BatchSpec) -> Any:
    """Return the lengths that a description of a batch stands for."""
    import numpy as np

    from workloads.batch import from_azure, from_trace, uniform

    if spec.trace is None:
        return uniform(spec.sequences, spec.context or 0)
    rng = np.random.default_rng(spec.seed)
    if spec.trace_path is not None:
        return from_trace(spec.trace, spec.trace_path, spec.sequences, rng)
    if spec.trace != AZURE:
        file = TRACE_FILES[spec.trace]
        raise ValueError(f"trace {spec.trace}: no file of it is here; set ROWHIT_DATA to the folder that holds {file}")
    return from_azure(None, spec.sequences, rng)


@lru_cache(maxsize=64)
def _problem(kernel: str, model: str | None, batch: BatchSpec | None, options: Options, routing: str | None) -> Any:
    from workloads.model import load_model

    if batch is not None:
        check_takes_batch(kernel)
    facts = load_model(model) if model is not None else None
    if routing is not None:
        return kernel_of(kernel).recorded(facts, dict(options), routing)
    return kernel_of(kernel).shape(facts, batch_of(batch) if batch is not None else None, dict(options))


@lru_cache(maxsize=64)
def _problem_digest(
    kernel: str, model: str | None, batch: BatchSpec | None, options: Options, routing: str | None
) -> str:
    return _digest([kernel, repr(_problem(kernel, model, batch, options, routing))])


def problem_of(query: Query) -> Any:
    """Return the problem of the query: its kernel's sizes and types, as `workloads.kernels` describes them."""
    return _problem(query.kernel, query.model, query.batch, query.options, query.routing)


def program_on(query: Query) -> tuple[Any, Any]:
    """Return the compiled program of the query, and the machine that it is for."""
    machine = machine_of(query.machine, query.machine_overrides)
    program = kernel_of(query.kernel).compile(problem_of(query), _knobs(query), machine, query.seed)
    return program, machine


def forget() -> None:
    """Forget the machines with their parts, batches and problems that were kept, as a file of them has changed."""
    from hwmodel import energy_sets
    from hwmodel.dram import standards
    from hwmodel.spec import load_machine

    standards.forget()
    energy_sets.forget()
    for kept in (load_machine, _spec, machine_of, batch_of, _problem, _problem_digest, _descriptions_digest):
        kept.cache_clear()


def program_facts(query: Query) -> tuple[dict[str, Any], str]:
    """Return the compiled program of the query as JSON-able values, and as text with a map of every scratchpad."""
    from hwmodel.listing import buffer_map, facts, listing

    program, machine = program_on(query)
    shown = facts(program, machine)
    size = f"{shown['instructions']} instructions, {shown['size_bytes']} B with its tables"
    maps = (buffer_map(phase, machine) for phase in program.phases)
    return shown, "\n".join([listing(program), *maps, size])


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def key(query: Query) -> str:
    """Return 16 hexadecimal digits of machine, kernel, problem, the meaning of the knobs, and seed."""
    canonical = kernel_of(query.kernel).canonical(problem_of(query), _knobs(query))
    problem = _problem_digest(query.kernel, query.model, query.batch, query.options, query.routing)
    return _digest([_spec(query.machine, query.machine_overrides).hash, problem, canonical, query.seed])


def inputs(query: Query) -> dict[str, str]:
    """Return the digests of the machine, the model, the lengths in the batch, the routing and the simulator itself."""
    from workloads.model import load_model

    machine_of(query.machine, ())  # a description whose parts do not fit is refused by its name
    found = {
        "machine": str(_spec(query.machine, query.machine_overrides).hash),
        "simulator": source_digest(FLOORS),
    }
    if query.model is not None:
        found["model"] = _digest(asdict(load_model(query.model)))
    if query.batch is not None:
        found["batch"] = _digest(list(batch_of(query.batch).contexts))
        found["batch_source"] = str(batch_source(query))
    if query.routing is not None:
        found["routing"] = str(problem_of(query).routing)
    return found


def source_digest(floors: tuple[str, ...]) -> str:
    """Return a digest of every source and description file of some floors."""
    return _digest([_code_digest(floors), _descriptions_digest(floors)])


@lru_cache(maxsize=4)
def _code_digest(floors: tuple[str, ...]) -> str:
    return _digest_of(files_under(floors, ".py"))  # what runs was read at the start: never anew


@lru_cache(maxsize=4)
def _descriptions_digest(floors: tuple[str, ...]) -> str:
    return _digest_of(files_under(floors, ".yaml"))


def _digest_of(files: list[Path]) -> str:
    return _digest([(f.relative_to(_ROOT).as_posix(), _digest(f.read_text("utf-8"))) for f in files])


def files_under(floors: Collection[str], suffix: str) -> list[Path]:
    """Return the files of some floors whose names end in a suffix."""
    return sorted(file for floor in floors for file in (_ROOT / floor).rglob(f"*{suffix}"))


def describe(query: Query, swept: Collection[str] = ()) -> str:
    """Return one line: kernel, model, batch or sizes, machine, without the paths whose values are `swept`."""
    from workloads.model import load_model

    parts = [query.kernel.replace("-", " ")]
    if query.model is not None:
        parts.append(_describe_model(kernel_of(query.kernel), load_model(query.model), dict(query.options)))
    if query.batch is not None and (lengths := _describe_batch(query.batch, swept)):
        parts.append(lengths)
    if query.routing is not None:
        parts.append(_describe_routing(query))
    parts += [f"{name} = {size}" for name, size in query.options if name not in swept]
    changes = [f"{path} = {value}" for path, value in query.machine_overrides if path not in swept]
    return " · ".join([*parts, _spec(query.machine, ()).name, *changes])


def _describe_model(kernel: Any, model: Any, options: Mapping[str, int | str]) -> str:
    """Return the name of a model, with what the kernel takes from it where that is not its sizes."""
    sizes = set(kernel.gives(model)) & {*kernel.options, *kernel.optional} if kernel.gives else set()
    if "model" in kernel.needs or sizes - options.keys():
        return str(model.name)
    return f"dtype of {model.name}" if kernel.typed else f"{model.name} (not used)"


def _describe_batch(batch: BatchSpec, swept: Collection[str]) -> str:
    sequences = "sequences" if "batch" in swept else f"{batch.sequences} sequence{'s' if batch.sequences > 1 else ''}"
    if batch.trace is None and "context" in swept:
        return "" if "batch" in swept else sequences
    if batch.trace is None:
        return f"{sequences} of {batch.context} tokens"
    name = "Azure" if batch.trace == AZURE else "Mooncake"
    source = "shipped quantiles" if batch.trace_path is None else "file"
    return f"{sequences} from the {name} conversation trace ({source})"


def _describe_routing(query: Query) -> str:
    problem = problem_of(query)
    return f"{problem.tokens} tokens to {problem.topk} of {problem.experts} experts as in {query.routing}"


def batch_source(query: Query) -> str | None:
    """Return in a line where the lengths in the batch come from, None without a batch."""
    return None if query.batch is None else str(batch_of(query.batch).source)
