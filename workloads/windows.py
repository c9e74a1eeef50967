"""Windows: shorter programs whose times tell the time of a program that is too long to be run whole.

Once its pipelines are full, a phase repeats itself: every core takes the same steps tile after tile and work item after
work item. So a window keeps some items of every core and some tiles of every item (task column `tiles`), and leaves the
rest as it is: all cores, the whole memory, the items with which the last wave ends. `plan` says which windows a program
needs, `Plan.time` what their times come to:

- items of equal length: the time is affine in the items of a core and in the tiles of an item (two times two windows,
  or two where one of both is kept whole);
- items of unequal length, as with a causal mask: the time of a core is affine in its items and in all their tiles; the
  busiest core counts (three windows).

A short phase (`Lengths`), or one whose windows would be most of it, is kept whole and is in the first window only, so
that short programs are simply run, and so is a ragged phase whose windows cannot tell items from tiles. Windows are too
short to fill a shared cache. A phase that stores much, and touches more bytes than the cache holds, has windows of two
kinds: early ones find it as the phase does, late ones full of an older stream (`Program.earlier_stores`) and none of
their tensors in it, so that main memory takes stores from the start. The part of the touched bytes that the cache has
room for passes early, but nothing of a program that finds the cache full itself; where this is most of the phase, it is
run whole. A phase that loads tensors again and again for which the cache has room, beside what passes meanwhile, and
whose first items touch much of them, has late windows, too, which find them there: items pass early as long as what
they touch of them is new; not so beside a phase that stores much. Touched bytes are counted by tensor, no more than it
has; loads of a part of it again and again count as loads of all of it. What windows cannot see: what else changes on
the way, such as the reuse of tiles that came long before, or cores that begin in step, with their requests in the same
open rows, and fall out of step later, so that memory serves all of them more slowly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from hwmodel.machine import Machine
from hwmodel.program import QUEUES, Op, Phase, Program, Schedule, Tensor
from workloads.traffic import QUEUES_OF_MEMORY, phase_bytes, shortened, tiles_of, touched_bytes
from workloads.window_lengths import SHORT, Axis, Lengths, axes

Array: TypeAlias = np.ndarray[Any, Any]
Which: TypeAlias = tuple[bool, bool, bool]  # of a window: whether it keeps more waves, more tiles; whether it is late
WINDOWS: tuple[Which, ...] = tuple(
    (waves, tiles, late) for late in (False, True) for tiles in (False, True) for waves in (False, True)
)
TILE_BYTES = 4096  # assumed: what a tile costs the engine besides its bytes, as so many more
WORTHWHILE = 0.5  # assumed: of a phase that its windows may come to; more saves too little to be inexact for
STORES = 0.25  # assumed: part of a phase's bytes from which it matters that its stores reach main memory
LATE = 0.5  # assumed: part of a phase that passes before the shared cache is full, beyond which it is run whole
COLD = 1 / 3  # assumed: part of a phase that touches what is new, below which it matters that the rest is in the cache
AGAIN = 1.5  # assumed: loads of a tensor, in bytes that it has, from which the most of it is loaded again
RAGGED = 0.9  # assumed: items are of unequal length where their mean is this part of the longest


@dataclass(frozen=True)
class PhasePlan:
    """How a phase is cut: `waves` are items of its busiest core, `tiles` those of its longest item.

    `counts` and `sums` are the items and the tiles of every core, `loads` those of each window of a ragged phase.
    """

    waves: Axis
    tiles: Axis
    ragged: bool
    counts: Array
    sums: Array
    loaded: float = 0.0
    stored: float = 0.0
    early: float = 1.0  # part of it that passes before a shared cache is full, or has what the rest of it loads
    warm: frozenset[int] = frozenset()  # tensors that late windows find in the cache
    loads: Mapping[Which, tuple[Array, Array]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        return self.waves.is_whole and self.tiles.is_whole

    @property
    def moved(self) -> float:
        """Bytes that the phase loads and stores."""
        return self.loaded + self.stored

    @property
    def windows(self) -> list[Which]:
        """The windows in which the phase differs."""
        waves, tiles = not self.waves.is_whole, not self.tiles.is_whole
        needed = {(True, False): waves, (False, True): tiles, (True, True): waves and tiles and not self.ragged}
        return [which for which in WINDOWS if needed.get(which[:2], True) and (self.early < 1 or not which[2])]

    @property
    def part(self) -> float:
        """What all windows together have of the phase's tiles, about."""
        kept = sum(self.waves.kept(waves) * self.tiles.kept(tiles) for waves, tiles, _ in self.windows)
        return kept / max(self.waves.whole * self.tiles.whole, 1)

    @property
    def kept(self) -> float:
        """What the first window has of the phase's tiles, about."""
        waves, tiles = self.waves.kept(False), self.tiles.kept(False)
        return waves * tiles / max(self.waves.whole * self.tiles.whole, 1) if waves * tiles else 1.0

    def time(self, times: Mapping[Which, float]) -> float:
        """Return the time of the whole phase from those of its `windows`."""
        early, late = ({which: fs for which, fs in times.items() if which[2] == late} for late in (False, True))
        time = self._extended(early, False)
        return self.early * time + (1 - self.early) * self._extended(late, True) if late else time

    def _extended(self, times: Mapping[Which, float], late: bool) -> float:
        """Return the time of the whole phase if all of it were early, or late."""
        base = times[False, False, late]
        if self.ragged and len(times) > 1:
            return self._busiest(times, late)
        by_wave = times.get((True, False, late), base) - base
        by_tile = times.get((False, True, late), base) - base
        both = times.get((True, True, late), base + by_wave + by_tile) - base - by_wave - by_tile
        waves, tiles = self.waves.beyond, self.tiles.beyond
        return base + waves * by_wave + tiles * by_tile + waves * tiles * both

    def _busiest(self, times: Mapping[Which, float], late: bool) -> float:
        """Return start + the largest of item x items + tile x tiles over the cores."""
        items, tiles = self._most_tiles((False, False, late))
        base, per_item, per_tile = times[False, False, late], 0.0, 0.0
        if not self.tiles.is_whole:
            per_tile = (times[False, True, late] - base) / self._more_tiles
        if not self.waves.is_whole:
            _, more_tiles = self._most_tiles((True, False, late))
            rise = times[True, False, late] - base - per_tile * (more_tiles - tiles)
            if self.tiles.is_whole:  # what items begin with is in the tiles
                per_tile = rise / self._more_waves
            else:
                per_item = rise / self._more_waves
        start = base - items * per_item - tiles * per_tile
        return float(start + (per_item * self.counts + per_tile * self.sums).max())

    @property
    def tells(self) -> bool:
        """Whether the busiest cores of a ragged phase's windows differ enough to tell items and tiles apart."""
        return (self.tiles.is_whole or self._more_tiles > 0) and (self.waves.is_whole or self._more_waves > 0)

    @property
    def _more_tiles(self) -> float:
        """How many more tiles the window of more tiles has on its busiest core."""
        return self._most_tiles((False, True, False))[1] - self._most_tiles((False, False, False))[1]

    @property
    def _more_waves(self) -> float:
        """How many more items the window of more waves has on its busiest core; tiles where those are whole."""
        column = 1 if self.tiles.is_whole else 0
        return self._most_tiles((True, False, False))[column] - self._most_tiles((False, False, False))[column]

    def _most_tiles(self, which: Which) -> tuple[float, float]:
        """Return the items and the tiles of the core that has most tiles in a window."""
        counts, sums = self.loads[which]
        core = int(sums.argmax())
        return float(counts[core]), float(sums[core])


