"""The one door to the lower floors: a `Query` in, its lower bound or simulated outcome out.

Behind it stand `programs`, which says what a query means, and `space.bound_columns`. Nothing else of a search asks
`hwmodel` or `workloads` about a query, and these files import them when they are first needed, so that the command line
answers at once. The functions are module-level: a process pool can carry them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer.names import unknown
from explorer.programs import defaults, describe, inputs, key, knobs, machine_of, program_on
from explorer.progress import Progress, announce_compiling, silent
from explorer.query import Query, Scalar
from explorer.study.objective import OBJECTIVES

if TYPE_CHECKING:
    import numpy as np

    from explorer.explain import Explanation
    from hwmodel.machine import Machine
    from hwmodel.program import Program
    from hwmodel.result import Result
    from hwmodel.saving import Saved
    from hwmodel.timeline import Timeline

Before = Callable[["Program", int], None]
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


def _say_nothing(program: Program, runs: int) -> None:
    return None


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
    title. `bound_hbm_bytes(query)` <= what it reads and writes of HBM, `costs(query)`: what its machine costs,
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


def bound_us(query: Query) -> float:
    """Return a time no run of the query can be shorter than."""
    from hwmodel.bounds import lower_bound
    from hwmodel.units import FS_PER_US

    program, machine = program_on(query)
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

    program, machine = program_on(query)
    with _no_refusal():
        energy = least(program, machine, lower_bound(program, machine))
    if energy is None:
        raise ValueError(f"{machine.spec.where}: energy: missing; the objective energy_pj needs it")
    return energy.total_fj / FJ_PER_PJ


def bound_hbm_bytes(query: Query) -> float:
    """Return bytes of HBM that every run of the query reads and writes at least. ValueError without HBM."""
    from hwmodel.bounds import lower_bound

    program, machine = program_on(query)
    if machine.memory != "hbm":  # 0 B of every point: nothing to search
        allowed = ", ".join(name for name in OBJECTIVES if not name.startswith("hbm_"))
        raise ValueError(f"{machine.spec.where}: hbm: missing; the objective hbm_bytes needs it; allowed: {allowed}")
    with _no_refusal():
        return float(sum(lower_bound(program, machine).bursts.values()) * machine.burst_bytes)


def costs(query: Query) -> dict[str, float]:
    """Return what the query's machine costs: bytes of all scratchpads, and stacks of HBM, 0 where there are none."""
    spec = machine_of(query.machine, query.machine_overrides).spec
    capacity = spec.cores.count * int(spec.cores.sram.capacity)
    return {"sram_capacity_bytes": float(capacity), "hbm_stacks": float(spec.hbm.stacks if spec.hbm else 0)}


def check(query: Query) -> None:
    """Raise ValueError unless the query compiles: knobs that go together, buffers that fit."""
    program_on(query)


def saved_run(query: Query, engine: str = "compiled", before: Before = _say_nothing) -> Saved:
    """Return the program of the query and its result, by the compiled engine or by the SimPy "reference".

    `before`: told of the program, and that it is run once, before it is.
    """
    program, machine = program_on(query)  # before the heavy imports: a query that cannot run is refused at once
    from hwmodel.saving import Saved

    run = simulator(engine)
    before(program, 1)
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
    return recorded(*program_on(query))


def recorded(program: Program, machine: Machine) -> Timeline:
    """Return what happened when in a run of a program, by the SimPy reference."""
    return _record(program, machine)[1]


def recorded_run(query: Query) -> tuple[Program, Machine, Result, Timeline]:
    """Return the program of the query, its machine, its result and what happened when, by the SimPy reference."""
    program, machine = program_on(query)
    return program, machine, *_record(program, machine)


def _record(program: Program, machine: Machine) -> tuple[Result, Timeline]:
    from hwmodel.recorder import record

    announce_compiling()
    with _no_refusal():
        return record(program, machine)


def explanation(
    query: Query, engine: str = "compiled", progress: Progress = silent, before: Before = _say_nothing
) -> Explanation:
    """Return the run of the query, and what it gains on machines with one obstacle less.

    `before`: told of the program, and how often it is run, before it is.
    """
    from explorer.explain import explain, runs

    program, machine = program_on(query)
    run = simulator(engine)
    before(program, runs(machine))
    with _no_refusal():
        return explain(program, machine, run, progress)


def explanation_of(
    path: Path,
    machine: str,
    overrides: tuple[tuple[str, str], ...],
    engine: str = "compiled",
    progress: Progress = silent,
    before: Before = _say_nothing,
) -> tuple[Explanation, Saved]:
    """Return the same of a saved program, and what else its file holds.

    Raises ValueError for a machine whose numbers are not those of the saved run.
    """
    from explorer.explain import explain, runs
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
        before(saved.program, runs(on))
        return explain(saved.program, on, simulator(engine), progress), saved
    except (ValueError, RuntimeError) as error:  # whoever wrote it may have written a deadlock
        raise ValueError(f"{path}: {error}") from None


def simulator(engine: str) -> Callable[[Any, Any], Any]:
    """Return what runs a program on a machine, the engine "compiled" or the "reference"; it says when it compiles."""
    from hwmodel import reference
    from hwmodel.engine import ENGINES
    from hwmodel.engine import simulate as compiled

    if engine not in ENGINES:
        raise ValueError(f"--engine: {unknown('engine', engine, ENGINES)}")
    announce()
    return compiled if engine == "compiled" else reference.simulate


def announce() -> None:
    """Say from now on when code is being compiled; of many workers, none speaks."""
    if parent_process() is None:
        announce_compiling()


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
    code = "import sys; from explorer.programs import machine_of; from hwmodel.reference import compile_dram; "
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

    compile_others(*program_on(query))


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
