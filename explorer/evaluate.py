"""The one door to the lower floors: a `Query` in, its identity, lower bound or simulated outcome out.

Nothing else of a search imports `hwmodel` or `workloads`, and this file imports them when they are first needed,
so that the command line answers at once. The functions are module-level: a process pool can carry
them. Descriptions that many queries share (machine, problem) are kept; results are not.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer.names import unknown
from explorer.progress import Progress, announce_compiling, silent
from explorer.query import AZURE, TRACE_FILES, BatchSpec, Query, Scalar

if TYPE_CHECKING:
    import numpy as np

    from explorer.explain import Explanation
    from hwmodel.machine import Machine
    from hwmodel.program import Program
    from hwmodel.result import Result
    from hwmodel.saving import Saved
    from hwmodel.timeline import Timeline

Options = tuple[tuple[str, int | str], ...]
FLOORS = ("layouts", "hwmodel", "workloads")

Metric = int | float | str | dict[str, "Metric"] | None


@dataclass(frozen=True)
class Outcome:
    """One simulation: its numbers by name (time_us among them), and what a report draws.

    A number that the machine cannot give is None: its energies, where its description has none.
    `bandwidth`: equal-length arrays by name, `time_us` (start of a bin) and `bytes_per_second`.
    `banks`: 2-D arrays [pseudo-channel, bank] by name, `activates` and `conflicts`; with `bursts` too, the balance of
    the pseudo-channels is drawn.
    """

    metrics: Mapping[str, Metric]
    bandwidth: Mapping[str, np.ndarray]
    banks: Mapping[str, np.ndarray]


def _nothing(query: Query) -> float:
    return 0.0


def _no_costs(query: Query) -> dict[str, float]:
    return {"sram_capacity_bytes": 0.0, "hbm_stacks": 0.0}


def _no_columns(query: Query, columns: Mapping[str, Sequence[Scalar]]) -> None:
    return None


@dataclass(frozen=True)
class BoundColumns:
    """Lower bounds of many points: float64[n]; `energy_pj` is None where the machine gives no energies.

    A point that cannot run may have any bound.
    """

    time_us: np.ndarray
    energy_pj: np.ndarray | None


@dataclass(frozen=True)
class Evaluator:
    """What a search needs to know about queries.

    Every function is picklable, and raises ValueError in one line for a query that cannot be run.
    `defaults(kernel)`: the knobs of a kernel. `key(query)`: equal only for queries that are the same machine
    running the same program on the same problem. `bound_us(query)` <= the time of `simulate(query)`,
    `bound_pj(query)` <= its energy.
    `prepare`: work that `simulate` does once on a computer, in parts that processes can share.
    `inputs(query)`: digests of everything that the query names but does not contain. `describe(query)`: a
    title. `bound_hbm_bytes(query)` <= what it reads and writes of main memory, `costs(query)`: what its machine costs,
    by the names in `objective.COSTS`. `check(query)`: raises ValueError for what does not compile, such as buffers that
    do not fit.
    `bound_columns(query, columns)`: bounds of many points at once, whose knobs stand in `columns`; None where the
    kernel has none.
    """

    defaults: Callable[[str], dict[str, Scalar]]
    key: Callable[[Query], str]
    bound_us: Callable[[Query], float]
    simulate: Callable[[Query], Outcome]
    inputs: Callable[[Query], dict[str, str]]
    describe: Callable[[Query], str]
    bound_pj: Callable[[Query], float]
    prepare: tuple[Callable[[Query], Any], ...] = ()
    bound_hbm_bytes: Callable[[Query], float] = _nothing
    costs: Callable[[Query], dict[str, float]] = _no_costs
    check: Callable[[Query], Any] = _nothing
    bound_columns: Callable[[Query, Mapping[str, Sequence[Scalar]]], Any] = _no_columns


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
    found = kernel_of(query.kernel).suggested(problem_of(query), machine)
    for name in knobs(query):
        if name not in dict(query.knobs):
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
        try:
            _program(other)
        except ValueError:
            raise error from None
        before = knobs(query)
        taken = ", ".join(f"{name}={value}" for name, value in knobs(other).items() if value != before[name])
        raise DoesNotFit(f"{error}; --suggest takes what fits: {taken}") from None


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


def _program(query: Query) -> tuple[Any, Any]:
    machine = machine_of(query.machine, query.machine_overrides)
    program = kernel_of(query.kernel).compile(problem_of(query), _knobs(query), machine, query.seed)
    return program, machine


def program_on(query: Query) -> tuple[Any, Any]:
    """Return the compiled program of the query, and the machine that it is for."""
    return _program(query)


def forget() -> None:
    """Forget the machines, batches and problems that were kept, as a file of them has changed."""
    from hwmodel.spec import load_machine

    for kept in (load_machine, _spec, machine_of, batch_of, _problem, _problem_digest):
        kept.cache_clear()


def program_facts(query: Query) -> tuple[dict[str, Any], str]:
    """Return the compiled program of the query as JSON-able values, and as text with a map of every scratchpad."""
    from hwmodel.listing import buffer_map, facts, listing

    program, machine = _program(query)
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


def bound_us(query: Query) -> float:
    """Return a time no run of the query can be shorter than."""
    from hwmodel.bounds import lower_bound
    from hwmodel.units import FS_PER_US

    program, machine = _program(query)
    with _no_refusal():
        return int(lower_bound(program, machine).total_fs) / FS_PER_US


def bound_columns(query: Query, columns: Mapping[str, Sequence[Scalar]]) -> BoundColumns | None:
    """Return lower bounds of the query with the values of every row of `columns` set, as `Query.with_knob` sets them.

    `columns` are equally long, by the name of a knob or `machine.PATH`. None where the kernel has no closed form: then
    `bound_us` has to be asked point by point. Raises ValueError for a name that is no knob of the kernel.
    """
    from explorer.space.bound_columns import bounds_of

    return bounds_of(query, columns)


def bound_pj(query: Query) -> float:
    """Return an energy no run of the query can be below. Raises ValueError for a machine that gives no energies."""
    from hwmodel.bounds import lower_bound
    from hwmodel.energy import least
    from hwmodel.units import FJ_PER_PJ

    program, machine = _program(query)
    with _no_refusal():
        energy = least(program, machine, lower_bound(program, machine))
    if energy is None:
        raise ValueError(f"{machine.spec.where}: energy: missing; the objective energy_pj needs it")
    return energy.total_fj / FJ_PER_PJ


def bound_hbm_bytes(query: Query) -> float:
    """Return bytes of main memory that every run of the query reads and writes at least."""
    from hwmodel.bounds import lower_bound

    program, machine = _program(query)
    with _no_refusal():
        return float(sum(lower_bound(program, machine).bursts.values()) * machine.burst_bytes)


def costs(query: Query) -> dict[str, float]:
    """Return what the query's machine costs: bytes of all scratchpads, and stacks of HBM, 0 where there are none."""
    spec = machine_of(query.machine, query.machine_overrides).spec
    capacity = spec.cores.count * int(spec.cores.sram.capacity)
    return {"sram_capacity_bytes": float(capacity), "hbm_stacks": float(spec.hbm.stacks if spec.hbm else 0)}