@dataclass(frozen=True)
class Plan:
    """The windows of a program, and how their times add up."""

    program: Program
    phases: tuple[PhasePlan, ...]

    @property
    def windows(self) -> list[Which]:
        """The windows that must be run: (more waves, more tiles, late)."""
        return [which for which in WINDOWS if self.phases_of(which)]

    def phases_of(self, which: Which) -> list[int]:
        """Return the numbers of the phases that a window has: the first has all, others those that they cut anew."""
        return [number for number, phase in enumerate(self.phases) if which in phase.windows]

    def window(self, which: Which) -> Program:
        """Return one of the `windows`."""
        more_waves, more_tiles, late = which
        phases = [
            _cut(self.program.phases[number], plan, plan.waves.kept(more_waves), plan.tiles.kept(more_tiles))
            for number, plan in enumerate(self.phases)
            if number in self.phases_of(which)
        ]
        warm = self._warm(which)
        tensors = _found_in_cache(self.program, () if late and not self.is_warm else phases, warm)
        return replace(self.program, tensors=tensors, phases=tuple(phases), earlier_stores=self._stores(which))

    @property
    def is_warm(self) -> bool:
        """Whether late windows find in the cache what they load again; they are all of one kind."""
        return any(phase.warm for phase in self.phases)

    def _warm(self, which: Which) -> frozenset[int]:
        """Return the tensors that a window finds in the cache, though the program does not at first."""
        return frozenset().union(*(self.phases[number].warm for number in self.phases_of(which) if which[2]))

    def _stores(self, which: Which) -> float | None:
        """Return what part of a full cache is not yet written: of late windows what their phases store."""
        phases = [self.phases[number] for number in self.phases_of(which)]
        if not which[2]:
            return self.program.earlier_stores
        if self.is_warm:
            return None
        return sum(phase.stored for phase in phases) / sum(phase.moved for phase in phases)

    def time(self, times: Mapping[Which, Sequence[float]]) -> float:
        """Return the time of the program from those of the phases of each window."""
        found: list[dict[Which, float]] = [{} for _ in self.phases]
        for which, of_phases in times.items():
            for number, time in zip(self.phases_of(which), of_phases, strict=True):
                found[number][which] = time
        return sum(plan.time(own) for plan, own in zip(self.phases, found, strict=True))


