"""The compiled engine: a program's time, equal to `hwmodel.reference` in every count and femtosecond.

What the reference does with SimPy processes, event loops compiled with numba do on tables of integers, in the same
order of time and of scheduling; the memory side and DRAM are the same code in both. Python helps where `kernel.run`
returns: costs of distinct instructions are worked out once by the functions that the reference uses.

Not supported: multicast, and requests or queues of requests far beyond what machines have; `simulate` runs those on
the reference.
"""

from __future__ import annotations

from hwmodel.dram.controller import Dram
from hwmodel.engine.phase import PhaseRun, refusal, supports
from hwmodel.machine import Machine
from hwmodel.memory_side import Clock, MemorySide
from hwmodel.program import Program
from hwmodel.reference import compile_others as compile_for_reference
from hwmodel.reference import make_dram
from hwmodel.reference import simulate as simulate_reference
from hwmodel.result import PhaseTime, Result, SramUse, Traffic, make_result

ENGINES = ("compiled", "reference")
__all__ = ["ENGINES", "compile_others", "phase_times", "refusal", "simulate", "supports"]


def simulate(program: Program, machine: Machine) -> Result:
    """Run `program` on `machine` and return its `Result`.

    Raises ValueError if a phase does not fit the scratchpad, or deals its tasks to another number of cores.
    """
    if not supports(machine):
        return simulate_reference(program, machine)
    run, memory, dram = _begin(program, machine)
    times = _times(program, run)
    traffic, sram_use = Traffic(program, machine.burst_bytes), SramUse()
    run.fill(traffic, sram_use)
    books = run.ledgers(), traffic, sram_use
    return make_result(program, machine, run.now_fs, times, *books, dram, memory.cache_busy_fs, memory.levels())


def phase_times(program: Program, machine: Machine) -> list[PhaseTime]:
    """Return what `simulate` says of the phases' times; no other books are closed, and no bound is found.

    It raises the errors of `simulate` for what cannot be run.
    """
    if not supports(machine):
        return list(simulate_reference(program, machine).phases)
    run, _, _ = _begin(program, machine)
    return _times(program, run)


def _begin(program: Program, machine: Machine) -> tuple[PhaseRun, MemorySide, Dram | None]:
    """Return a run before its first phase, with its memory side and main memory."""
    for phase in program.phases:
        machine.require_fit(phase)
    dram = make_dram(machine) if machine.memory == "hbm" else None
    memory = MemorySide(Clock(), machine, dram)
    memory.begin(program)
    return PhaseRun(program, machine, memory), memory, dram


def _times(program: Program, run: PhaseRun) -> list[PhaseTime]:
    times = []
    for phase in program.phases:
        start = run.now_fs
        run.run(phase)
        times.append(PhaseTime(phase.name, run.now_fs - start))
    return times


def compile_others(program: Program, machine: Machine) -> None:
    """Compile what `simulate` needs for a program besides DRAM, or load it from the disk."""
    if supports(machine):
        PhaseRun(program, machine, MemorySide(Clock(), machine, None)).compile(program.phases[0])
    else:
        compile_for_reference(program, machine)
