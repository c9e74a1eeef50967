"""Runs the phases of a program on the compiled kernel: the Python side, with tables, memory side and costs."""

from __future__ import annotations

import numpy as np

from hwmodel.descriptors import TileCost, Tiles
from hwmodel.dma import Regions
from hwmodel.engine import state as k
from hwmodel.engine.costs import insert
from hwmodel.engine.kernel import run
from hwmodel.engine.tables import Tensors, instruction_table, queue_tables, schedule_tables, tile_table
from hwmodel.limits import MAX_AXES
from hwmodel.machine import Machine
from hwmodel.memory_side import FIRST_WIDTH, MemorySide
from hwmodel.operands import Operands, UnitCost
from hwmodel.program import QUEUES, Instruction, Phase, Program, variable_count
from hwmodel.result import Ledger, SramUse, Traffic
from hwmodel.runs import RUN_WORDS, Array, tie
from hwmodel.sram_access import NOTHING
from hwmodel.units import transfer_fs

# assumed: more than any machine has; tables have room for all of them
MOST_OUTSTANDING, MOST_PAGES, MOST_BURSTS = 1024, 4096, 1 << 26
FIRST_TILE, FIRST_PLACES = 256, 256  # runs of a tile, and places of a table of keys, from the start


def supports(machine: Machine) -> bool:
    """Return whether the engine knows all parts of a machine."""
    return not refusal(machine)


def refusal(machine: Machine) -> str:
    """Return what of a machine the engine does not know, or nothing."""
    spec, dma = machine.spec, machine.spec.cores.dma
    width = dma.request_bytes // machine.burst_bytes
    if spec.noc.multicast_window is not None:
        return "multicast"
    if width > FIRST_WIDTH or dma.max_outstanding > MOST_OUTSTANDING:
        return f"more than {MOST_OUTSTANDING} requests of an engine in flight, or of {FIRST_WIDTH} bursts"
    if k.ENGINES_PER_CORE * spec.cores.count * dma.max_outstanding * width > MOST_BURSTS:
        return f"more than {MOST_BURSTS} bursts in flight"
    return f"more than {MOST_PAGES} pages of a TLB" if spec.tlb and spec.tlb.entries > MOST_PAGES else ""


