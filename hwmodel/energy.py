"""Energy: how often everything happens that costs energy, times what it costs once.

The counts of a run come from three places: `instructions` expands the program (multiply-accumulates, vector operations,
scratchpad accesses), the executor's books have the traffic and the DRAM commands, and the clock gives static power its
time. `least` is the same sum over what no run can do without: a lower bound, component by component. Energies are
integers in femtojoules, so a breakdown adds up to its total exactly.

Counted are accesses and operations, as published per action. Not modelled: instruction fetch and decode, register
files, clock trees, voltage regulators, what zeros in padded blocks of the matrix unit switch, tags and directories of
caches, page-table walks, that a multicast load crosses part of the network once, and the dependence on the data;
`energy.static` is the place for what is spent all the time. An accumulator counts as scratchpad; a precharge is part of
its activate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwmodel.bounds import Bound
from hwmodel.description import EnergySpec, MacEnergySpec
from hwmodel.expansion import adding, alike, counted, evaluate, executions, tile_bytes
from hwmodel.machine import Machine
from hwmodel.matrix import operand_bytes
from hwmodel.program import QUEUES, Buffer, Instruction, Op, Phase, Program
from hwmodel.vector import OPERATIONS, Work, costed

Array = np.ndarray[Any, Any]
UW_FS_PER_FJ = 10**6


@dataclass
class Instructions:
    """What a program's instructions do on all cores together, whatever the schedule: bytes, and counts by class."""

    loaded_bytes: int = 0  # that descriptors ask for, from wherever they come
    stored_bytes: int = 0
    sram_read_bytes: int = 0
    sram_write_bytes: int = 0
    macs: dict[str, int] = field(default_factory=dict)  # by type of the wider operand, without padding
    vector: dict[str, int] = field(default_factory=dict)  # by primitive class


@dataclass(frozen=True)
class Actions:
    """How often a run does what costs energy; `time_fs` is how long static power flows."""

    instructions: Instructions
    activates: int
    bank_refreshes: int
    hbm_read_bytes: int
    hbm_write_bytes: int
    distributed_sram_bytes: int  # read from or written to a main memory of SRAM
    cache_bytes: int  # read from or written to a shared cache, by cores and by memory
    noc_bytes: int  # between cores and the shared memory side; not what stays beside its core
    time_fs: int


@dataclass(frozen=True)
class Energy:
    """What each component takes; the whole is their sum, to the femtojoule."""

    by_component_fj: dict[str, int]

    @property
    def total_fj(self) -> int:
        return sum(self.by_component_fj.values())


def spent(spec: EnergySpec, actions: Actions) -> Energy:
    """Return the energy of so many actions. Raises ValueError for a type of matmul that has no number."""
    chip, done = spec.chip, actions.instructions
    return Energy(
        _main_memory(spec, actions)
        | {
            "shared cache": chip.shared_cache * actions.cache_bytes,
            "noc": chip.noc * actions.noc_bytes,
            "sram": chip.sram_read * done.sram_read_bytes + chip.sram_write * done.sram_write_bytes,
            "matrix": sum(mac_fj(chip.mac, dtype) * count for dtype, count in done.macs.items()),
            "vector": sum(getattr(chip.vector, name) * count for name, count in done.vector.items()),
            "static": spec.static * actions.time_fs // UW_FS_PER_FJ,
        }
    )


def _main_memory(spec: EnergySpec, actions: Actions) -> dict[str, int]:
    if (hbm := spec.hbm) is None:
        return {"distributed sram": (spec.distributed_sram or 0) * actions.distributed_sram_bytes}
    return {
        "hbm activate": hbm.activate * actions.activates,
        "hbm array": hbm.read * actions.hbm_read_bytes + hbm.write * actions.hbm_write_bytes,
        "hbm io": hbm.io * (actions.hbm_read_bytes + actions.hbm_write_bytes),
        "hbm refresh": hbm.refresh * actions.bank_refreshes,
    }


def mac_fj(spec: MacEnergySpec, dtype: str) -> int:
    """Return the energy of a multiply-accumulate of operands of a type; all floats of 8 bits and fewer are "fp8"."""
    name = "fp8" if dtype.startswith(("fp8", "fp4")) else dtype
    if name not in MacEnergySpec.model_fields:
        raise ValueError(f"energy.chip.mac: no number for {dtype}; known: {', '.join(MacEnergySpec.model_fields)}")
    return int(getattr(spec, name))


def least(program: Program, machine: Machine, bound: Bound) -> Energy | None:
    """Return an energy that no run of the program is below in any component; None where the machine gives none.

    Every load and store moves the fewest bursts that hold its bytes, rows are open already, and the run takes no
    longer than the time's `bound`.
    """
    return least_of(instructions(program), machine, bound)


