"""Lower bounds of many programs at once: what their phases must at least do, as arrays, becomes times and energies.

A kernel template says in closed form what each of its phases demands of the machine, for arrays of knob values
(`workloads.kernels.demands`); no program is made. Between the launch of a phase and its end every resource has its own
bound, as in `bounds`, whose cost functions these are, and the largest holds. As a template knows what waits for what,
a resource's work stands between what must come before it (the first data) and after it (the last tile's product, the
item's result, its store). Each distinct amount is turned into a time once.

Not in it: what `bounds` leaves out, bank conflicts of scratchpads, and what a shared cache must write back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from hwmodel.bound_costs import (
    cache_fs,
    first_data_fs,
    last_store_fs,
    main_memory_fs,
    network_fs,
)
from hwmodel.energy import Actions, Instructions, banks_refreshed, refreshes_due, spent
from hwmodel.expansion import per_distinct
from hwmodel.machine import Machine

Array = np.ndarray[Any, Any]
Column: TypeAlias = Array | int  # int64[points], or one number for all


@dataclass(frozen=True)
class Demand:
    """What a phase must at least do, for many points. Bytes that move are whole bursts where they are known to be.

    Of the busiest core, whichever it is: `*_cycles` of its DMA engines' issue and of its units, `wavefronts` of its
    scratchpad, bytes through its port, bytes that must be there before its matrix unit has work. Of any item: cycles
    between its last data and its store (`after_load_cycles`), between its last product and its store, bytes stored.
    Of all cores: `total_*_bytes`, and what main memory moves.
    """

    launches: Column = 1  # nought where a point has no such phase
    load_cycles: Column = 0
    store_cycles: Column = 0
    matrix_cycles: Column = 0
    vector_cycles: Column = 0
    wavefronts: Column = 0
    loaded_bytes: Column = 0
    stored_bytes: Column = 0
    first_bytes: Column = 0
    after_load_cycles: Column = 0
    after_matrix_cycles: Column = 0
    last_store_bytes: Column = 0
    total_loaded_bytes: Column = 0
    total_stored_bytes: Column = 0
    read_bursts: Column = 0
    written_bursts: Column = 0


@dataclass(frozen=True)
class Counts:
    """What a program's instructions do in all phases together: the arrays of `hwmodel.energy.Instructions`."""

    loaded_bytes: Column = 0
    stored_bytes: Column = 0
    sram_read_bytes: Column = 0
    sram_write_bytes: Column = 0
    macs: dict[str, Column] = field(default_factory=dict)
    vector: dict[str, Column] = field(default_factory=dict)


def least_fs(phases: Sequence[Demand], machine: Machine) -> Array:
    """Return times that no run of each point is shorter than; int64[points], or one for all."""
    total: Array = np.zeros(1, np.int64)
    for number, demand in enumerate(phases):
        longest = np.maximum.reduce(np.broadcast_arrays(*resources(demand, machine, number == 0).values()))
        total = total + np.where(np.asarray(demand.launches) > 0, machine.spec.launch.latency + longest, 0)
    return total


