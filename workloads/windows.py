"""Windows: shorter programs whose times tell the time of a program that is too long to be run whole.

Once its pipelines are full, a phase repeats itself: every core takes the same steps tile after tile and work item after
work item. So a window keeps some items of every core and some tiles of every item (task column `tiles`), and leaves the
rest as it is: all cores, the whole memory, the items with which the last wave ends. `plan` says which windows a program
needs, `Plan.time` what their times come to:

- items of equal length: the time is affine in the items of a core and in the tiles of an item (two times two windows,
  or two where one of both is kept whole);
- items of unequal length, as with a causal mask: the time of a core is affine in its items and in all their tiles; the
  busiest core counts (three windows).

A phase within the budget is kept whole and is in the first window only, so that short programs are simply run. What
windows cannot see: what changes on the way, such as a cache that fills up after thousands of tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from hwmodel.expansion import executions, tile_bytes
from hwmodel.program import QUEUES, Op, Phase, Program, Schedule

Array: TypeAlias = np.ndarray[Any, Any]
Which: TypeAlias = tuple[bool, bool]  # of a window: whether it keeps more waves, more tiles
WINDOWS: tuple[Which, ...] = ((False, False), (True, False), (False, True), (True, True))
BUDGET_BYTES = 64 << 20  # assumed: loads and stores of a phase that is run whole, a third of a second of the engine
FEW_WAVES = 2  # items of a core up to which none is left out
RAGGED = 0.9  # assumed: items are of unequal length where their mean is this part of the longest


@dataclass(frozen=True)
class Axis:
    """What two windows keep of a number that is `whole` in the program; both are `whole` where nothing is left out."""

    whole: int
    short: int
    long: int

    @property
    def is_whole(self) -> bool:
        return self.long >= self.whole

    def kept(self, second: bool) -> int:
        return self.whole if self.is_whole else self.long if second else self.short

    @property
    def beyond(self) -> float:
        """How often the difference of both windows lies between the shorter one and the whole."""
        return 0.0 if self.is_whole else (self.whole - self.short) / (self.long - self.short)


@dataclass(frozen=True)
class PhasePlan:
    """How a phase is cut: `waves` are items of its busiest core, `tiles` those of its longest item.

    `counts` and `sums` are the items and the tiles of every core.
    """

    waves: Axis
    tiles: Axis
    ragged: bool
    counts: Array
    sums: Array

    @property
    def windows(self) -> list[Which]:
        """The windows in which the phase differs."""
        waves, tiles = not self.waves.is_whole, not self.tiles.is_whole
        needed = {(True, False): waves, (False, True): tiles, (True, True): waves and tiles and not self.ragged}
        return [which for which in WINDOWS if needed.get(which, True)]

    def time(self, times: Mapping[Which, float]) -> float:
        """Return the time of the whole phase from those of its `windows`."""
        base = times[False, False]
        if self.ragged and not self.tiles.is_whole:
            return self._busiest(times)
        by_wave = times.get((True, False), base) - base
        by_tile = times.get((False, True), base) - base
        both = times.get((True, True), base + by_wave + by_tile) - base - by_wave - by_tile
        waves, tiles = self.waves.beyond, self.tiles.beyond
        return base + waves * by_wave + tiles * by_tile + waves * tiles * both

    def _busiest(self, times: Mapping[Which, float]) -> float:
        """Return start + the largest of item x items + tile x tiles over the cores."""
        few, many = self.waves.kept(False), self.waves.kept(True)
        short, long = self.tiles.kept(False), self.tiles.kept(True)
        per_tile = (times[False, True] - times[False, False]) / (few * (long - short))
        per_item = 0.0  # what items begin with is in the start
        if many > few:
            per_item = (times[True, False] - times[False, False]) / (many - few) - per_tile * short
        start = times[False, False] - few * per_item - few * short * per_tile
        return float(start + (per_item * self.counts + per_tile * self.sums).max())


@dataclass(frozen=True)
class Plan:
    """The windows of a program, and how their times add up."""

    program: Program
    phases: tuple[PhasePlan, ...]

    @property
    def windows(self) -> list[Which]:
        """The windows that must be run: (more waves, more tiles)."""
        return [which for which in WINDOWS if self.phases_of(which)]

    def phases_of(self, which: Which) -> list[int]:
        """Return the numbers of the phases that a window has: the first all, the others those that they cut anew."""
        return [number for number, phase in enumerate(self.phases) if which in phase.windows]

    def window(self, which: Which) -> Program:
        """Return one of the `windows`."""
        more_waves, more_tiles = which
        phases = [
            _cut(self.program.phases[number], plan, plan.waves.kept(more_waves), plan.tiles.kept(more_tiles))
            for number, plan in enumerate(self.phases)
            if number in self.phases_of(which)
        ]
        return replace(self.program, phases=tuple(phases))

    def time(self, times: Mapping[Which, Sequence[float]]) -> float:
        """Return the time of the program from those of the phases of each window."""
        found: list[dict[Which, float]] = [{} for _ in self.phases]
        for which, of_phases in times.items():
            for number, time in zip(self.phases_of(which), of_phases, strict=True):
                found[number][which] = time
        return sum(plan.time(own) for plan, own in zip(self.phases, found, strict=True))


def plan(program: Program, cores: int, budget_bytes: int = BUDGET_BYTES) -> Plan:
    """Return the windows of a program for a machine with so many cores."""
    return Plan(program, tuple(_plan(program, phase, cores, budget_bytes) for phase in program.phases))


def _plan(program: Program, phase: Phase, cores: int, budget_bytes: int) -> PhasePlan:
    tiles = _tiles(phase)
    owner = _owners(phase, cores, tiles)
    counts = np.bincount(owner, minlength=cores)
    sums = np.bincount(owner, weights=tiles, minlength=cores)
    most, longest = int(counts.max(initial=0)), int(tiles.max(initial=0))
    whole = PhasePlan(Axis(most, most, most), Axis(longest, longest, longest), False, counts, sums)
    if len(tiles) == 0:
        return whole
    item_bytes, one_tile_bytes = _bytes(program, phase, int(tiles.argmax()))
    if item_bytes * len(tiles) + one_tile_bytes * float(tiles.sum()) <= budget_bytes:
        return whole
    stages = max(buffer.slots for buffer in phase.buffers)
    short = max(2 * stages, 4)
    tile_axis = Axis(longest, short, 2 * short) if longest > 3 * short else whole.tiles
    wave_axis = Axis(most, FEW_WAVES - 1, FEW_WAVES) if most > FEW_WAVES else whole.waves
    return PhasePlan(wave_axis, tile_axis, float(tiles.mean()) < RAGGED * longest, counts, sums)


def _tiles(phase: Phase) -> Array:
    """Return the tiles of every item; one where a phase has no such column."""
    if "tiles" not in phase.columns:
        return np.ones(len(phase.tasks), np.int64)
    return np.maximum(phase.tasks[:, phase.columns.index("tiles")], 0)


def _owners(phase: Phase, cores: int, tiles: Array) -> Array:
    """Return the core of every task; in a dynamic schedule the one that would take it if tiles took equally long."""
    order, start = phase.schedule.order, phase.schedule.start
    owner = np.zeros(len(phase.tasks), np.int64)
    if phase.schedule.dynamic:
        owner[order] = np.arange(len(order)) % cores
    else:
        owner[order] = np.repeat(np.arange(len(start) - 1), np.diff(start))
    return owner


def _bytes(program: Program, phase: Phase, item: int) -> tuple[int, int]:
    """Return the bytes that an item moves besides its tiles, and with each of its tiles."""
    moved = []
    for tiles in (1, 2):
        tasks = _shortened(phase, phase.tasks[item : item + 1], tiles)
        one = replace(phase, tasks=tasks, schedule=Schedule(np.zeros(1, np.int64), np.zeros(0, np.int64)))
        total = 0
        for queue in (QUEUES.index("load"), QUEUES.index("store")):
            for instruction, _, variables in executions(one, queue):
                if instruction.op in (Op.LOAD, Op.STORE):
                    total += int(tile_bytes(program, one, instruction, variables).sum())
        moved.append(total)
    return max(0, 2 * moved[0] - moved[1]), moved[1] - moved[0]


def _shortened(phase: Phase, tasks: Array, tiles: int) -> Array:
    """Return tasks with at most so many tiles; of those of attention, tiles that all queries see whole are left out."""
    if "tiles" not in phase.columns:
        return tasks
    tasks = tasks.copy()
    column = phase.columns.index("tiles")
    left_out = np.maximum(tasks[:, column] - tiles, 0)
    if "full" in phase.columns:
        full = phase.columns.index("full")
        left_out = np.minimum(left_out, tasks[:, full])
        tasks[:, full] -= left_out
    tasks[:, column] -= left_out
    return tasks


def _cut(phase: Phase, plan: PhasePlan, waves: int, tiles: int) -> Phase:
    """Return a window: of every core's items all but as many as the busiest core leaves out, of these some tiles."""
    if waves == plan.waves.whole and tiles == plan.tiles.whole:
        return phase
    cores, order, left_out = len(plan.counts), phase.schedule.order, plan.waves.whole - waves
    if phase.schedule.dynamic:
        kept, start = order[: max(0, len(order) - left_out * cores)], phase.schedule.start
    else:
        shares = [
            order[begin : max(begin, end - left_out)]
            for begin, end in zip(phase.schedule.start[:-1], phase.schedule.start[1:], strict=True)
        ]
        kept = np.concatenate(shares)
        start = np.cumsum([0, *map(len, shares)]).astype(np.int64)
    numbers = np.arange(len(kept), dtype=np.int64)
    return replace(phase, tasks=_shortened(phase, phase.tasks[kept], tiles), schedule=Schedule(numbers, start))
