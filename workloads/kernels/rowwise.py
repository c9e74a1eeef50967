"""Kernels that take a matrix row by row: one writer for norms, activations, embeddings, copies and the like.

A work item is a band of rows (and, where a kernel may cut rows, of columns) that a core walks tile by tile: every tile
loads its strips of some tensors, runs a few vector operations over them, and stores its strips of others. Strips have
`stages` blocks each, so that loads, operations and stores of neighbouring tiles overlap. What all tiles of an item
share (a weight) is loaded once per item. Rows are dealt out in equal bands, one per core and column of tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.assembler import Affine, PhaseAssembler, Region, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import Phase, Tensor
from workloads.buffers import allocate
from workloads.kernels.base import knob, named_option, require_16_bit, require_options
from workloads.model import Model
from workloads.schedule import schedule

OF_MODEL = "model"
DTYPES = (OF_MODEL, "bf16", "fp16", "fp32")  # the option `dtype`, as it is by default first
ROW_TILES = ((8, 2), (4, 2), (2, 2), (1, 2), (1, 1))  # rows and stages to try
Array = np.ndarray[Any, Any]
Span = tuple[Affine | int, Affine | int]  # start and extent
Items = Mapping[str, Array]  # columns of a task table


@dataclass(frozen=True)
class RowKnobs:
    """What the search may choose of every kernel that takes rows in tiles."""

    tile_rows: int = knob(8, "rows in a tile, at most", least=1)
    stages: int = knob(2, "tiles in flight", least=1)


@dataclass(frozen=True)
class Tile:
    """The tile that an instruction works on: the `index`-th of its item, `rows` by `columns` of `total` at most."""

    phase: PhaseAssembler
    index: Affine
    rows: int
    columns: int
    total: int

    @property
    def height(self) -> Affine:
        """The rows of this tile."""
        return self.lines(1)

    def lines(self, per_row: int) -> Affine:
        """Return the lines of a block that has so many per row."""
        return ((self.phase.column("rows") - self.index * self.rows) * per_row).clip(self.rows * per_row)

    def span(self, column: str = "row", per_row: int = 1) -> Span:
        """Return the tile's part of an axis on which the item begins at task column `column`, in rows."""
        return (self.phase.column(column) + self.index * self.rows) * per_row, self.lines(per_row)

    @property
    def width(self) -> Affine:
        """The columns of this tile."""
        return (self.total - self.phase.column("column")).clip(self.columns)

    @property
    def across(self) -> Span:
        """The tile's part of the column axis."""
        return self.phase.column("column"), self.width

    def at(self, column: str) -> Span:
        """Return the one coordinate that task column `column` gives."""
        return self.phase.column(column), 1


@dataclass(frozen=True)
class Strip:
    """A block of `rows` by `columns` that a tile loads from a region of a tensor or stores to one.

    `block`: the strip whose block is stored instead of one of its own. A strip without a region is kept between two
    operations, in `dtype`.
    """

    name: str
    rows: int
    columns: int
    region: Callable[[Tile], Region] | None = None
    block: str = ""
    dtype: str = ""


@dataclass(frozen=True)
class Step:
    """A vector operation over the blocks of strips, by their names; `sizes` of a tile."""

    function: str
    operands: tuple[str, ...]
    sizes: Callable[[Tile], tuple[Affine | int, ...]]
    scalar: float = 0.0