def least_of(done: Instructions, machine: Machine, bound: Bound) -> Energy | None:
    """Return what `least` does, from the counts of the program."""
    spec = machine.spec.energy
    if spec is None:
        return None
    multicast, in_hbm = machine.spec.noc.multicast_window is not None, machine.memory == "hbm"
    loaded, stored = (bound.bursts[name] * machine.burst_bytes for name in ("load", "store"))
    least_loaded = -(-done.loaded_bytes // machine.spec.cores.count) if multicast else done.loaded_bytes
    actions = Actions(
        instructions=done,
        activates=0,
        bank_refreshes=banks_refreshed(machine, refreshes_due(machine, bound.total_fs)),
        hbm_read_bytes=loaded if in_hbm else 0,
        hbm_write_bytes=stored if in_hbm else 0,
        distributed_sram_bytes=0 if in_hbm else loaded + stored,
        cache_bytes=least_loaded + done.stored_bytes if machine.spec.shared_cache is not None else 0,
        noc_bytes=0 if machine.is_local else done.loaded_bytes + done.stored_bytes,
        time_fs=bound.total_fs,
    )
    return spent(spec, actions)


def refreshes_due(machine: Machine, time_fs: int) -> int:
    """Return the refresh commands due within a time in all pseudo-channels."""
    if machine.memory != "hbm":
        return 0
    intervals = {"per-bank": machine.timing.nREFIpb, "all-bank": machine.timing.nREFI}
    interval_ticks = intervals.get(machine.hbm.policy.refresh)
    if interval_ticks is None:
        return 0
    return machine.fs_to_ticks(time_fs) // interval_ticks * machine.pseudo_channels


def banks_refreshed(machine: Machine, refreshes: int) -> int:
    """Return how many banks so many refresh commands refresh."""
    return refreshes and refreshes * (machine.organisation.banks if machine.hbm.policy.refresh == "all-bank" else 1)


def instructions(program: Program) -> Instructions:
    """Return what the instructions of a program do."""
    done = Instructions()
    for phase in program.phases:
        for number in range(len(QUEUES)):
            tasks, which = alike(phase, number)
            how_many = np.bincount(which, minlength=len(tasks))
            for instruction, task, variables in executions(phase, number, tasks):
                times = how_many[task]
                if instruction.op in (Op.LOAD, Op.STORE):
                    _transfer(done, program, phase, instruction, variables, times)
                elif instruction.op is Op.MATMUL:
                    _matmul(done, phase, instruction, variables, times)
                else:
                    _vector(done, phase, instruction, variables, times)
    return done


def _transfer(
    done: Instructions, program: Program, phase: Phase, instruction: Instruction, variables: Array, times: Array
) -> None:
    """Count a load or a store, each execution as often as `times` says."""
    size_bytes = int(tile_bytes(program, phase, instruction, variables) @ times)
    tensor, (buffer,) = program.tensors[phase.tiles[instruction.tile]["tensor"]], _operands(phase, instruction)
    sram_bytes = size_bytes // tensor.element_bytes * buffer.element_bytes
    if instruction.op is Op.LOAD:
        done.loaded_bytes += size_bytes
        done.sram_write_bytes += sram_bytes
    else:
        done.stored_bytes += size_bytes
        done.sram_read_bytes += sram_bytes


def _matmul(done: Instructions, phase: Phase, instruction: Instruction, variables: Array, times: Array) -> None:
    """Count a matmul: elements of the operands are read once, those of the result written, and read to be added to."""
    result, a, b = _operands(phase, instruction)
    m, n, k = _sizes(phase, instruction, variables).T
    wider = max((a, b), key=lambda buffer: buffer.element_bytes).dtype
    done.macs[wider] = done.macs.get(wider, 0) + int((m * n * k) @ times)
    done.sram_read_bytes += int(operand_bytes(a, m, k) @ times) + int(operand_bytes(b, n, k) @ times)
    if instruction.accumulate is not None:
        added = times * adding(phase, instruction.accumulate, variables, if_unknown=True)
        done.sram_read_bytes += int((m * n) @ added) * result.element_bytes
    done.sram_write_bytes += int((m * n) @ times) * result.element_bytes


def _vector(done: Instructions, phase: Phase, instruction: Instruction, variables: Array, each: Array) -> None:
    operation = OPERATIONS[instruction.function]
    buffers = _operands(phase, instruction)
    for sizes, times in counted(_sizes(phase, instruction, variables), each):
        work: Work = operation.work(buffers, *sizes)
        for name, count in vars(work).items():
            done.vector[name] = done.vector.get(name, 0) + count * times
        for touch in operation.touches(buffers, *sizes):
            size_bytes = touch.rows * touch.columns * buffers[touch.operand].element_bytes * times
            done.sram_read_bytes += size_bytes * touch.reads
            done.sram_write_bytes += size_bytes * touch.writes


def _operands(phase: Phase, instruction: Instruction) -> list[Buffer]:
    return [phase.buffers[number] for number, _ in instruction.operands]


def _sizes(phase: Phase, instruction: Instruction, variables: Array) -> Array:
    return np.stack([evaluate(phase, size, variables) for size in costed(instruction)], axis=1)