def plan(program: Program, machine: Machine, lengths: Lengths = SHORT) -> Plan:
    """Return the windows of a program for a machine."""
    phases = tuple(_plan(program, phase, machine, lengths) for phase in program.phases)
    of_stores = any(phase.early < 1 and not phase.warm for phase in phases)
    if of_stores or not _fit_together(program, phases, machine):
        phases = tuple(replace(phase, early=1.0, warm=frozenset()) if phase.warm else phase for phase in phases)
    return Plan(program, phases)


def _fit_together(program: Program, phases: Sequence[PhasePlan], machine: Machine) -> bool:
    """Return whether all that late windows find in the cache fits it."""
    warm, cache = frozenset().union(*(phase.warm for phase in phases)), machine.spec.shared_cache
    return cache is None or sum(program.tensors[number].size_bytes for number in warm) <= cache.distinct_bytes


def _loaded(phases: Sequence[Phase]) -> set[int]:
    """Return the numbers of the tensors that some phases load."""
    loads = [(phase, phase.queues[QUEUES.index("load")]) for phase in phases]
    tiles = [phase.tiles["tensor"][stream["tile"][stream["op"] == Op.LOAD]] for phase, stream in loads]
    return {number for numbers in tiles for number in numbers.tolist()}


def _found_in_cache(program: Program, phases: Sequence[Phase], warm: Set[int]) -> tuple[Tensor, ...]:
    """Return the tensors; those in the shared cache only where one of the phases loads them: to put them takes time.

    `warm`: numbers of those that are there in any case.
    """
    loaded = _loaded(phases)
    found = []
    for number, tensor in enumerate(program.tensors):
        if number in warm:
            found.append(replace(tensor, resident="cache"))
        else:
            is_gone = tensor.resident == "cache" and number not in loaded
            found.append(replace(tensor, resident="hbm") if is_gone else tensor)
    return tuple(found)


def _plan(program: Program, phase: Phase, machine: Machine, lengths: Lengths) -> PhasePlan:
    tiles, cores = tiles_of(phase), machine.spec.cores.count
    counts, sums = _loads(phase, cores)
    most, longest = int(counts.max(initial=0)), int(tiles.max(initial=0))
    whole = PhasePlan(Axis(most, most, most), Axis(longest, longest, longest), False, counts, sums)
    if len(tiles) == 0:
        return whole
    total, moved = float(tiles.sum()), phase_bytes(program, phase)
    loaded, stored = map(float, moved.sum(axis=1))
    early = _early(program, moved, machine)
    if loaded + stored + TILE_BYTES * total <= lengths.whole_bytes or LATE < early < 1:
        return whole
    stages, wave_bytes = max(buffer.slots for buffer in phase.buffers), (loaded + stored) / max(most, 1)
    waves, kept = axes(stages, most, longest, wave_bytes, lengths.step_bytes)
    ragged = total < RAGGED * longest * len(tiles)
    found = PhasePlan(waves, kept, ragged, counts, sums, loaded, stored, early)
    if not (early < 1 or waves.is_whole or program.earlier_stores is not None):
        found = _warmed(program, phase, machine, found, moved)
    if found.part > WORTHWHILE:
        return whole
    if not ragged:
        return found
    windows = {which: _cut(phase, found, waves.kept(which[0]), kept.kept(which[1])) for which in found.windows}
    found = replace(found, loads={which: _loads(window, cores) for which, window in windows.items()})
    return found if found.tells else whole


def _early(program: Program, moved: Array, machine: Machine) -> float:
    """Return the part of a phase that passes before the shared cache is full, where it matters; `moved`: its bytes."""
    cache, stored = machine.spec.shared_cache, moved[QUEUES_OF_MEMORY.index("store")].sum()
    if cache is None or stored <= STORES * moved.sum() or program.earlier_stores is not None:
        return 1.0
    touched = np.minimum(moved.sum(axis=0), _sizes(program)).sum()
    return min(1.0, float(cache.distinct_bytes / touched))


