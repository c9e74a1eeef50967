"""The main phase of attention over a latent cache, and the phase that merges its parts.

Shared by `mla_decode` and the kernels that gather tokens, which differ in their work items and in how they find tokens.
A work item is a tile of query rows (of all heads: they share the keys) over a range of tokens. A tile of the cache is
loaded once and serves twice: all its columns are the keys, its first ones the values. Scores, online softmax and
weighted sum follow each other as in `decode_attention`; the matrix unit computes the scores of the next tile while the
softmax of this one runs. Tiles of a record come in `stages` buffers of their own and are widened to one of two 16-bit
buffers by the vector unit, one tile ahead of the softmax.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel import matrix
from hwmodel.assembler import Affine, PhaseAssembler, Region, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import DTYPES, Buffer, Cause, Phase, Tensor
from workloads.buffers import allocate, contiguous_axis, operand
from workloads.kernels.latent_cache import FORMATS
from workloads.kernels.writer import PhaseWriter
from workloads.numbering import within_owners
from workloads.schedule import schedule

Q, INDEX, OUT = range(
    3
)  # tensors of a program, then partial results of split tokens, sinks, and the cache, as there are
PARTIAL = 3
WIDENED = 2  # slots of the 16-bit tiles of a record


@dataclass(frozen=True)
class Heads:
    """The absorbed attention of one layer: `count` query heads over one key of rank + rope columns.

    The first `value_dim` columns of a key are its value; `scale` multiplies the scores.
    """

    count: int
    rank: int
    rope: int
    value_dim: int
    scale: float
    dtype: str

    @property
    def dim(self) -> int:
        return self.rank + self.rope


@dataclass(frozen=True)
class Plan:
    """How the main phase is cut: `rows` of queries by `tile` tokens; `record` is the format of the cache.

    `page_axis` and `position_axis` are those of a `Region` of the cache behind the index tensor. With `causal`, rows
    are masked by the task columns `first row` and `visible`. `split`: items store partial results. `sinks`: a logit per
    head joins the denominator of the items whose task column `sink` is 1, whose rows are the heads from `head` on.
    `strip`: rows of the result that are stored at a time, 0 for all; `queries`: blocks of queries in flight.
    """

    rows: int
    tile: int
    stages: int
    sram_layout: str
    record: str
    page_axis: str
    position_axis: str
    causal: bool
    split: bool
    sinks: bool = False
    strip: int = 0
    queries: int = 2

    @property
    def out_rows(self) -> int:
        """The rows of a block of results."""
        return min(self.strip or self.rows, self.rows)


class Attend(PhaseWriter):
    """Writes the main phase, one method per queue; buffers and counters go by their names.

    `tasks` has the columns row, rows, first (entry of the index tensor), begin, tokens, tiles, part and, if masked,
    first row and visible.
    """

    def __init__(
        self,
        heads: Heads,
        plan: Plan,
        machine: Machine,
        tensors: tuple[Tensor, ...],
        tasks: Mapping[str, np.ndarray[Any, Any]],
    ) -> None:
        self._heads, self._plan = heads, plan
        self._format = FORMATS.get(plan.record)
        self._sinks = PARTIAL + plan.split
        self._fields = tuple(range(self._sinks + plan.sinks, len(tensors)))
        requested = (*_tile_buffers(heads, plan, machine, tensors[self._fields[0]]), *self._cache_buffers())
        causes: dict[Cause, tuple[str, ...]] = {
            "memory": ("q loaded", "cache loaded"),
            "buffer": ("q free", "cache free", "latent free", "scores free", "probabilities free", "out free"),
            "dependency": ("latent", "scores", "probabilities", "tile summed", "out"),
        }
        if plan.out_rows < plan.rows:
            tasks = {**tasks, "strips": -(-np.asarray(tasks["rows"]) // plan.out_rows)}
        super().__init__("attend", tensors, tasks, requested, causes, machine)
        self._tokens, self._tiles, self._rows = (self._p.column(name) for name in ("tokens", "tiles", "rows"))

    def _cache_buffers(self) -> list[Buffer]:
        """Return the requests for tiles of a record as they are in memory."""
        known, tile, stages = self._format, self._plan.tile, self._plan.stages
        if known is None:
            return []
        return [
            block("nope", tile, known.scaled, "fp8_e4m3", stages),
            block("scale", tile, known.groups, known.scale_dtype, stages),
            block("rope", tile, known.tail, "bf16", stages),
        ]

    def _tile_tokens(self, index: Affine | int) -> Affine:
        return (self._tokens - index * self._plan.tile).clip(self._plan.tile)

    def load(self) -> None:
        """One query block per item, then its tiles of the cache; the last field of a tile signals for all."""
        p, plan = self._p, self._plan
        rows = {"row": (p.column("row"), self._rows)}
        (q,) = self._item("q")
        free = self._waits(q_free=p.begun - plan.queries + 1)
        if plan.sinks:  # before the queries, which signal for both
            to = self._slot("sinks", p.begun)
            p.load(to, Region(self._sinks, {"head": (p.column("head"), self._rows)}), wait=free)
        p.load(q, Region(Q, rows), wait=free, signal=self._signals("q loaded"))
        tile_free = "latent_free" if self._format is None else "cache_free"
        names = ("latent",) if self._format is None else ("nope", "scale", "rope")
        with p.loop("load", self._tiles) as i:
            here = {"token": (p.column("begin") + i.index * plan.tile, self._tile_tokens(i.index))}
            for name, field in zip(names, self._fields, strict=True):
                region = Region(field, here, INDEX, p.column("first"), plan.page_axis, plan.position_axis)
                wait = self._waits(**{tile_free: i.running - plan.stages + 1}) if name == names[0] else []
                signal = self._signals("cache loaded") if name == names[-1] else []
                p.load(self._slot(name, i.running), region, wait=wait, signal=signal)

    def matrix(self) -> None:
        """Scores of tile 0; then scores of tile i + 1 before the weighted sum of tile i; then the last sum."""
        p = self._p
        before = p.begun + p.running(0)
        self._score(before, 0)
        with p.loop("matrix", self._tiles - 1) as i:
            self._score(before + 1, i.index + 1)
            self._weigh(before, i.index)
        self._weigh(before, self._tiles - 1, "q free")

    def _score(self, number: Affine, index: Affine | int) -> None:
        (q,) = self._item("q")
        ready = "cache_loaded" if self._format is None else "latent"
        self._p.matmul(
            self._slot("scores", number),
            q,
            self._slot("latent", number),
            (self._rows, self._tile_tokens(index), self._heads.dim),
            transpose_b=True,
            wait=self._waits(q_loaded=self._p.begun + 1, scores_free=number - 1, **{ready: number + 1}),
            signal=self._signals("scores"),
        )

    def _weigh(self, number: Affine, index: Affine | int, *also: str) -> None:
        (accumulator,) = self._item("accumulator")
        self._p.matmul(
            accumulator,
            self._slot("probabilities", number),
            self._slot("latent", number),
            (self._rows, self._heads.value_dim, self._tile_tokens(index)),
            accumulate=1,
            wait=self._waits(probabilities=number + 1),
            signal=self._signals("tile summed", "latent free", "probabilities free", *also),
        )

    def vector(self) -> None:
        """A tile ahead, widening; online softmax per tile, which sinks begin; then the result of the item."""
        p = self._p
        before = p.begun + p.running(0)
        if self._plan.sinks:
            p.vector(
                "start_with_sink",
                self._item("maximum", "sum", "accumulator", "sinks"),
                (self._rows, self._rows, p.column("sink")),
                wait=self._waits(q_loaded=p.begun + 1),
            )
        self._widen(before, 0)
        with p.loop("vector", self._tiles - 1) as i:
            self._widen(before + 1, i.index + 1)
            self._softmax(before, i.index)
        self._softmax(before, self._tiles - 1)
        if self._plan.out_rows == self._plan.rows:
            self._finish(before, p.begun, (self._rows, self._heads.value_dim))
            return
        with p.loop("vector", p.column("strips")) as strip:
            begin, rows = self._strip(strip.index)
            self._finish(before, strip.running, (rows, self._heads.value_dim, begin))

    def _finish(self, before: Affine, number: Affine, sizes: tuple[Affine | int, ...]) -> None:
        """Write block `number` of results."""
        operands = ("accumulator", "maximum", "sum") if self._plan.split else ("accumulator", "sum")
        self._p.vector(
            "partial" if self._plan.split else "normalise",
            (self._slot("out", number), *self._item(*operands)),
            sizes,
            wait=self._waits(tile_summed=before + 1, out_free=number - 1),
            signal=self._signals("out"),
        )

    def _strip(self, index: Affine) -> tuple[Affine, Affine]:
        """Return the first row of a strip of an item's results and how many it has."""
        begin = index * self._plan.out_rows
        return begin, (self._rows - begin).clip(self._plan.out_rows)

    def _widen(self, number: Affine, index: Affine | int) -> None:
        known = self._format
        if known is None:
            return
        self._p.vector(
            "dequantise_record",
            tuple(self._slot(name, number) for name in ("latent", "nope", "scale", "rope")),
            (self._tile_tokens(index), known.scaled, known.groups, known.tail),
            wait=self._waits(cache_loaded=number + 1, latent_free=number - WIDENED + 1),
            signal=self._signals("latent", "cache free"),
        )

    def _softmax(self, number: Affine, index: Affine | int) -> None:
        p, first = self._p, Affine.of(0) if self._plan.sinks else 1 - Affine.of(index)
        sizes: tuple[Affine | int, ...] = (self._rows, self._tile_tokens(index), first)
        if self._plan.causal:
            visible = p.column("visible") - index * self._plan.tile
            sizes = (*sizes, p.column("first row"), visible, self._heads.count)
        tile = (self._slot("probabilities", number), self._slot("scores", number))
        p.vector(
            "causal_softmax_step" if self._plan.causal else "softmax_step",
            (*tile, *self._item("maximum", "sum", "accumulator")),
            sizes,
            scalar=self._heads.scale,
            wait=self._waits(scores=number + 1, probabilities_free=number - 1, tile_summed=number),
            signal=self._signals("probabilities", "scores free"),
        )

    def store(self) -> None:
        p = self._p
        if self._plan.out_rows == self._plan.rows:
            self._store(p.begun, (Affine.of(0), self._rows))
            return
        with p.loop("store", p.column("strips")) as strip:
            self._store(strip.running, self._strip(strip.index))

    def _store(self, number: Affine, rows: tuple[Affine, Affine]) -> None:
        """Store block `number` of results: rows of the item from one on, and how many."""
        p, (begin, count) = self._p, rows
        to = Region(OUT, {"row": (p.column("row") + begin, count)})
        if self._plan.split:
            to = Region(PARTIAL, {"part": (p.column("part"), 1), "row": (begin, count)})
        p.store(self._slot("out", number), to, wait=self._waits(out=number + 1), signal=self._signals("out free"))


