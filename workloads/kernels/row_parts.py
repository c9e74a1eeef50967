"""Rows that are too long for a scratchpad, walked in parts of columns: once to reduce them, once more for the result.

A work item is a band of rows that a core walks tile by tile. The first pass over a tile's parts leaves a few numbers of
every row in the scratchpad, in fp32; the second loads the parts again, which a shared cache may still have, with the
parts of what all rows share (a weight), and stores the results. Blocks are as in `rowwise`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from hwmodel.assembler import Affine, PhaseAssembler, Region, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import Phase, Tensor
from workloads.buffers import allocate
from workloads.kernels.base import knob
from workloads.kernels.rowwise import ROW_TILES, Items, RowKnobs
from workloads.schedule import schedule

STATE = "state"
SIZES = ((4096, 3), (4096, 2), (2048, 3), (2048, 2), (1024, 3), (1024, 2), (256, 2))  # columns, stages; assumed


@dataclass(frozen=True, kw_only=True)
class PartKnobs(RowKnobs):
    """What the search may choose of a kernel that reduces rows."""

    tile_columns: int = knob(0, "columns of a part, where rows are walked in parts, twice; 0: they are not", least=0)

    def part(self, columns: int) -> int:
        """Return the columns of a part of a row of so many; 0 where it is whole."""
        return self.tile_columns if self.tile_columns < columns else 0


def candidates(kind: type[Any]) -> Iterator[Any]:
    """Yield knobs to try: rows as a whole, fewer and fewer of them; then in parts, where the kernel has these."""
    for rows, stages in ROW_TILES:
        yield kind(tile_rows=rows, stages=stages)
    yield from in_parts(kind)


def in_parts(kind: type[Any]) -> Iterator[Any]:
    """Yield knobs that walk rows in parts, the longest first; none for a kernel that does not reduce rows."""
    if any(entry.name == "tile_columns" and entry.default == 0 for entry in fields(kind)):
        for columns, stages in SIZES:
            yield kind(tile_rows=1, stages=stages, tile_columns=columns)


@dataclass(frozen=True)
class Pass:
    """A vector operation over the blocks of tensors, by their names, or over STATE.

    Its sizes are rows and columns of the part, and with `reduces` the columns before it, with `whole` those of a row.
    """

    function: str
    operands: tuple[str, ...]
    scalar: float = 0.0
    reduces: bool = False
    whole: bool = False


@dataclass(frozen=True)
class PartPhase:
    """One kernel over tiles of `rows` by parts of `columns`, of `total` columns in all.

    `inputs` are loaded in both passes, `shared` (tensors of one row) in the second, which stores `outputs`; `kept`: of
    these, what the first pass makes in a block of its own. `numbers`: what is kept of a row between the passes.
    """

    name: str
    rows: int
    columns: int
    total: int
    stages: int
    inputs: tuple[str, ...]
    shared: tuple[str, ...]
    outputs: tuple[str, ...]
    first: tuple[Pass, ...]
    second: tuple[Pass, ...]
    numbers: int
    kept: tuple[str, ...] = ()

    def assemble(self, tensors: Sequence[Tensor], items: Items, machine: Machine) -> Phase:
        """Return the phase over `items`, which have the columns row and rows."""
        rows = np.asarray(items["rows"])
        tasks = {"row": items["row"], "rows": rows, "tiles": -(-rows // self.rows)}
        writer = _Writer(self, PhaseAssembler(self.name, tensors, tuple(tasks)), machine)
        writer.load()
        writer.compute()
        writer.store()
        table = np.stack([np.asarray(column, np.int64) for column in tasks.values()], axis=1)
        return writer.phase.finish(table, schedule("static", rows, machine.spec.cores.count))


class _Writer:
    """Writes the queues of a phase."""

    def __init__(self, kernel: PartPhase, phase: PhaseAssembler, machine: Machine) -> None:
        self.phase, self._kernel = phase, kernel
        self._tensors = {tensor.name: number for number, tensor in enumerate(phase.tensors)}
        self._parts = -(-kernel.total // kernel.columns)
        requested = [
            *(self._request(name, kernel.rows, kernel.stages) for name in (*kernel.inputs, *kernel.outputs)),
            *(self._request(name, 1, kernel.stages) for name in kernel.shared),
            *(self._request(name, kernel.rows, 1) for name in kernel.kept),
            block(STATE, kernel.rows, kernel.numbers, "fp32"),
        ]
        names = (*kernel.inputs, *kernel.outputs, *kernel.shared)
        numbers = phase.add_buffers(allocate(requested, machine))
        self._buffers = dict(zip(names, numbers, strict=False))
        self._kept = dict(zip((*kernel.kept, STATE), numbers[len(names) :], strict=True))
        self._loaded, self._free = phase.counter("part loaded", "memory"), phase.counter("part free", "buffer")
        self._out, self._out_free = phase.counter("out", "dependency"), phase.counter("out free", "buffer")

    def _request(self, name: str, rows: int, slots: int) -> Any:
        dtype = self.phase.tensors[self._tensors[name]].dtype
        return block(name, rows, self._kernel.columns, dtype, slots)

    def _height(self, tile: Affine) -> Affine:
        return (self.phase.column("rows") - tile * self._kernel.rows).clip(self._kernel.rows)

    def _width(self, part: Affine) -> Affine:
        return (self._kernel.total - part * self._kernel.columns).clip(self._kernel.columns)

    def _region(self, name: str, tile: Affine, part: Affine) -> Region:
        across = part * self._kernel.columns, self._width(part)
        if name in self._kernel.shared:
            return Region(self._tensors[name], {"column": across})
        down = self.phase.column("row") + tile * self._kernel.rows, self._height(tile)
        return Region(self._tensors[name], {"row": down, "column": across})

    def load(self) -> None:
        p, kernel = self.phase, self._kernel
        with p.loop("load", p.column("tiles")) as i:
            for names, begin in ((kernel.inputs, 0), ((*kernel.inputs, *kernel.shared), self._parts)):
                with p.loop("load", self._parts) as j:
                    number, result = i.running * (2 * self._parts) + begin + j.index, i.running * self._parts + j.index
                    for name in names:  # an engine completes in order, so the last one speaks for all
                        slot = Slot(self._buffers[name], result if name in kernel.shared else number)
                        signal = [self._loaded] * (name == names[-1])
                        wait = [(self._free, number - kernel.stages + 1)]
                        p.load(slot, self._region(name, i.index, j.index), wait=wait, signal=signal)

    def compute(self) -> None:
        p, kernel = self.phase, self._kernel
        with p.loop("vector", p.column("tiles")) as i:
            for steps, begin in ((kernel.first, 0), (kernel.second, self._parts)):
                with p.loop("vector", self._parts) as j:
                    number, result = i.running * (2 * self._parts) + begin + j.index, i.running * self._parts + j.index
                    wait = [(self._loaded, number + 1)]
                    done = [self._free]
                    if begin:
                        wait.append((self._out_free, result - kernel.stages + 1))
                        done.append(self._out)
                    for step in steps:
                        sizes = [self._height(i.index), self._width(j.index)]
                        sizes += [j.index * kernel.columns] * step.reduces + [Affine.of(kernel.total)] * step.whole
                        p.vector(
                            step.function,
                            [self._block(name, number, result, first=not begin) for name in step.operands],
                            sizes,
                            scalar=step.scalar,
                            wait=wait if step is steps[0] else (),
                            signal=done if step is steps[-1] else (),
                        )

    def _block(self, name: str, number: Affine, result: Affine, first: bool) -> Slot:
        if name == STATE or (first and name in self._kernel.kept):
            return Slot(self._kept[name], Affine.of(0))
        return Slot(self._buffers[name], number if name in self._kernel.inputs else result)

    def store(self) -> None:
        p, kernel = self.phase, self._kernel
        with p.loop("store", p.column("tiles")) as i, p.loop("store", self._parts) as j:
            result = i.running * self._parts + j.index
            for name in kernel.outputs:
                slot, signal = Slot(self._buffers[name], result), [self._out_free] * (name == kernel.outputs[-1])
                p.store(slot, self._region(name, i.index, j.index), wait=[(self._out, result + 1)], signal=signal)