class PhaseRun:
    """One program on one machine, phase after phase."""

    def __init__(self, program: Program, machine: Machine, memory: MemorySide) -> None:
        self._program, self._machine, self._memory = program, machine, memory
        self._cores = cores = machine.spec.cores.count
        self._tensors = Tensors.of(program)
        self._room = np.zeros(MAX_AXES, np.int64), np.zeros(MAX_AXES, np.int64)
        self._tables: dict[str, Array] = {}
        self._used: list[tuple[int, object, int]] = []  # queue, cost, times
        self.scalars = np.zeros(k.SCALARS, np.int64)
        self._set_constants()
        dma = machine.spec.cores.dma
        engines, requests = k.ENGINES_PER_CORE * cores, k.ENGINES_PER_CORE * cores * dma.max_outstanding
        rows = np.zeros((requests, k.REQUEST_FIELDS), np.int64)
        rows[:, k.R_NEXT] = np.arange(1, requests + 1)
        width = int(self.scalars[k.PER_REQUEST])
        events = k.QUEUES_PER_CORE * cores + requests + 8
        self._set(
            requests=rows,
            request_runs=np.zeros((requests, int(self.scalars[k.RUN_ROOM]), RUN_WORDS), np.int64),
            events=np.zeros((events, k.EVENT_FIELDS), np.int64),
            ledger=np.zeros((cores * k.QUEUES_PER_CORE, len(k.CAUSES)), np.int64),
            traffic=np.zeros((len(program.tensors), k.ENGINES_PER_CORE, k.TRAFFIC_FIELDS), np.int64),
            waited=np.zeros(k.QUEUES_PER_CORE, np.int64),
            port_fs=np.array([machine.port_fs(n * machine.burst_bytes) for n in range(width + 1)], np.int64),
            cut_fs=self._cut_times(width),
            later=np.zeros((cores, int(self.scalars[k.LATER_ROOM]), k.LATER_FIELDS), np.int64),
            tile_runs=np.zeros((engines, FIRST_TILE, RUN_WORDS), np.int64),
            trip_request=np.zeros(0, np.int64),
            free_trips=np.zeros(0, np.int64),
        )

    def _set_constants(self) -> None:
        spec, m = self._machine.spec, self.scalars
        dma, tlb = spec.cores.dma, spec.tlb
        burst_bytes = self._machine.burst_bytes
        m[k.NEXT_FS] = k.NEVER
        m[[k.CURRENT, k.WANTS, k.DEPARTS]] = k.NONE
        m[k.QUEUE_COUNT] = k.QUEUES_PER_CORE * self._cores
        m[k.BURST_BYTES], m[k.PER_REQUEST] = burst_bytes, dma.request_bytes // burst_bytes
        m[k.MAX_RUNS], m[k.MAX_OUTSTANDING] = dma.max_runs, dma.max_outstanding
        m[k.RUN_ROOM] = min(m[k.PER_REQUEST], dma.max_runs)
        m[k.REQUEST_FS] = self._machine.core_fs(dma.request_cycles)
        m[k.TRANSFER_BURSTS] = max(1, dma.min_transfer // burst_bytes)
        m[k.HAS_CACHE], m[k.BACK_FS] = spec.shared_cache is not None, spec.noc.latency
        m[k.HAS_CUT] = spec.noc.bisection is not None
        if self._machine.is_local and spec.distributed_sram:
            m[k.LOCAL_LINE_BYTES] = spec.distributed_sram.interleave
        if tlb is not None:
            m[k.TLB_ENTRIES], m[k.TLB_PAGE_BYTES], m[k.TLB_MISS_FS] = tlb.entries, tlb.page, tlb.miss_latency
        m[k.LATER_ROOM] = 2 * dma.max_outstanding + k.QUEUES_PER_CORE
        m[k.TILE_ROOM] = FIRST_TILE

    def _cut_times(self, width: int) -> Array:
        bandwidth = self._machine.spec.noc.bisection
        if bandwidth is None:
            return np.zeros(0, np.int64)
        sizes = range(0, (width + 1) * self._machine.burst_bytes, self._machine.burst_bytes)
        return np.array([transfer_fs(size, bandwidth) for size in sizes], np.int64)

    @property
    def now_fs(self) -> int:
        return int(self.scalars[k.NOW])

    def _set(self, **tables: Array) -> None:
        """Keep tables and note their addresses."""
        for name, table in tables.items():
            flat = np.ascontiguousarray(table, np.int64)
            self._tables[name] = flat
            tie(self.scalars, k.TABLES.index(name), flat)

    def run(self, phase: Phase) -> None:
        """Run a phase to its end. Raises RuntimeError naming it if it deadlocks."""
        self._begin(phase)
        while (status := self._go_on()) != k.DONE:
            self._help(status)
        if not self.scalars[k.PHASE_DONE]:
            name = self._program.name
            raise RuntimeError(f"phase {phase.name} of {name} deadlocks: a queue waits for a counter for ever")
        self._note_costs()

    def compile(self, phase: Phase) -> None:
        """Compile the kernel by a phase whose queues never start."""
        self._begin(phase)
        self.scalars[k.STARTED] = self.scalars[k.QUEUE_COUNT]
        self._go_on()
        self._tile_costs.add(self.scalars[k.KEY :], k.LOAD, None, [0] * k.TILE_COST_FIELDS)

    def _go_on(self) -> int:
        t = self._tensors
        layouts = t.bases, t.extents, t.strides, t.orders, t.indices
        return int(run(self.scalars, self._memory.scalars, *layouts, *self._room))

    def _begin(self, phase: Phase) -> None:
        m, machine, cores = self.scalars, self._machine, self._cores
        m[k.NOW] += machine.spec.launch.latency
        m[[k.STARTED, k.ENDED, k.CURSOR, k.PHASE_DONE, k.REGISTERED]] = 0
        m[k.COLUMNS], m[k.VARIABLE_COUNT] = len(phase.columns), variable_count(len(phase.columns))
        m[k.COUNTER_COUNT], m[k.ORDER_COUNT] = len(phase.counters), len(phase.schedule.order)
        m[k.IS_DYNAMIC] = phase.schedule.dynamic
        m[k.RING_ROOM] = machine.spec.cores.dma.max_outstanding + 16
        self._operands = Operands(machine, phase)
        rows, self._first = instruction_table(phase, self._operands)
        before = self._tables["queues"][0, 0, k.MARK_FS] if "queues" in self._tables else 0
        engines = k.ENGINES_PER_CORE * cores
        self._set(
            instructions=rows,
            expressions=phase.expressions,
            tiles=tile_table(self._program, phase, self._tensors),
            engines=np.zeros((engines, k.ENGINE_FIELDS), np.int64),
            rings=np.zeros((engines, int(m[k.RING_ROOM]), k.RING_FIELDS), np.int64),
            pages=np.zeros((engines, int(m[k.TLB_ENTRIES]), k.PAGE_FIELDS), np.int64),
            **schedule_tables(phase, cores),
            **queue_tables(phase, cores, self._first, int(before)),
        )
        self._phase = phase
        self._regions = Regions(self._program, phase, machine.burst_bytes, machine.spec.cores.dma.min_transfer)
        self._tiles = Tiles(self._program, phase, machine)
        self._operation_costs = _Costs(k.COST_FIELDS, k.OPERATION_KEY_FIELDS)
        self._tile_costs = _Costs(k.TILE_COST_FIELDS, k.TILE_KEY_FIELDS)
        self._set_costs()

    def _set_costs(self) -> None:
        operations, tiles = self._operation_costs, self._tile_costs
        self._set(operation_keys=operations.keys, operation_costs=operations.rows)
        self._set(tile_keys=tiles.keys, tile_costs=tiles.rows)
        self.scalars[k.OPERATION_MASK], self.scalars[k.TILE_MASK] = operations.mask, tiles.mask

    def _help(self, status: int) -> None:
        """Do what the compiled kernel has returned for."""
        m = self.scalars
        if status == k.ADVANCE:
            self._memory.advance(self._memory.limit_fs)
        elif status == k.FULL:
            self._memory.make_room()
        elif status == k.MORE_TRIPS:
            self._more_trips()
        elif status == k.LONGER_TILE:
            self._lengthen_tiles(int(m[k.WANTED]))
        else:
            m[k.WANTS] = k.NONE
            if status == k.LONGER_RING:
                self._lengthen_rings()
            else:
                self._work_out(status)

    def _instruction(self, number: int) -> tuple[Instruction, list[int]]:
        """Return the instruction of a queue and its variables."""
        kind = number % k.QUEUES_PER_CORE
        queue = self._tables["queues"].reshape(-1, k.QUEUE_FIELDS)[number]
        instruction = self._phase.decoded[kind][queue[k.INSTRUCTION] - self._first[kind]]
        return instruction, self._tables["variables"][number].tolist()

    def _work_out(self, status: int) -> None:
        """Work out the cost of an instruction that has not been met before."""
        number, machine = int(self.scalars[k.CURRENT]), self._machine
        instruction, variables = self._instruction(number)
        key, kind = self.scalars[k.KEY :], number % k.QUEUES_PER_CORE
        if status == k.OPERATION_COST:
            found = self._operands.executed(instruction, variables)
            self._operation_costs.add(key, kind, found, [found.useful_fs, found.sram_fs, found.alone_fs, 0])
        else:
            region = self._regions.region(instruction.tile, variables)
            cost = self._tiles.cost(region, instruction.operands[0][0], kind == k.STORE)
            dma = machine.spec.cores.dma
            cycles = cost.descriptors * dma.issue_cycles + cost.indices * dma.index_cycles + cost.turned
            first_fs = machine.core_fs(cycles + dma.request_cycles)
            row = [first_fs, machine.sram_fs(cost.sram.wavefronts), cost.descriptors, cost.indices, 0]
            self._tile_costs.add(key, kind, cost, row)
        self._set_costs()

    def _more_trips(self) -> None:
        old, new = self._memory.more_trips()
        free = np.zeros(new, np.int64)
        free[: new - old] = np.arange(new - 1, old - 1, -1)
        self._set(trip_request=np.pad(self._tables["trip_request"], (0, new - old)), free_trips=free)
        self.scalars[k.FREE_TRIP_COUNT] = new - old

    def _lengthen_tiles(self, runs: int) -> None:
        old = self._tables["tile_runs"]
        room = max(runs, 2 * old.shape[1])
        self._set(tile_runs=np.pad(old, ((0, 0), (0, room - old.shape[1]), (0, 0))))
        self.scalars[k.TILE_ROOM] = room

    def _lengthen_rings(self) -> None:
        old, engines = self._tables["rings"], self._tables["engines"]
        room = old.shape[1]
        rings = np.zeros((len(old), 2 * room, k.RING_FIELDS), np.int64)
        for number, (head, tail) in enumerate(engines[:, [k.RING_HEAD, k.RING_TAIL]].tolist()):
            for tile in range(head, tail):
                rings[number, tile % (2 * room)] = old[number, tile % room]
        self._set(rings=rings)
        self.scalars[k.RING_ROOM] = 2 * room

    def _note_costs(self) -> None:
        """Note how often each cost was met in the phase."""
        for costs, times in ((self._operation_costs, k.C_TIMES), (self._tile_costs, k.T_TIMES)):
            for (kind, cost), row in zip(costs.found, costs.rows.tolist(), strict=False):
                self._used.append((kind, cost, row[times]))

    def fill(self, traffic: Traffic, sram_use: SramUse) -> None:
        """Enter what has moved into the books, and tell the memory side."""
        for name, is_store in (("load", 0), ("store", 1)):
            for number, row in enumerate(self._tables["traffic"][:, is_store].tolist()):
                traffic.bytes[name][number] = row[:2]
                traffic.issued[name][number] = row[2:]
        for kind, cost, times in self._used:
            if not times:
                continue
            if isinstance(cost, TileCost):
                accesses = (cost.sram, NOTHING) if QUEUES[kind] == "store" else (NOTHING, cost.sram)
            else:
                assert isinstance(cost, UnitCost)
                accesses = cost.read, cost.written
            sram_use.count(kind, cost, *accesses, times)
        for kind, waited_fs in enumerate(self._tables["waited"].tolist()):
            sram_use.wait(kind, waited_fs)
        counted = k.ASKED_BYTES, k.UNTRANSLATED_BYTES, k.LOCAL_BYTES
        self._memory.count(*(int(self.scalars[number]) for number in counted))

    def ledgers(self) -> list[list[Ledger]]:
        """Return the accounts of all queues, by core."""
        rows = self._tables["ledger"].reshape(self._cores, k.QUEUES_PER_CORE, -1).tolist()
        return [[_ledger(row, self.now_fs) for row in core] for core in rows]


def _ledger(row: list[int], now_fs: int) -> Ledger:
    return Ledger(now_fs, {cause: fs for cause, fs in zip(k.CAUSES, row, strict=True) if fs})


class _Costs:
    """Costs by key: rows for compiled code, and for each its queue and what it was worked out as."""

    def __init__(self, fields: int, key_fields: int) -> None:
        self._key_fields = key_fields
        self.keys = np.zeros((FIRST_PLACES, k.KEY_FIELDS), np.int64)
        self.rows = np.zeros((FIRST_PLACES // 2, fields), np.int64)
        self.found: list[tuple[int, object]] = []

    @property
    def mask(self) -> int:
        return len(self.keys) - 1

    def add(self, key: Array, kind: int, cost: object, row: list[int]) -> None:
        if len(self.found) == len(self.rows):
            self._grow()
        number = len(self.found)
        self.rows[number] = row
        self.found.append((kind, cost))
        insert(self.keys, self.mask, key, self._key_fields, number)

    def _grow(self) -> None:
        old = self.keys[self.keys[:, -1] != 0]
        self.keys = np.zeros((2 * len(self.keys), k.KEY_FIELDS), np.int64)
        self.rows = np.pad(self.rows, ((0, len(self.rows)), (0, 0)))
        for key in old:
            insert(self.keys, self.mask, key, self._key_fields, int(key[-1]) - 1)
