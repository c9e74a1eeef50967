"""How long the windows of a phase are: what each keeps of the items of a core and of the tiles of an item."""

from __future__ import annotations

import math
from dataclasses import dataclass

LEAST_TILES = 4  # assumed: of a window, in all items of a core, so that buffers are filled again and not only once
LEAST_BYTES = 4 << 20  # assumed: of a window of short items, so that latencies and refreshes are a small part of it
TIMES = 3  # assumed: what a longer window keeps of what a shorter one does, where no step is asked for


@dataclass(frozen=True)
class Lengths:
    """What phases are run whole, those of up to `whole_bytes`, and how much longer the longer windows of others are.

    They keep `TIMES` as much as the shortest, or as much more as moves `step_bytes`: ends of windows, refreshes in them
    and channels that they load unevenly shift each time by some tenths of a microsecond, and count as often as the
    difference of two windows is in the whole.
    """

    whole_bytes: float
    step_bytes: float | None = None


SHORT = Lengths(16 << 20)  # assumed: a tenth to half of a second of the engine
MEDIUM = Lengths(32 << 20, 24 << 20)  # assumed: a part of 1 s, and 8 us at 3 TB/s, two refresh intervals
LONG = Lengths(512 << 20, 128 << 20)  # assumed: some seconds, and 45 us
WHOLE = Lengths(math.inf)


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


def axes(stages: int, waves: int, tiles: int, wave_bytes: float, step_bytes: float | None) -> tuple[Axis, Axis]:
    """Return what windows keep of the items of a core and of the tiles of an item: enough to fill `stages` buffers."""
    short, of_wave = max(stages, LEAST_TILES), max(wave_bytes, 1)
    of_tile = of_wave / max(tiles, 1)
    items = _axis(waves, 1, _longer_waves(waves, short * of_tile, step_bytes))
    long = _longer(short, (waves if items.is_whole else items.long - items.short) * of_tile, step_bytes)
    if tiles > 2 * short if step_bytes is None else tiles >= short + long:  # else windows of whole items are shorter
        return items, _axis(tiles, short, long)
    few = max(-(-short // max(tiles, 1)), math.ceil(LEAST_BYTES / of_wave))
    return _axis(waves, few, _longer(few, of_wave, step_bytes)), _axis(tiles, tiles, tiles)


def _longer_waves(waves: int, short_bytes: float, step_bytes: float | None) -> int:
    """Return the items of a core in windows of more, which share the step evenly with the tiles: so they are cheapest.

    `short_bytes`: of the shortest window.
    """
    shared = 0.0 if step_bytes is None else math.sqrt(step_bytes / short_bytes)
    return min(1 + max(1, round(shared)), max(2, waves - 1))


def _longer(short: int, each_bytes: float, step_bytes: float | None) -> int:
    """Return what a longer window keeps: `TIMES` `short`, or a step more than it; twice where this is a step."""
    if step_bytes is None:
        return TIMES * short
    more = math.ceil(step_bytes / each_bytes)
    return 2 * short if more <= short else max(TIMES * short, short + more)


def _axis(whole: int, short: int, long: int) -> Axis:
    return Axis(whole, short, long) if whole > long else Axis(whole, whole, whole)
