"""What all tiled products c[m, n] = a[m, k] b[n, k]^T share: the main phase, and the phase that adds up parts.

Between the GEMM templates and the assembler, over the grid of `gemm_grid`. A work item of the main phase is one tile of
c, or one part of its k. It streams tiles of a and b, and what belongs to them, through multi-buffers; a tile may be
expanded to another type before it is multiplied, a product may be scaled after it. A template says in its `Recipe`
what it has of this.

Not modelled: sharing a tile between cores other than through the memory side (caches, multicast), and epilogues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from hwmodel.assembler import Affine, PhaseAssembler, Region, Slot, Wait, block
from hwmodel.machine import Machine
from hwmodel.program import NONE, Buffer, Cause, Phase, Tensor
from workloads.buffers import allocate, contiguous_axis, operand
from workloads.kernels.gemm_grid import Array, Grid, number_of
from workloads.schedule import schedule

LINE_BYTES = 128  # of k in a tile: what a swizzled line of operands takes
Axes: TypeAlias = Mapping[str, tuple[Affine | int, Affine | int]]  # of a region


@dataclass(frozen=True)
class Stream:
    """A tensor of which every tile of k takes a piece: rows of a or b by k // `unit`.

    `axes` are its axes along these. With `squares` it has a row per 128 rows of b.
    """

    tensor: int
    axes: tuple[str, str]
    buffer: Buffer
    side: Literal["a", "b"]
    unit: int = 1
    squares: bool = False


@dataclass(frozen=True)
class Expansion:
    """Makes the operand `out` of a matmul of the elements and the scales that came with a tile, on the vector unit."""

    function: str
    out: Buffer
    elements: Stream
    scales: Stream


@dataclass(frozen=True)
class Recipe:
    """What happens to the tiles between memory and the accumulator.

    The operands of a and b are streams (multiplied as they come) or expansions. With `promotion`, the scales of a and
    of b, the product of every tile is scaled and added up on the vector unit in `accumulators` blocks. `scales` is the
    tensor of the two scales that the result is multiplied by; NONE: there are none. `unit` multiplies.
    """

    a: Stream | Expansion
    b: Stream | Expansion
    result: tuple[int, str]  # tensor and type of c
    partial: int  # tensor of partial sums
    promotion: tuple[Stream, Stream] | None = None
    accumulators: int = 1
    sum_dtype: str = "fp32"
    scales: int = NONE
    unit: Literal["matrix", "vector"] = "matrix"

    def consumers(self) -> dict[str, tuple[Stream, ...]]:
        """Return the streams by who reads their buffers."""
        found: dict[str, tuple[Stream, ...]] = {}
        plain = tuple(side for side in (self.a, self.b) if isinstance(side, Stream))
        if plain:
            found["multiply"] = plain
        for name, side in (("a", self.a), ("b", self.b)):
            if isinstance(side, Expansion):
                found[f"expand {name}"] = (side.elements, side.scales)
        return found | ({"promote": self.promotion} if self.promotion else {})


def operand_stream(
    grid: Grid, machine: Machine, knobs: Any, tensors: Sequence[Tensor], side: Literal["a", "b"]
) -> Stream:
    """Return the stream of the tensor "a" or "b", of which the matmul reads tiles [rows, k] as they were loaded."""
    number = number_of(tensors, side)
    axes = ("m" if side == "a" else "n", "k")
    rows = grid.tile_m if side == "a" else grid.tile_n
    request = block(side, rows, grid.tile_k, tensors[number].dtype, knobs.stages)
    along = contiguous_axis(tensors[number], axes)
    buffer = operand(request, machine, knobs.sram_layout, side=side, axis_of_k=1, filled_along=along)
    return Stream(number, axes, buffer, side)


class Multiply:
    """Writes the main phase, one method per queue; `stages` are the slots of the streams' buffers."""

    def __init__(
        self,
        grid: Grid,
        recipe: Recipe,
        machine: Machine,
        tensors: tuple[Tensor, ...],
        stages: int,
        items: Mapping[str, Array] | None = None,
        name: str = "multiply",
    ) -> None:
        self._grid, self._recipe, self._stages = grid, recipe, stages
        self._items = dict(grid.work_items() if items is None else items)
        self._split = grid.parts > 1
        self._p = p = PhaseAssembler(name, tensors, tuple(self._items))
        self._streams = recipe.consumers()
        requested = [stream.buffer for streams in self._streams.values() for stream in streams]
        self._expansions = [side for side in (recipe.a, recipe.b) if isinstance(side, Expansion)]
        requested += [expansion.out for expansion in self._expansions]
        requested.append(self._accumulator())
        requested += self._outs()
        self._scaled = recipe.scales != NONE and not self._split
        if self._scaled:
            requested.append(block("scales", 1, 2, "fp32", 2))
        numbers = p.add_buffers(allocate(requested, machine))
        self._buffers = dict(zip((b.name for b in requested), numbers, strict=True))
        self._counters: dict[str, int] = {}

    def _accumulator(self) -> Buffer:
        """Return the request for what products are added up in."""
        recipe = self._recipe
        return block("accumulator", self._grid.tile_m, self._grid.tile_n, recipe.sum_dtype, recipe.accumulators)

    def _outs(self) -> list[Buffer]:
        """Return the requests for what the store queue reads."""
        dtype = self._recipe.sum_dtype if self._split else self._recipe.result[1]
        return [block("out", self._grid.tile_m, self._grid.tile_n, dtype)]

    def _counter(self, name: str) -> int:
        """Return a counter of the phase, which it gets when it is first named."""
        if name not in self._counters:
            cause: Cause = "memory" if "loaded" in name else "buffer" if "free" in name else "dependency"
            self._counters[name] = self._p.counter(name, cause)
        return self._counters[name]

    def finish(self, name: str, machine: Machine) -> Phase:
        """Return the phase under the schedule `name`."""
        order = schedule(name, self._items["tiles"], machine.spec.cores.count)
        return self.written().finish(np.stack(list(self._items.values()), axis=1), order)

    def written(self) -> PhaseAssembler:
        """Return the assembler with all four queues, to be finished with tasks and a schedule."""
        self._load()
        if self._recipe.unit == "matrix":
            self._matrix()
        self._vector()
        self._store()
        return self._p

    def _extents(self) -> tuple[Affine, Affine]:
        """Return the rows and the columns of the item's tile."""
        m, n = self._p.column("m"), self._p.column("n")
        return (self._grid.m - m).clip(self._grid.tile_m), (self._grid.n - n).clip(self._grid.tile_n)

    def _operand_rows(self, side: Literal["a", "b"]) -> Affine:
        """Return the rows of a or b that the item reads."""
        return self._extents()["ab".index(side)]

    def _multiplied(self) -> tuple[Affine, Affine]:
        """Return the rows of a and of b that enter the matrix unit."""
        return self._extents()

    def _k(self, index: Affine | int, unit: int = 1) -> tuple[Affine, Affine]:
        """Return start and count of a tile of k, in units of so many elements; of one that holds all k, that."""
        if unit >= self._grid.k:
            return Affine.of(0), Affine.of(1)
        per_tile, total = self._grid.tile_k // unit, -(-self._grid.k // unit)
        start = (self._p.column("first") + index) * per_tile
        return start, (total - start).clip(per_tile)

    def _region(self, stream: Stream, index: Affine) -> Region:
        p, (rows, width) = self._p, self._extents()
        across = (p.column("m"), rows) if stream.side == "a" else (p.column("n"), width)
        if stream.squares:
            across = (p.column("block"), p.column("blocks"))
        return Region(
            stream.tensor, {stream.axes[0]: across, stream.axes[1]: self._k(index, stream.unit)} | self._batch()
        )

    def _batch(self) -> dict[str, tuple[Affine | int, Affine | int]]:
        return {} if self._grid.batch is None else {"batch": (self._p.column("batch"), 1)}

    def _slot(self, name: str, number: Affine) -> Slot:
        return Slot(self._buffers[name], number)

    def _load(self) -> None:
        p = self._p
        if self._scaled:
            wait: list[Wait] = [(self._counter("scales free"), p.begun - 1)]
            region = self._scales_region()
            p.load(self._slot("scales", p.begun), region, wait=wait, signal=[self._counter("scales loaded")])
        with p.loop("load", p.column("tiles")) as i:
            for consumer, streams in self._streams.items():
                free: list[Wait] = [(self._counter(f"{consumer}: tiles free"), i.running - self._stages + 1)]
                for stream in streams:
                    to = self._slot(stream.buffer.name, i.running)
                    p.load(
                        to,
                        self._region(stream, i.index),
                        wait=free,
                        signal=[self._counter(f"{consumer}: tiles loaded")],
                    )

    def _scales_region(self) -> Region:
        return Region(self._recipe.scales, {})

    def _operands(self, number: Affine) -> tuple[Slot, Slot]:
        names = [
            side.buffer.name if isinstance(side, Stream) else side.out.name for side in (self._recipe.a, self._recipe.b)
        ]
        a, b = (self._slot(name, number) for name in names)
        return a, b

    def _ready(self, consumer: str, number: Affine) -> list[Wait]:
        """Wait until the tile `number` has come, of every stream that the consumer reads."""
        if consumer not in self._streams:
            return []
        return [(self._counter(f"{consumer}: tiles loaded"), (number + 1) * len(self._streams[consumer]))]

    def _done(self, consumer: str) -> list[int]:
        return [self._counter(f"{consumer}: tiles free")] if consumer in self._streams else []

    def _matrix(self) -> None:
        p = self._p
        number = p.begun + p.running(0)
        tiles = p.column("tiles")
        with p.loop("matrix", tiles - 1) as i:
            self._matmul(number, i.index, last=False)
        self._matmul(number, tiles - 1, last=True)

    def _matmul(self, number: Affine, index: Affine, last: bool) -> None:
        """One tile of k. Sums in place, or leaves the product to be promoted in the next of the accumulators."""
        p, recipe = self._p, self._recipe
        wait = self._ready("multiply", number)
        signal = self._done("multiply")
        if self._expansions:
            wait.append((self._counter("tiles expanded"), (number + 1) * len(self._expansions)))
            signal.append(self._counter("expanded tiles free"))
        if recipe.promotion:
            wait.append((self._counter("accumulators free"), number - recipe.accumulators + 2))
            signal.append(self._counter("product"))
        else:
            wait.append((self._counter("accumulator free"), p.begun))
            signal += [self._counter("sum")] if last else []
        p.matmul(
            self._slot("accumulator", number if recipe.promotion else p.begun),
            *self._operands(number),
            (*self._multiplied(), self._k(index)[1]),
            transpose_b=True,
            accumulate=0 if recipe.promotion else index,
            wait=wait,
            signal=signal,
        )

    def _vector(self) -> None:
        p, recipe = self._p, self._recipe
        if self._expansions or recipe.promotion or recipe.unit == "vector":
            with p.loop("vector", p.column("tiles")) as i:
                for expansion in self._expansions:
                    self._expand(expansion, i.running, i.index)
                if recipe.promotion:
                    self._promote(i.running, i.index)
                elif recipe.unit == "vector":
                    self._dot(i.running, i.index)
        self._epilogue()

    def _expand(self, expansion: Expansion, number: Affine, index: Affine) -> None:
        """The waiting for a free block counts tiles, the first of which find all blocks free."""
        side = expansion.elements.side
        names = (expansion.out.name, expansion.elements.buffer.name, expansion.scales.buffer.name)
        self._p.vector(
            expansion.function,
            [self._slot(name, number) for name in names],
            (self._operand_rows(side), self._k(index)[1], expansion.scales.unit),
            wait=[
                *self._ready(f"expand {side}", number),
                (self._counter("expanded tiles free"), number - expansion.out.slots + 1),
            ],
            signal=[*self._done(f"expand {side}"), self._counter("tiles expanded")],
        )

    def _promote(self, number: Affine, index: Affine) -> None:
        p, recipe = self._p, self._recipe
        assert recipe.promotion is not None
        accumulators = (self._slot("accumulator", number), self._slot("accumulator", number - 1))
        scales = [self._slot(stream.buffer.name, number) for stream in recipe.promotion]
        p.vector(
            "promote",
            (*accumulators, *scales),
            (self._operand_rows("a"), self._operand_rows("b"), p.column("offset"), 1 - index),
            wait=[*self._ready("promote", number), (self._counter("product"), number + 1)],
            signal=[*self._done("promote"), self._counter("accumulators free")],
        )

    def _dot(self, number: Affine, index: Affine) -> None:
        p = self._p
        self._p.vector(
            "dot",
            (self._slot("accumulator", p.begun), *self._operands(number)),
            (*self._extents(), self._k(index)[1], 1 - index),
            wait=self._ready("multiply", number),
            signal=self._done("multiply"),
        )

    def _epilogue(self) -> None:
        """Round the item's sum, which lies in the last of the accumulators that its products took."""
        p, recipe = self._p, self._recipe
        last = p.running(0) - 1 if recipe.promotion else p.begun
        operands = [self._slot("out", p.begun), self._slot("accumulator", last)]
        wait: list[Wait] = [(self._counter("out free"), p.begun)]
        signal = [self._counter("out")]
        if not recipe.promotion and recipe.unit == "matrix":
            wait.append((self._counter("sum"), p.begun + 1))
            signal.append(self._counter("accumulator free"))
        if self._scaled:
            operands.append(self._slot("scales", p.begun))
            wait.append((self._counter("scales loaded"), p.begun + 1))
            signal.append(self._counter("scales free"))
        p.vector(self._rounding(), operands, self._extents(), wait=wait, signal=signal)

    def _rounding(self) -> str:
        """Return the operation that makes the result of the sum, and of its scales where it has any."""
        return "dequantise" if self._scaled else "convert"

    def _result_region(self) -> Region:
        p, (rows, width) = self._p, self._extents()
        there = {"m": (p.column("m"), rows), "n": (p.column("n"), width)} | self._batch()
        if self._split:
            return Region(self._recipe.partial, there | {"part": (p.column("part"), 1)})
        return Region(self._recipe.result[0], there)

    def _store(self) -> None:
        p = self._p
        p.store(
            self._slot("out", p.begun),
            self._result_region(),
            wait=[(self._counter("out"), p.begun + 1)],
            signal=[self._counter("out free")],
        )