def resources(demand: Demand, machine: Machine, rows_closed: bool) -> dict[str, Array]:
    """Return the bound of every resource from the launch of a phase to its end; int64[points], or one for all."""
    core_fs, network, first_fs = machine.core_fs, machine.least_network_fs, first_data_fs(machine)
    stored = _each(lambda size: last_store_fs(machine, size), demand.last_store_bytes)
    after_load = _each(core_fs, demand.after_load_cycles) + stored
    after_matrix = _each(core_fs, demand.after_matrix_cycles) + stored
    begun = _each(lambda size: first_fs + machine.port_fs(size), demand.first_bytes)

    def memory(reads: Column, writes: Column) -> Array:
        return _each(lambda r, w: main_memory_fs(machine, r, w, rows_closed), reads, writes)

    loaded, loads = demand.loaded_bytes, demand.total_loaded_bytes
    return {
        "load": _if_any(demand.load_cycles, _each(core_fs, demand.load_cycles) + 2 * network + after_load),
        "store": _if_any(demand.store_cycles, _each(core_fs, demand.store_cycles) + 2 * network),
        "matrix": _if_any(demand.matrix_cycles, begun + _each(core_fs, demand.matrix_cycles) + after_matrix),
        "vector": _if_any(demand.vector_cycles, first_fs + _each(core_fs, demand.vector_cycles) + stored),
        "sram": _each(machine.sram_fs, demand.wavefronts),
        "load port": _if_any(loaded, first_fs + _each(machine.port_fs, loaded) + after_load),
        "store port": _each(machine.port_fs, demand.stored_bytes),
        "network": _each(lambda r, w: network_fs(machine, r, w), loads, demand.total_stored_bytes),
        "shared cache": np.maximum(
            _each(lambda r, w: cache_fs(machine, r, w), loads, demand.total_stored_bytes),
            _if_any(loads, first_fs + _each(lambda r: cache_fs(machine, r, 0), loads) + after_load),
        ),
        "main memory": np.maximum(
            memory(demand.read_bursts, demand.written_bursts),
            _if_any(demand.read_bursts, memory(demand.read_bursts, 0) + after_load),
        ),
    }


def least_pj(phases: Sequence[Demand], counts: Counts, machine: Machine, time_fs: Array) -> Array | None:
    """Return energies in picojoules that no run of each point is below; None where the machine gives none.

    `time_fs`: of `least_fs`. As `hwmodel.energy.least`, in doubles and rounded down by their error.
    """
    spec = machine.spec.energy
    if spec is None:
        return None
    reads = sum(_real(phase.read_bursts) for phase in phases) * machine.burst_bytes
    writes = sum(_real(phase.written_bursts) for phase in phases) * machine.burst_bytes
    in_hbm, cores = machine.memory == "hbm", machine.spec.cores.count
    loaded, stored = _real(counts.loaded_bytes), _real(counts.stored_bytes)
    least_loaded = loaded / cores if machine.spec.noc.multicast_window is not None else loaded
    done = _instructions(counts)
    actions: Any = Actions(
        instructions=done,
        activates=0,
        bank_refreshes=_any(_each(lambda fs: banks_refreshed(machine, refreshes_due(machine, fs)), time_fs)),
        hbm_read_bytes=_any(reads if in_hbm else 0),
        hbm_write_bytes=_any(writes if in_hbm else 0),
        distributed_sram_bytes=_any(0 if in_hbm else reads + writes),
        cache_bytes=_any(least_loaded + stored if machine.spec.shared_cache is not None else 0),
        noc_bytes=_any(0 if machine.is_local else loaded + stored),
        time_fs=_any(time_fs.astype(float)),
    )
    total: Array = np.asarray(spent(spec, actions).total_fj, float)
    return np.broadcast_to(total / 1000 * (1 - ROUNDING), time_fs.shape)


ROUNDING = 1e-9  # far more than a sum of a hundred doubles is off by


def _instructions(counts: Counts) -> Instructions:
    """Return counts as those of one program, whose numbers are arrays here."""
    macs, vector = ({name: _any(_real(n)) for name, n in group.items()} for group in (counts.macs, counts.vector))
    return Instructions(
        _any(_real(counts.loaded_bytes)),
        _any(_real(counts.stored_bytes)),
        _any(_real(counts.sram_read_bytes)),
        _any(_real(counts.sram_write_bytes)),
        macs,
        vector,
    )


def _any(value: Any) -> Any:
    """Return a value whose arithmetic is that of the number which it stands for."""
    return value


def _real(column: Column) -> Array:
    return np.asarray(column, float)


def _if_any(amount: Column, fs: Array) -> Array:
    """Return times, nought where there is nothing to do."""
    return np.where(np.asarray(amount) > 0, fs, 0)


def _each(cost: Callable[..., int], *columns: Column) -> Array:
    """Return the cost of every row of the columns, each distinct row worked out once."""
    rows = np.stack(np.broadcast_arrays(*(np.atleast_1d(np.asarray(column, np.int64)) for column in columns)), axis=1)
    return per_distinct(rows, cost)