def check(query: Query) -> None:
    """Raise ValueError unless the query compiles: knobs that go together, buffers that fit."""
    _program(query)


def saved_run(query: Query, engine: str = "compiled") -> Saved:
    """Return the program of the query and its result, by the compiled engine or by the SimPy "reference"."""
    program, machine = _program(query)  # before the heavy imports: a query that cannot run is refused at once
    from hwmodel.saving import Saved

    run = simulator(engine)
    with _no_refusal(), _compiling_beside(query):
        result = run(program, machine)
    return Saved(program, result, describe(query), {name: str(value) for name, value in knobs(query).items()})


def simulate(query: Query, engine: str = "compiled") -> Outcome:
    """Return the simulated outcome of the query, by the compiled engine or by the SimPy "reference"."""
    result = saved_run(query, engine).result
    assert result is not None
    import numpy as np

    bandwidth = {name: np.asarray(values) for name, values in result.bandwidth().items()}
    return Outcome(result.metrics(), bandwidth, result.banks)


def timeline(query: Query) -> Timeline:
    """Return what happened when in a run of the query, by the SimPy reference, whose times are the engine's."""
    return recorded(*_program(query))


def recorded(program: Program, machine: Machine) -> Timeline:
    """Return what happened when in a run of a program, by the SimPy reference."""
    return _record(program, machine)[1]


def recorded_run(query: Query) -> tuple[Program, Machine, Result, Timeline]:
    """Return the program of the query, its machine, its result and what happened when, by the SimPy reference."""
    program, machine = _program(query)
    return program, machine, *_record(program, machine)


def _record(program: Program, machine: Machine) -> tuple[Result, Timeline]:
    from hwmodel.recorder import record

    announce_compiling()
    with _no_refusal():
        return record(program, machine)


def explanation(query: Query, engine: str = "compiled", progress: Progress = silent) -> Explanation:
    """Return the run of the query, and what it gains on machines with one obstacle less."""
    from explorer.explain import explain

    program, machine = _program(query)
    run = simulator(engine)
    with _no_refusal():
        return explain(program, machine, run, progress)