def _tile_buffers(heads: Heads, plan: Plan, machine: Machine, cache: Tensor) -> list[Buffer]:
    rows, tile, dtype, kind = plan.rows, plan.tile, heads.dtype, plan.sram_layout
    plain = plan.record not in FORMATS
    along = contiguous_axis(cache, ("token", "dim")) if plain else 1
    latent = block("latent", tile, heads.dim, dtype, plan.stages if plain else WIDENED)
    out = ("fp32", heads.value_dim + 1) if plan.split else (dtype, heads.value_dim)
    return [
        operand(block("q", rows, heads.dim, dtype, plan.queries), machine, kind, side="a", axis_of_k=1),
        _key_and_value(latent, machine, kind, along, heads.value_dim),
        block("scores", rows, tile, "fp32", 2),
        operand(block("probabilities", rows, tile, dtype, 2), machine, kind, side="a", axis_of_k=1),
        block("maximum", rows, 1, "fp32"),
        block("sum", rows, 1, "fp32"),
        block("accumulator", rows, heads.value_dim, "fp32"),
        block("out", plan.out_rows, out[1], out[0], 2),
        *([block("sinks", 1, rows, "fp32", 2)] if plan.sinks else []),
    ]


def _key_and_value(request: Buffer, machine: Machine, kind: str, along: int, value_dim: int) -> Buffer:
    """Return the request with the layout, of the best for keys and the best for values, that serves both uses best."""
    unit, pad = machine.spec.cores.matrix, machine.scratchpad

    def wavefronts(found: Buffer) -> int:
        key = matrix.reads(unit, pad, found, 1, found.rows, found.columns, unit.n)
        return key.plus(matrix.reads(unit, pad, found, 0, value_dim, found.rows, unit.n)).wavefronts

    if request.pitch_bytes > machine.spec.cores.sram.capacity:
        return request  # `Machine.require_fit` refuses it
    found = [operand(request, machine, kind, side="b", axis_of_k=axis, filled_along=along) for axis in (1, 0)]
    return min(found, key=wavefronts)


