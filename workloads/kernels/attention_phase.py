"""The main phase of every attention template.

A work item is one or two tiles of queries (its *lanes*) that walk the same tiles of K and V. The rows of a tile are
query positions times query heads, position by position. Scores come from the matrix unit, the online softmax from the
vector unit, the weighted sum of V from the matrix unit. Of one lane, the scores of the next tile come before the
weighted sum of this one, so that they are computed while the softmax runs. Two lanes take turns: the matrix unit works
on one while the vector unit works on the other, as the two warp groups of FlashAttention-3 do (Shah et al. 2024,
arXiv:2407.08608).

Masks cost only where they matter: the vector queue has a loop for the tiles at the window's edge, one for those that
every row sees whole, and one for those at the diagonal. Tiles that no row sees are not loaded.

With an e4m3 cache there is a block of scales per item. Queries that are to be quantised are at the item's begin. Tiles
that are to be widened come in blocks of their own, from which the vector unit makes those that are multiplied: keys a
tile ahead of the softmax, so that their scores are there when it comes to them, values of the tile before its softmax.
The vector queue then has one loop, whose softmax is masked where any tile of the phase is, at no cost to the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hwmodel.assembler import Affine, PhaseAssembler, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import Buffer, Cause, Phase, Schedule
from hwmodel.vector.attention import WEIGHT_PEAK
from hwmodel.vector.quantise import E4M3_LARGEST
from workloads.buffers import allocate, operand
from workloads.kernels.attention_parts import Attention, Places

Array = np.ndarray[Any, Any]
WIDENED = 2  # blocks of widened keys, and of values: the softmax before has waited for what used the one after next


class AttendPhase:
    """Writes the main phase, one method per queue; buffers and counters go by their names.

    `columns` has the columns of `edges`, `begin` and `tokens` of the keys, `q_tokens` of the first lane and, with two,
    `q_more` of the second, and with sinks `sink`: whether this item's part of the keys takes the sink along.
    """

    def __init__(
        self, attention: Attention, assembler: PhaseAssembler, columns: Mapping[str, Array], places: Places
    ) -> None:
        self._a = attention
        self._p = assembler
        self._columns = columns
        self._places = places
        self._buffers: dict[str, int] = {}
        self._counters: dict[str, int] = {}
        self._q = "q quantised" if attention.types.quantises else "q"  # the blocks that are multiplied
        self._k, self._v = ("k widened", "v widened") if attention.types.widens else ("k", "v")
        self._deep = 2 if attention.lanes == 1 else 1  # blocks of scores and probabilities per lane
        self._ahead = 2 if attention.overlap else 1  # blocks of queries and of results per lane
        self._masks = {
            "edge": bool(columns["edge"].any()),
            "full": True,
            "diagonal": bool((columns["edge"] + columns["full"] < columns["tiles"]).any()),
        }

    def write(self, machine: Machine, order: Schedule) -> Phase:
        """Return the phase over the items, dealt by `order`."""
        self._request_buffers(machine)
        self._request_counters()
        self._load()
        (self._matrix if self._a.lanes == 1 else self._matrix_in_turns)()
        self._vector()
        self._store()
        return self._p.finish(np.stack(list(self._columns.values()), axis=1), order)

    def _request_buffers(self, machine: Machine) -> None:
        a = self._a
        shared = [
            *self._tiles("k", a.dim, machine, axis_of_k=1, filled_along=self._places.k_along),
            *self._tiles("v", a.dim_v, machine, axis_of_k=0, filled_along=self._places.v_along),
        ]
        shared += [block("sinks", 1, a.heads, "fp32", 2)] if a.sinks else []
        shared += [block("scales", 1, 3, "fp32", 2)] if a.types.scaled else []
        requested = shared + [buffer for lane in range(a.lanes) for buffer in self._of_lane(lane, machine)]
        numbers = self._p.add_buffers(allocate(requested, machine))
        self._buffers = dict(zip((b.name for b in requested), numbers, strict=True))

    def _tiles(self, name: str, dim: int, machine: Machine, *, axis_of_k: int, filled_along: int) -> list[Buffer]:
        """Return the requests for tiles of K or of V as they are loaded, and as they are multiplied."""
        a = self._a
        loaded = block(name, a.tile, dim, a.types.kv, a.stages)
        if not a.types.widens:
            return [operand(loaded, machine, a.sram_layout, side="b", axis_of_k=axis_of_k, filled_along=filled_along)]
        widened = block(f"{name} widened", a.tile, dim, a.types.product, WIDENED)
        return [loaded, operand(widened, machine, a.sram_layout, side="b", axis_of_k=axis_of_k)]

    def _of_lane(self, lane: int, machine: Machine) -> list[Buffer]:
        a, types, suffix = self._a, self._a.types, _suffix(lane)
        probabilities = block(f"probabilities{suffix}", a.rows, a.tile, types.product, self._deep)
        out = (a.dim_v + 1, "fp32") if a.partial else (a.dim_v, types.out)
        return [
            *self._queries(suffix, machine),
            block(f"scores{suffix}", a.rows, a.tile, "fp32", self._deep),
            operand(probabilities, machine, a.sram_layout, side="a", axis_of_k=1),
            block(f"maximum{suffix}", a.rows, 1, "fp32"),
            block(f"sum{suffix}", a.rows, 1, "fp32"),
            block(f"accumulator{suffix}", a.rows, a.dim_v, "fp32"),
            block(f"out{suffix}", a.rows, *out, self._ahead),
        ]

    def _queries(self, suffix: str, machine: Machine) -> list[Buffer]:
        """Return the requests for queries as they are loaded, and as they are multiplied."""
        a = self._a
        loaded = block(f"q{suffix}", a.rows, a.dim, a.types.q, self._ahead)
        if not a.types.quantises:
            return [operand(loaded, machine, a.sram_layout, side="a", axis_of_k=1)]
        quantised = block(f"q quantised{suffix}", a.rows, a.dim, a.types.product)
        return [loaded, operand(quantised, machine, a.sram_layout, side="a", axis_of_k=1)]

    def _request_counters(self) -> None:
        a = self._a
        shared: list[tuple[Cause, str, bool]] = [
            ("memory", "k loaded", True),
            ("memory", "v loaded", True),
            ("memory", "sinks loaded", a.sinks),
            ("memory", "scales loaded", a.types.scaled),
            ("buffer", "k free", True),
            ("buffer", "v free", True),
            ("buffer", "sinks free", a.sinks),
            ("buffer", "scales free", a.types.scaled),
            ("dependency", "k widened", a.types.widens),
            ("dependency", "v widened", a.types.widens),
        ]
        own: list[tuple[Cause, str, bool]] = [
            ("memory", "q loaded", True),
            ("dependency", "q quantised", a.types.quantises),
            ("buffer", "q free", True),
            ("buffer", "scores free", True),
            ("buffer", "probabilities free", True),
            ("buffer", "out free", True),
            ("dependency", "scores", True),
            ("dependency", "probabilities", True),
            ("dependency", "tile summed", True),
            ("dependency", "out", True),
        ]
        lanes = [(own, _suffix(lane)) for lane in range(a.lanes)]
        for group, suffix in [(shared, ""), *lanes]:
            for cause, name, there in group:
                if there:
                    self._counters[name + suffix] = self._p.counter(name + suffix, cause)

    def _slot(self, buffer: str, number: Affine) -> Slot:
        return Slot(self._buffers[buffer], number)

    def _item(self, lane: int, *buffers: str) -> tuple[Slot, ...]:
        """Return the blocks of a lane's buffers that change once per work item."""
        return tuple(self._slot(buffer + _suffix(lane), self._p.begun) for buffer in buffers)

    def _waits(self, values: Mapping[str, Affine | int], lane: int = 0) -> list[tuple[int, Affine | int]]:
        return [(self._counter(name, lane), value) for name, value in values.items()]

    def _signals(self, *names: str, lane: int = 0) -> list[int]:
        return [self._counter(name, lane) for name in names]

    def _counter(self, name: str, lane: int) -> int:
        """Return a counter of the lane, or the shared one of this name."""
        return self._counters[name + _suffix(lane)] if name + _suffix(lane) in self._counters else self._counters[name]

    def _keys(self, index: Affine | int) -> Affine:
        """Return how many keys tile `index` of the item has."""
        return (self._p.column("tokens") - index * self._a.tile).clip(self._a.tile)

    def _rows(self, lane: int) -> Affine:
        return self._p.column("q_more" if lane else "q_tokens") * self._a.heads

    def _load(self) -> None:
        """The queries of an item, then its K and V tiles."""
        p, a = self._p, self._a
        for lane in range(a.lanes):
            waits = {"q free": p.begun - self._ahead + 1} | ({} if a.overlap else {"out free": p.begun})
            (q,) = self._item(lane, "q")
            p.load(q, self._places.q(lane), self._waits(waits, lane), self._signals("q loaded", lane=lane))
        for name, there, place in (
            ("sinks", a.sinks, self._places.sinks),
            ("scales", a.types.scaled, self._places.scales),
        ):
            if there:
                free = self._waits({f"{name} free": p.begun - 1})
                p.load(self._slot(name, p.begun), place, free, self._signals(f"{name} loaded"))
        with p.loop("load", p.column("tiles")) as i:
            here = (p.column("begin") + i.index * a.tile, self._keys(i.index))
            for side, tile in (("k", self._places.k), ("v", self._places.v)):
                wait = self._waits({f"{side} free": i.running - a.stages + 1})
                p.load(self._slot(side, i.running), tile(here), wait, self._signals(f"{side} loaded"))

    def _matrix(self) -> None:
        """Scores of tile 0; then scores of tile i + 1 before the weighted sum of tile i; then the last sum."""
        p, tiles = self._p, self._p.column("tiles")
        before = p.begun + p.running(0)
        self._score(0, before, 0)
        with p.loop("matrix", tiles - 1) as i:
            self._score(0, before + 1, i.index + 1)
            self._weigh(0, before, i.index)
        self._weigh(0, before, tiles - 1, last=True)

    def _matrix_in_turns(self) -> None:
        """Scores of tile 0 of both lanes; then, lane by lane, the weighted sum of a tile and the scores of the next."""
        p, tiles = self._p, self._p.column("tiles")
        before = p.begun + p.running(0)
        for lane in range(2):
            self._score(lane, before, 0)
        with p.loop("matrix", tiles - 1) as i:
            for lane in range(2):
                self._weigh(lane, before, i.index)
                self._score(lane, before + 1, i.index + 1)
        for lane in range(2):
            self._weigh(lane, before, tiles - 1, last=True)

    def _score(self, lane: int, number: Affine, index: Affine | int) -> None:
        a, (q,) = self._a, self._item(lane, self._q)
        ready = {_ready(self._q): self._p.begun + 1, _ready(self._k): number + 1}
        self._p.matmul(
            self._slot(f"scores{_suffix(lane)}", number),
            q,
            self._slot(self._k, number),
            (self._rows(lane), self._keys(index), a.dim),
            transpose_b=True,
            wait=self._waits(ready | {"scores free": number - self._deep + 1}, lane),
            signal=self._signals("scores", *self._done("k", lane), lane=lane),
        )

    def _weigh(self, lane: int, number: Affine, index: Affine | int, *, last: bool = False) -> None:
        """Add the weighted sum of a tile; after the `last` one of an item its queries are not used any more."""
        a, (accumulator,) = self._a, self._item(lane, "accumulator")
        also = ["q free"] if last and not a.types.quantises else []
        also += self._done("v", lane)
        self._p.matmul(
            accumulator,
            self._slot(f"probabilities{_suffix(lane)}", number),
            self._slot(self._v, number),
            (self._rows(lane), a.dim_v, self._keys(index)),
            accumulate=1,
            wait=self._waits({_ready(self._v): number + 1, "probabilities": number + 1}, lane),
            signal=self._signals("tile summed", "probabilities free", *also, lane=lane),
        )

    def _done(self, side: str, lane: int) -> list[str]:
        """Return what a product signals of the tile that it has read; of widened tiles the vector queue knows it."""
        return [f"{side} free"] if lane == self._a.lanes - 1 and not self._a.types.widens else []

    def _vector(self) -> None:
        """What an item begins with, the online softmax per tile, then the item's result."""
        a = self._a
        if a.sinks:
            self._start_with_sinks()
        if a.types.quantises:
            for lane in range(a.lanes):
                self._quantise(lane)
        begun = self._softmax_and_widen() if a.types.widens else self._softmax_by_mask()
        for lane in range(a.lanes):
            self._finish(lane, begun)

    def _softmax_by_mask(self) -> Affine:
        """Write the softmax at the window's edge, in full view, at the diagonal. Returns the tiles begun so far."""
        p = self._p
        kinds = [kind for kind, there in self._masks.items() if there]
        tiles, edge, full = (p.column(name) for name in ("tiles", "edge", "full"))
        first: dict[str, Affine | int] = {"edge": 0, "full": edge, "diagonal": edge + full}
        trips: dict[str, Affine] = {"edge": edge, "full": full, "diagonal": tiles - edge - full}
        begun = sum((p.running(loop) for loop in range(len(kinds))), Affine.of(0))
        for kind in kinds:
            with p.loop("vector", trips[kind]) as i:
                for lane in range(self._a.lanes):
                    self._softmax(lane, kind != "full", begun, first[kind] + i.index)
        return begun

    def _softmax_and_widen(self) -> Affine:
        """Write the softmax per tile with keys widened a tile ahead. Returns the tiles begun so far."""
        p, tiles = self._p, self._p.column("tiles")
        masked = self._masks["edge"] or self._masks["diagonal"]
        before = p.begun + p.running(0)
        self._widen("k", before, 0)
        with p.loop("vector", tiles - 1) as i:
            self._widen("k", before + 1, i.index + 1)
            self._widen("v", before, i.index)
            for lane in range(self._a.lanes):
                self._softmax(lane, masked, before, i.index)
        self._widen("v", before, tiles - 1)
        for lane in range(self._a.lanes):
            self._softmax(lane, masked, before, tiles - 1)
        return before + 1

    def _widen(self, side: str, number: Affine, index: Affine | int) -> None:
        a = self._a
        self._p.vector(
            "convert",
            (self._slot(f"{side} widened", number), self._slot(side, number)),
            (self._keys(index), a.dim if side == "k" else a.dim_v),
            wait=self._waits({f"{side} loaded": number + 1}),
            signal=self._signals(f"{side} widened", f"{side} free"),
        )

    def _quantise(self, lane: int) -> None:
        """The block is free: the vector queue has waited for all products of the item before."""
        p = self._p
        p.vector(
            "quantise",
            (*self._item(lane, "q quantised", "q"), self._slot("scales", p.begun)),
            (1, self._rows(lane), self._a.dim),
            scalar=float(E4M3_LARGEST),
            wait=self._waits({"q loaded": p.begun + 1, "scales loaded": p.begun + 1}, lane),
            signal=self._signals("q quantised", "q free", lane=lane),
        )

    def _finish(self, lane: int, begun: Affine) -> None:
        """Write the item's result, when `begun` tiles have been summed."""
        p, a = self._p, self._a
        state = ("maximum", "sum") if a.partial else ("sum",)
        operands = self._item(lane, "out", "accumulator", *state)
        free = ["scales free"] if a.types.scaled and lane == a.lanes - 1 else []
        p.vector(
            "partial" if a.partial else "normalise",
            (*operands, *self._scales()),
            (self._rows(lane), a.dim_v),
            scalar=1 / WEIGHT_PEAK.get(a.types.product, 1.0) if a.types.scaled else 0.0,
            wait=self._waits({"tile summed": begun, "out free": p.begun - self._ahead + 1}, lane),
            signal=self._signals("out", *free, lane=lane),
        )

    def _scales(self) -> list[Slot]:
        return [self._slot("scales", self._p.begun)] if self._a.types.scaled else []

    def _start_with_sinks(self) -> None:
        p, a = self._p, self._a
        for lane in range(a.lanes):
            p.vector(
                "start_with_sink",
                (*self._item(lane, "maximum", "sum", "accumulator"), self._slot("sinks", p.begun)),
                (self._rows(lane), a.heads, p.column("sink")),
                wait=self._waits({"sinks loaded": p.begun + 1}),
                signal=self._signals("sinks free") if lane == a.lanes - 1 else [],
            )

    def _softmax(self, lane: int, masked: bool, number: Affine, index: Affine) -> None:
        """Write the softmax of tile `index` of the item, the one after `number` before it."""
        p, a, suffix = self._p, self._a, _suffix(lane)
        rows, keys = self._rows(lane), self._keys(index)
        scores = self._slot(f"scores{suffix}", number)
        waits = {
            "scores": number + 1,
            "probabilities free": number - self._deep + 1,
            "tile summed": number,
        }
        scaled = {"scales loaded": p.begun + 1} if a.types.scaled else {}
        if a.soft_cap:
            p.vector(
                "soft_cap",
                [scores, *self._scales()],
                (rows, keys, a.soft_cap),
                scalar=a.dim**-0.5,
                wait=self._waits({"scores": number + 1} | scaled, lane),
            )
        offset = p.column("offset") + lane * a.positions - index * a.tile
        state = self._item(lane, "maximum", "sum", "accumulator")
        p.vector(
            "masked_softmax_step" if masked else "softmax_step",
            (self._slot(f"probabilities{suffix}", number), scores, *state, *([] if a.soft_cap else self._scales())),
            (rows, keys, 0 if a.sinks else 1 - index, *((offset, a.heads, a.window) if masked else ())),
            scalar=1.0 if a.soft_cap else a.dim**-0.5,
            wait=self._waits(waits if a.soft_cap else waits | scaled, lane),
            signal=self._signals("probabilities", "scores free", lane=lane),
        )

    def _store(self) -> None:
        p = self._p
        for lane in range(self._a.lanes):
            (out,) = self._item(lane, "out")
            wait = self._waits({"out": p.begun + 1}, lane)
            p.store(out, self._places.out(lane), wait, self._signals("out free", lane=lane))


def _ready(block: str) -> str:
    """Return the counter of the blocks that are ready to be multiplied."""
    return f"{block} loaded" if block in ("q", "k", "v") else block


def _suffix(lane: int) -> str:
    return " 2" if lane else ""