def explanation_of(
    path: Path,
    machine: str,
    overrides: tuple[tuple[str, str], ...],
    engine: str = "compiled",
    progress: Progress = silent,
) -> tuple[Explanation, Saved]:
    """Return the same of a saved program, and what else its file holds.

    Raises ValueError for a machine whose numbers are not those of the saved run.
    """
    from explorer.explain import explain
    from hwmodel.program_check import check_fits
    from hwmodel.saving import load

    saved, on = load(path), machine_of(machine, overrides)
    if saved.program is None:
        raise ValueError(f"{path}: no program in it; allowed: what `rowhit run --save` wrote")
    if saved.result is not None and saved.result.machine_hash != on.spec.hash:
        raise ValueError(
            f"{path}: was run on {saved.result.machine} with the hash {saved.result.machine_hash}; --machine {machine} "
            f"has {on.spec.hash}; allowed: the same numbers, by --set if need be"
        )
    try:
        check_fits(saved.program, on)
        return explain(saved.program, on, simulator(engine), progress), saved
    except (ValueError, RuntimeError) as error:  # whoever wrote it may have written a deadlock
        raise ValueError(f"{path}: {error}") from None


def simulator(engine: str) -> Callable[[Any, Any], Any]:
    """Return what runs a program on a machine, the engine "compiled" or the "reference"; says when it compiles."""
    from hwmodel import reference
    from hwmodel.engine import ENGINES
    from hwmodel.engine import simulate as compiled

    if engine not in ENGINES:
        raise ValueError(f"--engine: {unknown('engine', engine, ENGINES)}")
    if parent_process() is None:  # of many workers, none speaks
        announce_compiling()
    return compiled if engine == "compiled" else reference.simulate


def compile_dram(query: Query) -> None:
    """Compile the DRAM channels of the query's machine, where this has not been done on this computer."""
    from hwmodel.reference import compile_dram

    announce_compiling()
    compile_dram(machine_of(query.machine, query.machine_overrides))


@contextmanager
def _compiling_beside(query: Query) -> Iterator[None]:
    """Let another process compile the DRAM channels, where they are not on the disk yet, while this one compiles."""
    from hwmodel.reference import is_dram_compiled

    machine = machine_of(query.machine, query.machine_overrides)
    if parent_process() is not None or is_dram_compiled(machine):
        yield
        return
    code = "import sys; from explorer.evaluate import machine_of; from hwmodel.reference import compile_dram; "
    code += "compile_dram(machine_of(sys.argv[1], tuple(tuple(pair.split('=', 1)) for pair in sys.argv[2:])))"
    changes = [f"{path}={value}" for path, value in query.machine_overrides]
    beside = subprocess.Popen(
        [sys.executable, "-c", code, query.machine, *changes],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        compile_others(query)
        yield
    finally:
        beside.wait()


def compile_others(query: Query) -> None:
    """Compile what else a simulation of the query needs."""
    from hwmodel.engine import compile_others

    compile_others(*_program(query))


def left_to_reference(machine: Any) -> str:
    """Return why the compiled engine leaves a machine to the reference, or nothing where it does not."""
    from hwmodel.engine import refusal

    return refusal(machine)


@contextmanager
def _no_refusal() -> Iterator[None]:
    """Turn a ValueError into a failure: what compiles can be run, so the fault is not the query's."""
    try:
        yield
    except ValueError as error:
        raise RuntimeError(f"the simulator failed: {error}") from error


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


@lru_cache(maxsize=4)
def source_digest(floors: tuple[str, ...]) -> str:
    """Return a digest of every source and description file of some floors."""
    root = Path(__file__).resolve().parent.parent
    files = (f for floor in floors for f in (root / floor).rglob("*") if f.suffix in (".py", ".yaml"))
    return _digest([(f.relative_to(root).as_posix(), _digest(f.read_text("utf-8"))) for f in sorted(files)])


def describe(query: Query) -> str:
    """Return one line: kernel, model, batch or sizes, machine."""
    from workloads.model import load_model

    parts = [query.kernel.replace("-", " ")]
    if query.model is not None:
        parts.append(_describe_model(kernel_of(query.kernel), load_model(query.model), dict(query.options)))
    if query.batch is not None:
        parts.append(_describe_batch(query.batch))
    if query.routing is not None:
        parts.append(_describe_routing(query))
    parts += [f"{name} = {size}" for name, size in query.options]
    changes = [f"{path} = {value}" for path, value in query.machine_overrides]
    return " · ".join([*parts, _spec(query.machine, ()).name, *changes])


def _describe_model(kernel: Any, model: Any, options: Mapping[str, int | str]) -> str:
    """Return the name of a model, with what the kernel takes from it where that is not its sizes."""
    sizes = set(kernel.gives(model)) & {*kernel.options, *kernel.optional} if kernel.gives else set()
    if "model" in kernel.needs or sizes - options.keys():
        return str(model.name)
    return f"dtype of {model.name}" if kernel.typed else f"{model.name} (not used)"


def _describe_batch(batch: BatchSpec) -> str:
    sequences = f"{batch.sequences} sequence{'s' if batch.sequences > 1 else ''}"
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


EVALUATOR = Evaluator(
    defaults,
    key,
    bound_us,
    simulate,
    inputs,
    describe,
    bound_pj,
    (compile_dram, compile_others),
    bound_hbm_bytes,
    costs,
    check,
    bound_columns,
)
