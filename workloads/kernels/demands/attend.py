"""What the phases of attention demand, whichever template they belong to: items walk tiles of keys and of values.

Items are of a few kinds. Masks and soft caps of a tile's scores aside, a tile costs two products, an online softmax and
what widens it; an item ends with its result. Of the scratchpad's accesses those of queries, probabilities and sums are
left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.assembler import block
from hwmodel.bound_table import Counts, Demand
from hwmodel.machine import Machine
from hwmodel.program import DTYPES, Buffer
from workloads.kernels.demands.fetch import Dma
from workloads.kernels.demands.share import Share
from workloads.kernels.demands.tally import Tally, matmul_cycles

Array = np.ndarray[Any, Any]
MANY = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Stream:
    """A tensor of which every tile of keys loads a piece: bytes of a key, and bursts of a whole tile int64[cases, 1].

    `pages`: tokens of a page, int64[cases, 1]; 0 where no table says where they lie.
    """

    key_bytes: int
    bursts: Array
    pages: Array | int = 0

    @staticmethod
    def plain(key_bytes: int, tile: Array, dma: Dma, pages: Array | int = 0) -> Stream:
        """Return a stream of which nothing but its bytes is known."""
        return Stream(key_bytes, dma.bursts(key_bytes * tile), pages)


@dataclass(frozen=True)
class Widening:
    """An operation that makes what is multiplied of a tile: its name, operands, and its sizes behind the keys."""

    function: str
    operands: Sequence[Buffer]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Attention:
    """What an item computes: `dims` of a key and of a value, and the types of operands and results.

    `one_stream`: scores and sums read the same tiles. `soft_cap` as in `attention_parts.Attention`; `strips`: whether
    results are stored by parts of their rows.
    """

    dims: tuple[int, int]
    q: str
    product: str
    out: str
    scaled: bool = False
    soft_cap: int = 0
    one_stream: bool = False
    strips: bool = False
    widenings: tuple[Widening, ...] = ()


@dataclass(frozen=True)
class Items:
    """The items of a phase. `keys` and, for each lane, `lanes`, the rows of queries, are int64[kinds].

    `whole_rows`: the rows of all results. `distinct_bytes`: of keys and values that main memory has to move at least
    once. Where arrays are not explained, they are int64[cases, kinds], or one of both is 1.
    """

    attention: Attention
    machine: Machine
    share: Share
    keys: Array
    lanes: tuple[Array, ...]
    whole_rows: int
    is_split: bool
    distinct_bytes: int

    def demand(self, tile: Array, streams: Sequence[Stream]) -> tuple[tuple[Demand, ...], Counts]:
        """Return what cases demand, by tile int64[cases, 1]."""
        tally = Tally(self.machine, self.share.items)
        phases = [self._attend(tally, tile, streams)]
        if self.is_split:
            phases.append(self._combine(tally))
        return tuple(phases), tally.counts

    @property
    def _rows(self) -> Array:
        total: Array = np.sum(self.lanes, axis=0)
        return total

    def _out_bytes(self, partial: bool) -> int:
        """Return the bytes of a row of a result."""
        dim_v = self.attention.dims[1]
        return (dim_v + 1) * 4 if partial else dim_v * DTYPES[self.attention.out].itemsize

    def _attend(self, tally: Tally, tile: Array, streams: Sequence[Stream]) -> Demand:
        share, dma, attention = self.share, Dma(self.machine), self.attention
        full = self.keys // tile
        tiles = full, self.keys - full * tile
        bursts, cycles, lines, first = self._loads(tally, tile, tiles, streams)
        products, vector = self._tiles(tally, (full, (tiles[1] > 0).astype(np.int64)), (tile, tiles[1]))
        finishes, row_bytes = self._finish(tally), self._out_bytes(self.is_split)
        finish = sum(finishes)
        out_bytes = self._rows * row_bytes
        tally.store(out_bytes)
        stores = dma.bursts(out_bytes)
        tail = self._last_tile(np.where(tiles[1] > 0, tiles[1], tile)) + finish
        some = [(rows[rows > 0], cycles[rows > 0]) for rows, cycles in zip(self.lanes, finishes, strict=True)]
        rows_of_a_store = min(rows.min(initial=MANY) for rows, _ in some) if not attention.strips else 1
        return Demand(
            load_cycles=share.busiest(cycles),
            store_cycles=share.busiest(dma.issue_cycles(stores)),
            matrix_cycles=share.busiest(products),
            vector_cycles=share.busiest(vector + finish),
            wavefronts=share.busiest(lines + dma.lines(out_bytes)),
            loaded_bytes=share.busiest(bursts) * dma.burst_bytes,
            stored_bytes=share.busiest(stores) * dma.burst_bytes,
            first_bytes=first,
            after_load_cycles=tail.min(axis=-1),
            after_matrix_cycles=min(cycles.min(initial=MANY) for _, cycles in some),
            last_store_bytes=rows_of_a_store * row_bytes,
            total_loaded_bytes=tally.total(bursts) * dma.burst_bytes,
            total_stored_bytes=tally.total(stores) * dma.burst_bytes,
            read_bursts=dma.bursts(self.distinct_bytes) if dma.reuses_loads else tally.total(bursts),
            written_bursts=dma.stored_bursts(tally.total(out_bytes), tally.total(stores)),
        )

    def _loads(
        self, tally: Tally, tile: Array, tiles: tuple[Array, Array], streams: Sequence[Stream]
    ) -> tuple[Any, Any, Any, Array]:
        """Return bursts, cycles of issue and accesses to the scratchpad of an item's loads, and its first bytes.

        `tiles`: how many whole ones, and the keys of the rest; the first bytes are what must be there before any
        product, int64[cases].
        """
        dma, (full, rest) = Dma(self.machine), tiles
        bursts, cycles, lines, q_bytes = np.zeros((4, 1, 1), np.int64)
        for rows in self.lanes:
            lane_bytes = rows * self.attention.dims[0] * DTYPES[self.attention.q].itemsize
            moved = dma.bursts(lane_bytes)
            bursts, lines = bursts + moved, lines + dma.lines(lane_bytes)
            cycles = cycles + (rows > 0) * dma.issue_cycles(moved)
            q_bytes = q_bytes + lane_bytes
        tally.load(q_bytes)
        for stream in streams:
            cut = dma.bursts(rest * stream.key_bytes)
            for times, keys, moved in ((full, tile, stream.bursts), (rest > 0, rest, cut)):
                pages = -(-keys // np.maximum(stream.pages, 1)) * (np.asarray(stream.pages) > 0)
                size_bytes = keys * stream.key_bytes
                bursts = bursts + times * moved
                cycles = cycles + times * dma.issue_cycles(moved, np.maximum(pages, 1), pages)
                lines = lines + times * (dma.lines(size_bytes) + dma.operand_lines(size_bytes))
            tally.load(self.keys * stream.key_bytes)
        least = np.minimum(tile[:, 0], self.keys.min()) * streams[0].key_bytes + np.min(q_bytes)
        return bursts, cycles, lines, least

    def _tiles(self, tally: Tally, times: tuple[Array, Array], keys: tuple[Array, Array]) -> tuple[Any, Any]:
        """Return the cycles of an item's tiles in the matrix and in the vector unit; of whole ones and the rest."""
        products, vector = 0, 0
        for count, width in zip(times, keys, strict=True):
            for rows in self.lanes:
                score, weigh, softmax = self._tile(tally, count, rows, width)
                products, vector = products + score + weigh, vector + softmax
            for widening in self.attention.widenings:
                sizes = (width, *widening.sizes)
                vector = vector + tally.vector(count, widening.function, widening.operands, *sizes)
        return products, vector

    def _tile(self, tally: Tally, times: Any, rows: Array, keys: Array) -> tuple[Any, Any, Any]:
        """Return the cycles of a tile's scores, of its weighted sum and of its softmax."""
        a, (dim, dim_v) = self.attention, self.attention.dims
        here = times * (rows > 0)
        score = tally.matmul(here, (rows, keys, dim), (a.product, "fp32"))
        weigh = tally.matmul(here, (rows, dim_v, keys), (a.product, "fp32"), adds=here)
        scales = [block("scales", 1, 3, "fp32")] * a.scaled
        probabilities, scores = block("probabilities", 1, 1, a.product), block("scores", 1, 1, "fp32")
        state = [block(name, 1, width, "fp32") for name, width in (("maximum", 1), ("sum", 1), ("accumulator", dim_v))]
        step = [probabilities, scores, *state, *([] if a.soft_cap else scales)]
        softmax = tally.vector(here, "softmax_step", step, rows, keys, 0)
        if a.soft_cap:
            softmax = softmax + tally.vector(here, "soft_cap", [scores, *scales], rows, keys, a.soft_cap)
        return score, weigh, softmax

    def _last_tile(self, keys: Array) -> Any:
        """Return the cycles between the last data of an item and its last product's end."""
        rows, dim_v = self.lanes[0], self.attention.dims[1]
        if not self.attention.one_stream:
            return matmul_cycles(self.machine, (rows, dim_v, keys), self.attention.product)
        return sum(self._tile(Tally(self.machine, self.share.items), 1, rows, keys))

    def _finish(self, tally: Tally) -> list[Array]:
        """Return the cycles of an item's last vector operation, of each lane; int64[kinds]."""
        a = self.attention
        scales = [block("scales", 1, 3, "fp32")] * a.scaled
        accumulator, maximum, total = (block(name, 1, 1, "fp32") for name in ("accumulator", "maximum", "sum"))
        if self.is_split:
            name, operands = "partial", [block("out", 1, 1, "fp32"), accumulator, maximum, total, *scales]
        else:
            name, operands = "normalise", [block("out", 1, 1, a.out), accumulator, total, *scales]
        return [tally.vector(1, name, operands, rows, a.dims[1]) for rows in self.lanes]

    def _combine(self, tally: Tally) -> Demand:
        """Return the merging of parts: all of it, as if the cores shared it evenly."""
        dma, cores = Dma(self.machine), self.machine.spec.cores.count
        rows = int((self._rows * self.share.items).sum())
        loaded, stored = rows * self._out_bytes(partial=True), self.whole_rows * self._out_bytes(partial=False)
        once = Tally(self.machine, np.ones(1, np.int64))
        operands = [block("out", 1, 1, self.attention.out), block("partials", 1, 1, "fp32")]
        cycles = once.vector(1, "combine", operands, rows, 1, self.attention.dims[1])
        once.load(loaded)
        once.store(stored)
        tally.add(once)
        return Demand(
            vector_cycles=-(-cycles // cores),
            loaded_bytes=-(-loaded // cores),
            stored_bytes=-(-stored // cores),
            last_store_bytes=1,
            total_loaded_bytes=loaded,
            total_stored_bytes=stored,
            read_bursts=dma.loaded_again_bursts(loaded, dma.bursts(loaded)),
            written_bursts=dma.stored_bursts(stored, dma.bursts(stored)),
        )