def combine(
    heads: Heads, rows: int, machine: Machine, tensors: tuple[Tensor, ...], tasks: Mapping[str, np.ndarray[Any, Any]]
) -> Phase:
    """Return the phase that merges the parts of every row, by strips of rows that fit with all of them.

    A strip has at most as many rows of parts as a tile has of queries.

    `tasks` are those of the main phase with the column owner, equal for the parts of one tile of `rows`.
    """
    parts = np.bincount(tasks["owner"])
    first = np.cumsum(parts) - parts
    of_row = 2 * (int(parts.max()) * (heads.value_dim + 1) * 4 + heads.value_dim * DTYPES[heads.dtype].itemsize)
    room = machine.spec.cores.sram.capacity - 4 * machine.sram_line_bytes  # each of the four blocks is whole lines
    strip = max(1, min(rows // int(parts.max()), room // of_row))
    strips = -(-tasks["rows"][first] // strip)
    owner, number = within_owners(strips)
    begin = number * strip
    columns = {
        "row": tasks["row"][first][owner] + begin,
        "begin": begin,
        "rows": np.minimum(tasks["rows"][first][owner] - begin, strip),
        "first": first[owner],
        "parts": parts[owner],
    }
    p = PhaseAssembler("combine", tensors, tuple(columns))
    requested = (
        block("partials", int(parts.max()) * strip, heads.value_dim + 1, "fp32", 2),
        block("out", strip, heads.value_dim, heads.dtype, 2),
    )
    partials, out = p.add_buffers(allocate(requested, machine))
    loaded = p.counter("partials loaded", "memory")
    free, out_free = p.counter("partials free", "buffer"), p.counter("out free", "buffer")
    ready = p.counter("out", "dependency")
    count = p.column("rows")
    there = {"part": (p.column("first"), p.column("parts")), "row": (p.column("begin"), count)}
    p.load(Slot(partials, p.begun), Region(PARTIAL, there), wait=[(free, p.begun - 1)], signal=[loaded])
    p.vector(
        "combine",
        (Slot(out, p.begun), Slot(partials, p.begun)),
        (p.column("parts"), count, heads.value_dim),
        wait=[(loaded, p.begun + 1), (out_free, p.begun - 1)],
        signal=[ready, free],
    )
    to = Region(OUT, {"row": (p.column("row"), count)})
    p.store(Slot(out, p.begun), to, wait=[(ready, p.begun + 1)], signal=[out_free])
    order = schedule("static", columns["parts"] * columns["rows"], machine.spec.cores.count)
    return p.finish(np.stack(list(columns.values()), axis=1), order)
