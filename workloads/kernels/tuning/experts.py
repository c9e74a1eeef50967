"""How grouped products of experts are cut: tiles and stages for a problem on a machine, the most promising first.

`ranked` orders tiles by an estimate (`roof`) of the products of all experts, of a layer or of a single grouped product;
`candidates` are the knobs to try. The rows of every expert are those of the problem's routing, or of a uniform one.

Where all cores share a cache, a tile is a line of k deep, and the estimate takes all its rows to be computed. Where
they share none, each tile comes from main memory and may be as large as the scratchpad lets it, as for other products
(`products`), and only rows of tokens are loaded and multiplied: more rows in a tile than an expert has cost nothing
but room.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product as product_of
from math import isqrt, sqrt
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hwmodel.machine import Machine
from layouts.catalog.sizes import round_up
from workloads.kernels import moe_gemm, moe_layer
from workloads.kernels.moe_formats import Format
from workloads.kernels.tuning import choice
from workloads.kernels.tuning.channels import Channels
from workloads.kernels.tuning.choice import Choice
from workloads.kernels.tuning.products import LARGE_TILES, LONG_LINES, MOST_STAGES, TILES, Tiled, requests, tile_sizes
from workloads.kernels.tuning.roof import Items, Roof, kept_busy

ROWS, COLUMNS = (16, 32, 64, 96, 128, 192, 256), (64, 128, 192, 256)  # of a tile, where a cache is shared
MOST_AREA = 256 * 128  # of a tile whose sums lie in registers
# assumed: times what memory moves in the time of a load, which keeps it busy though loads take unequal times
IN_FLIGHT = 2
MANY_ROWS = 32  # assumed: of a tile, above which multiplying takes longer than reading the weights
Problem: TypeAlias = moe_layer.Problem | moe_gemm.Problem  # of a template of experts


@dataclass(frozen=True)
class Matrices:
    """Matrices [n, k] of every expert, `parts` of them, by which a phase multiplies."""

    n: int
    k: int
    parts: int = 1


@dataclass(frozen=True)
class Tile:
    """One of `count` items' tiles, or the mean of all: sizes that are loaded, and multiply-accumulates with padding."""

    count: int
    rows: float
    columns: float
    deep: float
    macs: float


