"""What the tiled products of `gemm` and `gemv` demand, in closed form: tiles of c are whole or cut in either direction.

Layouts, stages, the order of tiles and the schedule change none of it: whole runs of bursts are assumed, and whatever
order tiles are dealt in, some core has its part of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.assembler import block
from hwmodel.bound_table import Counts, Demand
from hwmodel.machine import Machine
from hwmodel.program import DTYPES, Buffer
from workloads.kernels.demands.columns import Array, Columns, Gathered, distinct, groups
from workloads.kernels.demands.fetch import Dma
from workloads.kernels.demands.share import Share
from workloads.kernels.demands.tally import Tally, matmul_cycles
from workloads.kernels.gemm import Problem

GEMM_KNOBS = ("tile_m", "tile_n", "tile_k", "split_k", "unit")
GEMV_KNOBS = GEMM_KNOBS[1:]


def demands(problem: Problem, columns: Columns, machine: Machine) -> Gathered:
    """Return what points of a GEMM demand, by `columns` of GEMM_KNOBS."""
    found = Gathered(len(columns["tile_n"]), phases=2)
    for rows, values in groups(columns, ["unit"]):
        cases, which = distinct([columns[name][rows] for name in GEMM_KNOBS[:-1]])
        found.put(rows, which, *_Product(problem, machine, values["unit"], fetches_a=True).demand(*cases))
    return found


def gemv_demands(problem: Problem, columns: Columns, machine: Machine) -> Gathered:
    """Return what points of a GEMV demand, by `columns` of GEMV_KNOBS: a tile holds all rows of a."""
    found = Gathered(len(columns["tile_n"]), phases=2)
    for rows, values in groups(columns, ["unit"]):
        cases, which = distinct([columns[name][rows] for name in GEMV_KNOBS[:-1]])
        tile_m = np.full(len(cases[0]), problem.m, np.int64)
        found.put(rows, which, *_Product(problem, machine, values["unit"], fetches_a=False).demand(tile_m, *cases))
    return found


@dataclass(frozen=True)
class _Tiles:
    """The tiles of c by kind: whole or cut rows, whole or cut columns, last part of k or not; int64[cases, kinds].

    `full` whole tiles of k and one of `rest` elements, `first` and `last` of them long; `items` of every kind.
    """

    rows: Array
    columns: Array
    full: Array
    rest: Array
    items: Array
    first: Array
    last: Array
    parts: Array  # int64[cases]

    @staticmethod
    def of(problem: Problem, tile_m: Array, tile_n: Array, tile_k: Array, split_k: Array) -> _Tiles:
        steps = -(-problem.k // tile_k)
        parts = -(-steps // -(-steps // np.minimum(split_k, steps)))
        per_part = -(-steps // parts)
        of_last = steps - (parts - 1) * per_part
        cut = problem.k % tile_k
        nothing = np.zeros_like(cut)
        ks = ((per_part, nothing, parts - 1), (of_last - (cut > 0), cut, np.ones_like(cut)))
        ms, ns = (
            (tile, problem_size // tile, problem_size % tile)
            for tile, problem_size in ((tile_m, problem.m), (tile_n, problem.n))
        )
        kinds = [
            (rows, columns, full, rest, over_m * over_n * over_k * (problem.batch or 1))
            for rows, over_m in ((ms[0], ms[1]), (ms[2], (ms[2] > 0).astype(np.int64)))
            for columns, over_n in ((ns[0], ns[1]), (ns[2], (ns[2] > 0).astype(np.int64)))
            for full, rest, over_k in ks
        ]
        rows, columns, full, rest, items = (np.stack(column, axis=-1) for column in zip(*kinds, strict=True))
        tile = tile_k[:, None]
        first, last = np.where(full > 0, tile, rest), np.where(rest > 0, rest, tile)
        return _Tiles(rows, columns, full, rest, items, first, last, parts)


@dataclass(frozen=True)
class _Product:
    """A product on one of the units; `fetches_a`: whether main memory has to move a."""

    problem: Problem
    machine: Machine
    unit: str
    fetches_a: bool

    def demand(self, tile_m: Array, tile_n: Array, tile_k: Array, split_k: Array) -> tuple[tuple[Demand, ...], Counts]:
        """Return what cases demand."""
        tiles = _Tiles.of(self.problem, tile_m, tile_n, tile_k, split_k)
        tally = Tally(self.machine, tiles.items)
        multiply = self._multiply(tally, tiles, tile_k[:, None])
        return (multiply, self._reduce(tally, tiles.parts)), tally.counts

    @property
    def _element(self) -> int:
        return DTYPES[self.problem.dtype].itemsize

    def _multiply(self, tally: Tally, tiles: _Tiles, tile_k: Array) -> Demand:
        problem, dma, element = self.problem, Dma(self.machine), self._element
        share, there = Share(tiles.items, self.machine.spec.cores.count), tiles.items > 0
        bursts, cycles, lines = self._loads(tiles, tile_k)
        products, vector = self._units(tally, tiles, tile_k)
        last = self._last(tiles)
        finish, out_bytes = self._finish(tally, tiles)
        stores = dma.bursts(out_bytes)
        tally.load((tiles.rows + tiles.columns) * (tiles.full * tile_k + tiles.rest) * element)
        tally.store(out_bytes)
        distinct_bytes = problem.k * (problem.n + problem.m * self.fetches_a) * (problem.batch or 1) * element
        return Demand(
            load_cycles=share.busiest(cycles),
            store_cycles=share.busiest(dma.issue_cycles(stores)),
            matrix_cycles=share.busiest(products),
            vector_cycles=share.busiest(vector + finish),
            wavefronts=share.busiest(lines + dma.lines(out_bytes)),
            loaded_bytes=share.busiest(bursts) * dma.burst_bytes,
            stored_bytes=share.busiest(stores) * dma.burst_bytes,
            first_bytes=_least((tiles.rows + tiles.columns) * tiles.first * element, there),
            after_load_cycles=_least(last + finish, there),
            after_matrix_cycles=_least(finish, there),
            last_store_bytes=_least(out_bytes, there),
            total_loaded_bytes=tally.total(bursts) * dma.burst_bytes,
            total_stored_bytes=tally.total(stores) * dma.burst_bytes,
            read_bursts=dma.bursts(distinct_bytes) if dma.reuses_loads else tally.total(bursts),
            written_bursts=dma.stored_bursts(tally.total(out_bytes), tally.total(stores)),
        )

    def _loads(self, tiles: _Tiles, tile_k: Array) -> tuple[Any, Any, Any]:
        """Return bursts, cycles of issue and accesses to the scratchpad of an item's loads."""
        dma, bursts, cycles, lines = Dma(self.machine), 0, 0, 0
        for across in (tiles.rows, tiles.columns):
            for times, k in ((tiles.full, tile_k), ((tiles.rest > 0).astype(np.int64), tiles.rest)):
                size_bytes = across * k * self._element
                moved = dma.bursts(size_bytes)
                bursts, cycles = bursts + times * moved, cycles + times * dma.issue_cycles(moved)
                lines = lines + times * (
                    dma.lines(size_bytes) + dma.operand_lines(size_bytes) * (self.unit == "matrix")
                )
        return bursts, cycles, lines

    def _units(self, tally: Tally, tiles: _Tiles, tile_k: Array) -> tuple[Any, Any]:
        """Return the cycles of an item's products in the matrix unit and in the vector unit."""
        products, vector, (rows, columns) = 0, 0, (tiles.rows, tiles.columns)
        some = (tiles.rest > 0).astype(np.int64)
        adding = (np.maximum(tiles.full - 1, 0), some * (tiles.full > 0))
        for times, k, adds in zip((tiles.full, some), (tile_k, tiles.rest), adding, strict=True):
            if self.unit == "matrix":
                sizes, dtypes = (rows, columns, k), (self.problem.dtype, self.problem.sum_dtype)
                products = products + tally.matmul(times, sizes, dtypes, adds)
            else:
                vector = vector + tally.work(times, "dot", self._dot_buffers, rows, columns, k, 0)
        return products, vector

    @property
    def _dot_buffers(self) -> list[Buffer]:
        dtypes = ("fp32", self.problem.dtype, self.problem.dtype)
        return [block(name, 1, 1, dtype) for name, dtype in zip("cab", dtypes, strict=True)]

    def _last(self, tiles: _Tiles) -> Any:
        """Return the cycles of an item's last product."""
        if self.unit == "matrix":
            return matmul_cycles(self.machine, (tiles.rows, tiles.columns, tiles.last), self.problem.dtype)
        once = Tally(self.machine, tiles.items)
        return once.work(1, "dot", self._dot_buffers, tiles.rows, tiles.columns, tiles.last, 0)

    def _finish(self, tally: Tally, tiles: _Tiles) -> tuple[Any, Array]:
        """Return the cycles of an item's rounding, and the bytes that it stores."""
        problem, is_split = self.problem, (tiles.parts > 1)[:, None]
        elements = tiles.rows * tiles.columns
        sizes = [DTYPES[dtype].itemsize for dtype in (problem.sum_dtype, problem.result_dtype)]
        out = block("out", 1, 1, min(problem.sum_dtype, problem.result_dtype, key=lambda name: DTYPES[name].itemsize))
        cycles = tally.vector(1, "convert", [out, block("sum", 1, 1, problem.sum_dtype)], tiles.rows, tiles.columns)
        return cycles, np.where(is_split, elements * sizes[0], elements * sizes[1])

    def _reduce(self, tally: Tally, parts: Array) -> Demand:
        """Return the adding up of parts: all of it, as if the cores shared it evenly."""
        problem, dma, cores = self.problem, Dma(self.machine), self.machine.spec.cores.count
        split = (parts > 1).astype(np.int64)
        elements = problem.m * problem.n * (problem.batch or 1) * split
        loaded, stored = (
            elements * count * DTYPES[dtype].itemsize
            for count, dtype in ((parts, problem.sum_dtype), (1, problem.result_dtype))
        )
        once = Tally(self.machine, np.ones(1, np.int64))
        operands = [block("out", 1, 1, problem.result_dtype), block("partials", 1, 1, problem.sum_dtype)]
        cycles = once.vector(1, "sum", operands, parts[:, None], elements[:, None], 1)
        once.load(loaded[:, None])
        once.store(stored[:, None])
        tally.add(once)
        return Demand(
            launches=split,
            vector_cycles=-(-cycles[:, 0] // cores),
            loaded_bytes=-(-loaded // cores),
            stored_bytes=-(-stored // cores),
            last_store_bytes=1,
            total_loaded_bytes=loaded,
            total_stored_bytes=stored,
            read_bursts=dma.loaded_again_bursts(loaded, dma.bursts(loaded)),
            written_bursts=dma.stored_bursts(stored, dma.bursts(stored)),
        )


def _least(values: Array, there: Array) -> Array:
    """Return the least of the values that are `there`; int64[cases]."""
    least: Array = np.where(there, values, np.iinfo(np.int64).max).min(axis=-1)
    return least
