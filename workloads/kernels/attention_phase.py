"""The main phase of every attention template.

A work item is one or two tiles of queries (its *lanes*) that walk the same tiles of K and V. The rows of a tile are
query positions times query heads, position by position. Scores come from the matrix unit, the online softmax from the
vector unit, the weighted sum of V from the matrix unit. Of one lane, the scores of the next tile come before the
weighted sum of this one, so that they are computed while the softmax runs. Two lanes take turns: the matrix unit works
on one while the vector unit works on the other, as the two warp groups of FlashAttention-3 do (Shah et al. 2024,
arXiv:2407.08608).

Masks cost only where they matter: the vector queue has a loop for the tiles at the window's edge, one for those that
every row sees whole, and one for those at the diagonal. Tiles that no row sees are not loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hwmodel.assembler import Affine, Loop, PhaseAssembler, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import Buffer, Cause, Phase, Schedule
from workloads.buffers import allocate, operand
from workloads.kernels.attention_parts import Attention, Places

Array = np.ndarray[Any, Any]


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
        a, kind = self._a, self._a.sram_layout
        k, v = (block(n, a.tile, d, a.dtype, a.stages) for n, d in (("k", a.dim), ("v", a.dim_v)))
        shared = [
            operand(k, machine, kind, side="b", axis_of_k=1, filled_along=self._places.k_along),
            operand(v, machine, kind, side="b", axis_of_k=0, filled_along=self._places.v_along),
        ]
        shared += [block("sinks", 1, a.heads, "fp32", 2)] if a.sinks else []
        requested = shared + [buffer for lane in range(a.lanes) for buffer in self._of_lane(lane, machine)]
        numbers = self._p.add_buffers(allocate(requested, machine))
        self._buffers = dict(zip((b.name for b in requested), numbers, strict=True))

    def _of_lane(self, lane: int, machine: Machine) -> list[Buffer]:
        a, suffix = self._a, _suffix(lane)
        q = block(f"q{suffix}", a.rows, a.dim, a.dtype, self._ahead)
        probabilities = block(f"probabilities{suffix}", a.rows, a.tile, a.dtype, self._deep)
        out = (a.dim_v + 1, "fp32") if a.partial else (a.dim_v, a.dtype)
        return [
            operand(q, machine, a.sram_layout, side="a", axis_of_k=1),
            block(f"scores{suffix}", a.rows, a.tile, "fp32", self._deep),
            operand(probabilities, machine, a.sram_layout, side="a", axis_of_k=1),
            block(f"maximum{suffix}", a.rows, 1, "fp32"),
            block(f"sum{suffix}", a.rows, 1, "fp32"),
            block(f"accumulator{suffix}", a.rows, a.dim_v, "fp32"),
            block(f"out{suffix}", a.rows, *out, self._ahead),
        ]

    def _request_counters(self) -> None:
        shared: dict[Cause, tuple[str, ...]] = {
            "memory": ("k loaded", "v loaded", "sinks loaded"),
            "buffer": ("k free", "v free", "sinks free"),
        }
        own: dict[Cause, tuple[str, ...]] = {
            "memory": ("q loaded",),
            "buffer": ("q free", "scores free", "probabilities free", "out free"),
            "dependency": ("scores", "probabilities", "tile summed", "out"),
        }
        lanes = [(own, _suffix(lane)) for lane in range(self._a.lanes)]
        for group, suffix in [(shared, ""), *lanes]:
            for cause, names in group.items():
                for name in names:
                    if self._a.sinks or not name.startswith("sinks"):
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
        if a.sinks:
            to = self._slot("sinks", p.begun)
            p.load(to, self._places.sinks, self._waits({"sinks free": p.begun - 1}), self._signals("sinks loaded"))
        with p.loop("load", p.column("tiles")) as i:
            here = (p.column("begin") + i.index * a.tile, self._keys(i.index))
            for name, place in (("k", self._places.k), ("v", self._places.v)):
                wait = self._waits({f"{name} free": i.running - a.stages + 1})
                p.load(self._slot(name, i.running), place(here), wait, self._signals(f"{name} loaded"))

    def _matrix(self) -> None:
        """Scores of tile 0; then scores of tile i + 1 before the weighted sum of tile i; then the last sum."""
        p, tiles = self._p, self._p.column("tiles")
        before = p.begun + p.running(0)
        self._score(0, before, 0)
        with p.loop("matrix", tiles - 1) as i:
            self._score(0, before + 1, i.index + 1)
            self._weigh(0, before, i.index)
        self._weigh(0, before, tiles - 1, "q free")

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
            self._weigh(lane, before, tiles - 1, "q free")

    def _score(self, lane: int, number: Affine, index: Affine | int) -> None:
        a, (q,) = self._a, self._item(lane, "q")
        waits = {"q loaded": self._p.begun + 1, "k loaded": number + 1, "scores free": number - self._deep + 1}
        self._p.matmul(
            self._slot(f"scores{_suffix(lane)}", number),
            q,
            self._slot("k", number),
            (self._rows(lane), self._keys(index), a.dim),
            transpose_b=True,
            wait=self._waits(waits, lane),
            signal=self._signals("scores", *(["k free"] if lane == a.lanes - 1 else []), lane=lane),
        )

    def _weigh(self, lane: int, number: Affine, index: Affine | int, *also: str) -> None:
        a, (accumulator,) = self._a, self._item(lane, "accumulator")
        also = (*also, "v free") if lane == a.lanes - 1 else also
        self._p.matmul(
            accumulator,
            self._slot(f"probabilities{_suffix(lane)}", number),
            self._slot("v", number),
            (self._rows(lane), a.dim_v, self._keys(index)),
            accumulate=1,
            wait=self._waits({"v loaded": number + 1, "probabilities": number + 1}, lane),
            signal=self._signals("tile summed", "probabilities free", *also, lane=lane),
        )

    def _vector(self) -> None:
        """Online softmax per tile: at the window's edge, in full view, at the diagonal; then the item's result."""
        p, a = self._p, self._a
        if a.sinks:
            self._start_with_sinks()
        kinds = [kind for kind, there in self._masks.items() if there]
        tiles, edge, full = (p.column(name) for name in ("tiles", "edge", "full"))
        first: dict[str, Affine | int] = {"edge": 0, "full": edge, "diagonal": edge + full}
        trips: dict[str, Affine] = {"edge": edge, "full": full, "diagonal": tiles - edge - full}
        begun = sum((p.running(loop) for loop in range(len(kinds))), Affine.of(0))
        for kind in kinds:
            with p.loop("vector", trips[kind]) as i:
                for lane in range(a.lanes):
                    self._softmax(lane, kind, i, begun, first[kind] + i.index)
        for lane in range(a.lanes):
            operands = ("out", "accumulator", "maximum", "sum") if a.partial else ("out", "accumulator", "sum")
            p.vector(
                "partial" if a.partial else "normalise",
                self._item(lane, *operands),
                (self._rows(lane), a.dim_v),
                wait=self._waits({"tile summed": begun, "out free": p.begun - self._ahead + 1}, lane),
                signal=self._signals("out", lane=lane),
            )

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

    def _softmax(self, lane: int, kind: str, loop: Loop, number: Affine, index: Affine) -> None:
        """Write the softmax of tile `index` of the item, the one after `number` before it."""
        p, a, suffix = self._p, self._a, _suffix(lane)
        rows, keys = self._rows(lane), self._keys(index)
        scores = self._slot(f"scores{suffix}", number)
        waits = {
            "scores": number + 1,
            "probabilities free": number - self._deep + 1,
            "tile summed": number,
        }
        if a.soft_cap:
            p.vector(
                "soft_cap",
                [scores],
                (rows, keys, a.soft_cap),
                scalar=a.dim**-0.5,
                wait=self._waits({"scores": number + 1}, lane),
            )
        offset = p.column("offset") + lane * a.positions - index * a.tile
        mask = () if kind == "full" else (offset, a.heads, a.window)
        p.vector(
            "softmax_step" if kind == "full" else "masked_softmax_step",
            (self._slot(f"probabilities{suffix}", number), scores, *self._item(lane, "maximum", "sum", "accumulator")),
            (rows, keys, 0 if a.sinks else 1 - index, *mask),
            scalar=1.0 if a.soft_cap else a.dim**-0.5,
            wait=self._waits(waits, lane),
            signal=self._signals("probabilities", "scores free", lane=lane),
        )

    def _store(self) -> None:
        p = self._p
        for lane in range(self._a.lanes):
            (out,) = self._item(lane, "out")
            wait = self._waits({"out": p.begun + 1}, lane)
            p.store(out, self._places.out(lane), wait, self._signals("out free", lane=lane))


def _suffix(lane: int) -> str:
    return " 2" if lane else ""