def reduce_parts(grid: Grid, recipe: Recipe, machine: Machine, tensors: tuple[Tensor, ...]) -> Phase:
    """Add the partial tiles, by strips of rows so that all parts of a strip fit where one tile did."""
    parts, tn = grid.parts, grid.tile_n
    strip = max(1, grid.tile_m // parts)
    cells = np.indices((grid.batch or 1, -(-grid.m // strip), -(-grid.n // tn))).reshape(3, -1)
    columns = {"m": cells[1] * strip, "n": cells[2] * tn}
    if grid.batch is not None:
        columns["batch"] = cells[0]
    p = PhaseAssembler("reduce", tensors, tuple(columns))
    m, n = p.column("m"), p.column("n")
    rows, width = (grid.m - m).clip(strip), (grid.n - n).clip(tn)
    there: Axes = {"m": (m, rows), "n": (n, width)}
    if grid.batch is not None:
        there = dict(there) | {"batch": (p.column("batch"), 1)}
    partials = block("partials", parts * strip, tn, recipe.sum_dtype, 2)
    add_partials(p, recipe, machine, partials, strip, Region(recipe.partial, there), there, (parts, rows, width))
    tasks = np.stack(list(columns.values()), axis=1)
    return p.finish(tasks, schedule("static", np.ones(len(tasks), np.int64), machine.spec.cores.count))


def add_partials(
    p: PhaseAssembler,
    recipe: Recipe,
    machine: Machine,
    partials: Buffer,
    strip: int,
    source: Region,
    there: Axes,
    sizes: tuple[Affine | int, Affine, Affine],
) -> None:
    """Write the queues of a phase that loads partial sums, adds them up, scales them if they are to be, and stores."""
    result, dtype = recipe.result
    requested = [partials, block("out", strip, partials.columns, dtype, 2)]
    scaled = recipe.scales != NONE
    if scaled:
        requested.append(block("scales", 1, 2, "fp32", 2))
    buffers = p.add_buffers(allocate(requested, machine))
    loaded, ready = p.counter("partials loaded", "memory"), p.counter("out", "dependency")
    free, out_free = p.counter("partials free", "buffer"), p.counter("out free", "buffer")
    wait: list[Wait] = [(free, p.begun - 1)]
    if scaled:
        p.load(Slot(buffers[2], p.begun), Region(recipe.scales, {}), wait=wait, signal=[loaded])
    p.load(Slot(buffers[0], p.begun), source, wait=wait, signal=[loaded])
    p.vector(
        "sum_scaled" if scaled else "sum",
        [Slot(buffers[1], p.begun), Slot(buffers[0], p.begun), *(Slot(scales, p.begun) for scales in buffers[2:])],
        sizes,
        wait=[(loaded, (p.begun + 1) * (1 + scaled)), (out_free, p.begun - 1)],
        signal=[ready, free],
    )
    p.store(Slot(buffers[1], p.begun), Region(result, there), wait=[(ready, p.begun + 1)], signal=[out_free])