@dataclass(frozen=True)
class RowPhase:
    """One kernel: its strips and operations over tiles of `rows` by `columns`, of `total` columns in all.

    Without steps a kernel copies: each output is stored from the block of an input.
    """

    name: str
    rows: int
    columns: int
    total: int
    stages: int
    inputs: tuple[Strip, ...]
    outputs: tuple[Strip, ...]
    steps: tuple[Step, ...] = ()
    shared: tuple[Strip, ...] = ()
    kept: tuple[Strip, ...] = ()

    def assemble(self, tensors: Sequence[Tensor], items: Items, machine: Machine, deal: str = "static") -> Phase:
        """Return the phase over `items`, which have the columns row, rows, column and what regions read."""
        rows = np.asarray(items["rows"])
        tasks = dict(items) | {"tiles": -(-rows // self.rows)}
        writer = _Writer(self, PhaseAssembler(self.name, tensors, tuple(tasks)), machine)
        writer.load()
        writer.compute()
        writer.store()
        table = np.stack([np.asarray(column, np.int64) for column in tasks.values()], axis=1)
        order = schedule(deal, rows, machine.spec.cores.count)
        return writer.phase.finish(table, order)


class _Writer:
    """Writes the queues of a row phase."""

    def __init__(self, kernel: RowPhase, phase: PhaseAssembler, machine: Machine) -> None:
        self.phase = phase
        self._kernel = kernel
        own = [strip for strip in kernel.outputs if not strip.block]
        requested = [
            *(self._request(strip, 1) for strip in kernel.shared),
            *(self._request(strip, kernel.stages) for strip in (*kernel.inputs, *own)),
            *(self._request(strip, 1) for strip in kernel.kept),
        ]
        numbers = phase.add_buffers(allocate(requested, machine))
        self._buffers = {request.name: number for request, number in zip(requested, numbers, strict=True)}
        self._shared = phase.counter("shared loaded", "memory")
        self._loaded = phase.counter("tile loaded", "memory")
        self._free, self._out_free = phase.counter("tile free", "buffer"), phase.counter("out free", "buffer")
        self._out = phase.counter("out", "dependency")
        # a block that is loaded and stored again is free when it is stored
        self._free_by_store = any(strip.block in {i.name for i in kernel.inputs} for strip in kernel.outputs)

    def _request(self, strip: Strip, slots: int) -> Any:
        dtype = strip.dtype
        if strip.region is not None:
            dtype = self.phase.tensors[strip.region(self._tile(Affine.of(0))).tensor].dtype
        return block(strip.name, strip.rows, strip.columns, dtype, slots)

    def _tile(self, index: Affine) -> Tile:
        return Tile(self.phase, index, self._kernel.rows, self._kernel.columns, self._kernel.total)

    def _slot(self, name: str, number: Affine) -> Slot:
        return Slot(self._buffers[name], number)

    def _region(self, strip: Strip, index: Affine) -> Region:
        assert strip.region is not None
        return strip.region(self._tile(index))

    def load(self) -> None:
        p, kernel = self.phase, self._kernel
        for strip in kernel.shared:  # may take the place of the last item's once all of its tiles are through
            wait, signal = [(self._free, p.running(0))], [self._shared] * (strip is kernel.shared[-1])
            p.load(self._slot(strip.name, p.begun), self._region(strip, Affine.of(0)), wait=wait, signal=signal)
        with p.loop("load", p.column("tiles")) as i:
            for strip in kernel.inputs:  # an engine completes in order, so the last one speaks for all
                signal = [self._loaded] * (strip is kernel.inputs[-1])
                wait = [(self._free, i.running - kernel.stages + 1)]
                p.load(self._slot(strip.name, i.running), self._region(strip, i.index), wait=wait, signal=signal)

    def compute(self) -> None:
        p, kernel = self.phase, self._kernel
        if not kernel.steps:
            return
        with p.loop("vector", p.column("tiles")) as i:
            for step in kernel.steps:
                wait = [(self._loaded, i.running + 1), (self._out_free, i.running - kernel.stages + 1)]
                if kernel.shared:
                    wait.append((self._shared, p.begun + 1))
                done = [self._out] if self._free_by_store else [self._out, self._free]
                p.vector(
                    step.function,
                    [self._slot(name, i.running) for name in step.operands],
                    step.sizes(self._tile(i.index)),
                    scalar=step.scalar,
                    wait=wait if step is kernel.steps[0] else (),
                    signal=done if step is kernel.steps[-1] else (),
                )

    def store(self) -> None:
        p, kernel = self.phase, self._kernel
        ready = self._out if kernel.steps else self._loaded
        done = [self._out_free, *([self._free] if self._free_by_store else [])]
        with p.loop("store", p.column("tiles")) as i:
            for strip in kernel.outputs:
                source = self._slot(strip.block or strip.name, i.running)
                signal = done if strip is kernel.outputs[-1] else []
                p.store(source, self._region(strip, i.index), wait=[(ready, i.running + 1)], signal=signal)


def bands(rows: int, columns: int, tile_columns: int, cores: int) -> dict[str, Array]:
    """Return work items that cover `rows` x `columns` once: bands of rows by tiles of columns, as many as cores.

    Bands differ by a row at most. Where there are more columns of tiles than cores, each is a band of all rows.
    """
    across = -(-columns // tile_columns)
    count = min(rows, max(1, cores // across))
    edges = np.arange(count + 1) * rows // count
    band, column = np.indices((count, across)).reshape(2, -1)
    return {"row": edges[band], "rows": edges[band + 1] - edges[band], "column": column * tile_columns}


def row_dtype(kernel: str, options: Mapping[str, int | str], model: Model | None) -> tuple[str, dict[str, int]]:
    """Return the type that the option `dtype` gives, else the model's of 16 bits or bf16, and the other options."""
    chosen, others = named_option(options, "dtype", DTYPES)
    if chosen != OF_MODEL:
        return chosen, others
    return require_16_bit(kernel, model.dtype if model else "bf16"), others


def row_sizes(
    kernel: str,
    options: Mapping[str, int | str],
    model: Model | None,
    name: str,
    of_model: str,
    flags: Sequence[str] = (),
    more: Mapping[str, int] | None = None,
) -> tuple[dict[str, int], str]:
    """Return the sizes `rows`, `name` (where it is 0, the model's size `of_model`) and `flags` (0 or 1), and the dtype.

    `more`: further sizes and their defaults. Raises ValueError for other sizes, for a missing one, and for a dtype that
    is not modelled.
    """
    dtype, given = row_dtype(kernel, options, model)
    sizes = require_options(kernel, given, ("rows",), {name: 0} | dict.fromkeys(flags, 0) | dict(more or {}))
    if not sizes[name]:
        if model is None:
            raise ValueError(f"options: size {name} is missing; kernel {kernel} needs it, or a model")
        sizes[name] = getattr(model, of_model)
    for flag in flags:
        if sizes[flag] > 1:
            raise ValueError(f"options: size {flag} is {sizes[flag]}; allowed: 0 or 1")
    return sizes, dtype