def _warmed(program: Program, phase: Phase, machine: Machine, found: PhasePlan, moved: Array) -> PhasePlan:
    """Return the plan with late windows that find in the shared cache what they load again, where that matters.

    Items pass early as long as they touch what is new of it, as much as the first of every core do.
    """
    cache, cores, sizes = machine.spec.shared_cache, machine.spec.cores.count, np.array(_sizes(program))
    again = moved[0] > AGAIN * sizes
    kept, loaded = sizes[again].sum(), moved[0, again].sum()
    if cache is None or not again.any() or loaded - kept < COLD * moved[0].sum():
        return found
    passing = np.minimum(moved.sum(axis=0), sizes)[~again].sum() * kept / loaded  # between two loads of the same
    warm = frozenset(np.flatnonzero(again).tolist())
    is_there = all(program.tensors[number].resident == "cache" for number in warm)  # from the first window on
    if kept + passing > cache.distinct_bytes or is_there:
        return found
    order, others = phase.schedule.order, frozenset(range(len(sizes))) - warm
    first = order[_wave(phase, cores) == 0]
    if found.ragged:
        new, whole = touched_bytes(program, phase, first, found.tiles.whole, others), int(kept)
    else:  # by the first tiles of all items
        new, whole = (touched_bytes(program, phase, items, 1, others) for items in (first, order))
    early = whole / max(new * found.waves.whole, 1)
    return replace(found, early=early, warm=warm) if 0 < early < COLD else found


def _wave(phase: Phase, cores: int) -> Array:
    """Return how many items of its core come before each item, in the order of the schedule."""
    owner = _owners(phase, cores)[phase.schedule.order]
    by_core = np.argsort(owner, kind="stable")
    wave = np.empty(len(owner), np.int64)
    wave[by_core] = _place_within(owner[by_core])
    return wave


def _place_within(owner: Array) -> Array:
    """Return how many of the same owner come before each of some in the order of their owners."""
    return np.arange(len(owner)) - np.searchsorted(owner, owner)


def _sizes(program: Program) -> list[int]:
    return [tensor.size_bytes for tensor in program.tensors]


def _loads(phase: Phase, cores: int) -> tuple[Array, Array]:
    """Return the items and the tiles of every core."""
    owner = _owners(phase, cores)
    return np.bincount(owner, minlength=cores), np.bincount(owner, weights=tiles_of(phase), minlength=cores)


def _owners(phase: Phase, cores: int) -> Array:
    """Return the core of every task; in a dynamic schedule the one that would take it if tiles took equally long."""
    order, start = phase.schedule.order, phase.schedule.start
    owner = np.zeros(len(phase.tasks), np.int64)
    if phase.schedule.dynamic:
        owner[order] = np.arange(len(order)) % cores
    else:
        owner[order] = np.repeat(np.arange(len(start) - 1), np.diff(start))
    return owner


def _cut(phase: Phase, plan: PhasePlan, waves: int, tiles: int) -> Phase:
    """Return a window: of every core's items all but as many as the busiest core leaves out, of these some tiles.

    Of items of unequal length the longest ones of every core are kept, so that its tiles tell.
    """
    if waves == plan.waves.whole and tiles == plan.tiles.whole:
        return phase
    order, schedule, left_out = phase.schedule.order, phase.schedule, plan.waves.whole - waves
    if plan.ragged:
        kept, start = _longest(phase, len(plan.counts), waves)
    elif schedule.dynamic:
        kept, start = order[: max(0, len(order) - left_out * len(plan.counts))], schedule.start
    else:
        shares = [
            order[begin : max(begin, end - left_out)]
            for begin, end in zip(schedule.start[:-1], schedule.start[1:], strict=True)
        ]
        kept, start = np.concatenate(shares), _starts(shares)
    numbers = np.arange(len(kept), dtype=np.int64)
    return replace(phase, tasks=shortened(phase, phase.tasks[kept], tiles), schedule=Schedule(numbers, start))


def _longest(phase: Phase, cores: int, count: int) -> tuple[Array, Array]:
    """Return so many of the longest items of every core, in their order, and where those of each core begin."""
    order, tiles = phase.schedule.order, tiles_of(phase)
    owner = _owners(phase, cores)[order]
    by_length = np.lexsort((-tiles[order], owner))  # stable
    chosen = np.sort(by_length[_place_within(owner[by_length]) < count])
    kept = order[chosen]
    if phase.schedule.dynamic:
        return kept, phase.schedule.start
    return kept, _starts([kept[owner[chosen] == core] for core in range(cores)])


def _starts(shares: Sequence[Array]) -> Array:
    return np.cumsum([0, *map(len, shares)]).astype(np.int64)