class Products:
    """The grouped products of a problem on a machine, in phases one after another."""

    def __init__(self, problem: Problem, machine: Machine) -> None:
        if isinstance(problem, moe_layer.Problem):
            phases = [Matrices(problem.inter, problem.hidden, 2), Matrices(problem.hidden, problem.inter)]
        else:
            phases = [Matrices(problem.n, problem.k)]
        counts = uniform(problem) if problem.routing is None else problem.routing.counts
        self._counts = counts[counts > 0]
        most = int(counts.max())  # of what is yet drawn there may be more, by about a standard deviation
        self._most = most if problem.routing else most + isqrt(most)
        self._form, self._machine, self._roof = problem.form, machine, Roof(machine)
        self._bits, self._rate = (problem.form.a.bits, problem.form.b.bits), rate_of(problem.form, problem.dtype)
        self._phases = [(matrices, self._channels(matrices)) for matrices in phases]

    def _channels(self, matrices: Matrices) -> list[Channels]:
        pitches = [matrices.k * bits // 8 for bits in self._bits]
        rows = self._most, matrices.n
        return [Channels(self._machine, *of) for of in zip(rows, pitches, strict=True)]

    def cuts(self) -> Iterator[Tiled]:
        """Yield what may be tried: tiles with as many stages, two at least, as the scratchpad has room for."""
        for tile_m, tile_n, tile_k in self._in_main_memory() if not self._roof.has_cache else self._in_cache():
            stages = self._stages(tile_m, tile_n, tile_k)
            if stages >= 2:
                yield Tiled(tile_m, tile_n, tile_k, stages)

    def _in_cache(self) -> Iterator[tuple[int, int, int]]:
        unit, line = self._machine.spec.cores.matrix, self._form.line(self._machine)
        for tile_m, tile_n in product_of(ROWS, COLUMNS):
            is_whole = tile_m % unit.m == 0 or unit.m % tile_m == 0
            is_used = tile_m <= unit.m or tile_m < 2 * self._most
            if is_whole and is_used and tile_m * tile_n <= MOST_AREA:
                yield tile_m, tile_n, line

    def _in_main_memory(self) -> Iterator[tuple[int, int, int]]:
        unit, form, sizes = self._machine.spec.cores.matrix, self._form, TILES + LARGE_TILES
        n, k = (max(getattr(matrices, axis) for matrices, _ in self._phases) for axis in ("n", "k"))
        rows, columns = tile_sizes(self._most, unit.m, sizes), tile_sizes(n, unit.n, sizes)
        lines = (times * form.line(self._machine) for times in LONG_LINES)
        depths = dict.fromkeys(min(form.tile_k(line), round_up(k, form.unit)) for line in lines)
        return product_of(rows, columns, depths)

    def _widened(self, tile_m: float, tile_n: float, tile_k: float) -> float:
        """Return the elements of a tile that the vector unit expands."""
        form = self._form
        if form.is_native(self._machine):
            return 0
        return tile_k * (tile_m * bool(form.a.expanded) + tile_n * bool(form.b.expanded))

    def _stages(self, tile_m: int, tile_n: int, tile_k: int) -> int:
        """Return how many stages the scratchpad has room for."""
        cores, form = self._machine.spec.cores, self._form
        stage = (tile_m * form.a.bits + tile_n * form.b.bits) * tile_k // 8
        for operand, rows in ((form.a, tile_m), (form.b, tile_n)):
            stage += max(operand.scale_bytes(rows, tile_k), 8 * rows)  # or indices of rows, and what is aligned
        other = tile_m * tile_n * 2 + 8192 + 2 * 2 * self._widened(tile_m, tile_n, tile_k)  # two tiles of 16 bits
        if not self._roof.has_cache:  # accumulators whose room nobody has told are not without limit
            other += tile_m * tile_n * 4
        return int(min(MOST_STAGES, (cores.sram.capacity - other) // stage))

    def estimate(self, cut: Tiled) -> float:
        """Return the estimate of the time of all phases, in femtoseconds."""
        return sum(self._roof.phase_fs(self._items(cut, *phase)) for phase in self._phases)

    def _items(self, cut: Tiled, matrices: Matrices, channels: list[Channels]) -> Items:
        tile = self._whole(cut, matrices) if self._roof.has_cache else self._mean(cut, matrices)
        rows, columns, deep, (a_bits, b_bits) = tile.rows, tile.columns, tile.deep, self._bits
        weights = len(self._counts) * matrices.parts * matrices.n
        return Items(
            count=tile.count,
            tiles=-(-matrices.k // cut.tile_k),
            macs=tile.macs,
            dtype=self._rate,
            tile_bytes=(rows * a_bits + columns * b_bits) * deep / 8,
            unique_bytes=(weights * b_bits + float(self._counts.sum()) * a_bits) * matrices.k / 8,
            stages=cut.stages,
            vector_ops=4 * self._widened(rows, columns, deep),
            end_bytes=2 * rows * columns,
            end_ops=2 * rows * columns,
            **({} if self._roof.has_cache else self._from_memory(cut, tile, matrices, channels)),
        )

    def _with_waits(self, macs: float, widened: float) -> float:
        """Return what the units have to do for a tile, as multiply-accumulates: they wait for expanded tiles, and room.

        As in `roof`, where memory and units wait for each other.
        """
        expanding = 4 * widened * self._roof.vector_fs / self._roof.mac_fs(self._rate)
        faster, slower = sorted((macs, expanding))
        return slower / kept_busy(faster / slower, moe_gemm.TileKnobs.expanded)

    def _whole(self, cut: Tiled, matrices: Matrices) -> Tile:
        """Return a tile as if all were whole, and the parts of n one matrix."""
        count = (-(-self._counts // cut.tile_m)).sum() * -(-matrices.n * matrices.parts // cut.tile_n)
        macs = round_up(cut.tile_m, self._machine.spec.cores.matrix.m) * cut.tile_n * cut.tile_k
        return Tile(int(count), cut.tile_m, cut.tile_n, cut.tile_k, macs)

    def _mean(self, cut: Tiled, matrices: Matrices) -> Tile:
        """Return the mean of all tiles, each with the rows, columns and depth that there are."""
        unit, blocks = self._machine.spec.cores.matrix, (-(-self._counts // cut.tile_m)).sum()
        across, steps = -(-matrices.n // cut.tile_n), -(-matrices.k // cut.tile_k)
        macs = _padded(self._counts, cut.tile_m, unit.m).sum() / blocks
        macs *= _padded(matrices.n, cut.tile_n, unit.n) / across * _padded(matrices.k, cut.tile_k, unit.k) / steps
        count, rows = int(blocks) * matrices.parts * across, float(self._counts.sum() / blocks)
        columns, deep = matrices.n / across, matrices.k / steps
        return Tile(count, rows, columns, deep, self._with_waits(float(macs), self._widened(rows, columns, deep)))

    def _from_memory(self, cut: Tiled, tile: Tile, matrices: Matrices, channels: list[Channels]) -> dict[str, Any]:
        """Return how tiles come from main memory: requests, and the share of its channels that those in flight meet."""
        dma, of, runs = self._roof.dma, (round(tile.rows), round(tile.columns)), [tile.deep * b / 8 for b in self._bits]
        loads = 2 + sum(bool(operand.scales) for operand in (self._form.a, self._form.b))
        asked = sum(requests(count, run, dma) for count, run in zip(of, runs, strict=True)) + loads - 2
        in_flight = min(cut.stages, -(-matrices.k // cut.tile_k), max(1, dma.max_outstanding / asked))
        shares = [where.share(count, in_flight * run) for where, count, run in zip(channels, of, runs, strict=True)]
        return {"loads": loads, "requests": asked, "channels": min(1.0, sum(shares)), "takes_turns": True}


def uniform(problem: Problem) -> NDArray[np.int64]:
    """Return the rows of every expert where all are as popular: quantiles of a normal distribution, as if drawn."""
    chance = problem.topk / problem.experts
    drawn = NormalDist(problem.tokens * chance, max(1e-9, sqrt(problem.tokens * chance * (1 - chance))))
    found = [drawn.inv_cdf((expert + 0.5) / problem.experts) for expert in range(problem.experts)]
    rows = np.clip(np.rint(found), 0, problem.tokens).astype(np.int64)
    rows[-problem.topk :] = np.maximum(1, rows[-problem.topk :])  # one token takes so many experts
    return rows


def _padded(size: Any, tile: int, unit: int) -> Any:
    """Return what the tiles of an axis of such a size come to, each padded to the unit."""
    return size // tile * round_up(tile, unit) + round_up(size % tile, unit)


def rate_of(form: Format, dtype: str) -> str:
    """Return the type whose rate counts: of scaled operands, of 8 bits, or that of activations."""
    return form.native or (form.b.stored.dtype if form.b.stored and not form.expands else dtype)


def ranked(problem: Problem, machine: Machine, **given: Any) -> tuple[Choice, ...]:
    """Return schedules of grouped products by their estimates, the best first, with some knobs `given`."""
    products, knobs = Products(problem, machine), _knobs(problem)
    choices = (Choice(knobs(**vars(cut), **given), products.estimate(cut)) for cut in products.cuts())
    return choice.ranked(choices)


def _knobs(problem: Problem) -> type[moe_layer.Knobs] | type[moe_gemm.Knobs]:
    return moe_layer.Knobs if isinstance(problem, moe_layer.Problem) else moe_gemm.Knobs


def candidates(problem: Problem, machine: Machine) -> Iterator[Any]:
    """Yield knobs to try, the most promising first, small tiles behind them.

    Where a cache is shared, estimates do not tell the tiles of libraries apart: these go by an expert's mean rows.
    """
    of_rows = _row_knobs(problem, machine)
    if machine.spec.shared_cache is None:
        yield from (each.knobs for each in ranked(problem, machine, **of_rows))
    found = [_knobs(problem)(**vars(cut), **of_rows) for cut in _usual(problem, machine)]
    yield from found
    if problem.form.expands:  # last: with one expanded tile, expansion and product take turns
        yield from (replace(each, expanded=1) for each in found)


def _usual(problem: Problem, machine: Machine) -> list[Tiled]:
    """Return usual tiles, the best first: by how many rows an expert has on average.

    With few rows, reading weights is all the work: tiles are long along k, along which the weights of a row lie in
    memory, and take long runs of it; rows of a tile are twice the average. With many rows tiles are a line deep.
    """
    form = problem.form
    rows = -(-problem.tokens * problem.topk // problem.experts)
    height = min(128, max(16, 1 << (2 * rows - 1).bit_length()))
    if height > MANY_ROWS:
        depths = dict.fromkeys((form.line(machine), form.tile_k(moe_gemm.TileKnobs.tile_k)))
        shapes = [(columns, depth) for columns in (128, 64, 32) for depth in depths]
    else:
        shapes = [(128, 128), (64, 128)] if form.promoted else [(32, 512), (32, 256), (32, 128)]
    return [Tiled(height, tile_n, tile_k, stages) for tile_n, tile_k in shapes for stages in (4, 3, 2)]


def _row_knobs(problem: Problem, machine: Machine) -> dict[str, Any]:
    """Return knobs of row-wise phases: as many rows in a tile as keep a core's share of main memory busy."""
    if not isinstance(problem, moe_layer.Problem) or machine.memory != "hbm":
        return {}
    knobs, cores = moe_layer.Knobs(), machine.spec.cores
    roof = Roof(machine)
    wanted = IN_FLIGHT * roof.load_fs / (roof.memory_fs * cores.count)
    rows, row_bytes = knobs.tile_rows, 2 * min(knobs.tile_columns, problem.hidden) * knobs.row_stages
    while rows * row_bytes < min(wanted, cores.sram.capacity / 8):
        rows *= 2
    return {"tile_rows": rows}
