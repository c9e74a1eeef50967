"""The program's values: runs a program on a byte image of memory, through layouts, page tables and scratchpads.

Knows no time. Each core has its own scratchpad bytes; queues run until they wait for a counter, in turn, so a program
whose counters are wrong deadlocks here or reads what is not there yet. 16-bit operands are multiplied exactly and
summed in fp32; a buffer of a narrower dtype rounds what is written to it (to nearest, ties to even).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from hwmodel.program import DTYPES, NONE, QUEUES, Buffer, Instruction, Op, Phase, Program, Tensor, task_lists, walk
from hwmodel.vector import OPERATIONS

Array = np.ndarray[Any, Any]


class Memory:
    """A byte image of the memory that a program's tensors occupy, and of nothing else."""

    def __init__(self, program: Program) -> None:
        self._base = min(tensor.base_bytes for tensor in program.tensors)
        end = max(tensor.base_bytes + tensor.size_bytes for tensor in program.tensors)
        self._bytes = np.zeros(end - self._base, np.uint8)
        self._tensors = {tensor.name: tensor for tensor in program.tensors}
        for tensor in program.tensors:
            if tensor.values is not None:
                self.elements(tensor)[: tensor.values.size] = tensor.values

    def elements(self, tensor: Tensor) -> Array:
        """Return the tensor's bytes as its elements, by element offset."""
        start = tensor.base_bytes - self._base
        return self._bytes[start : start + tensor.size_bytes].view(DTYPES[tensor.dtype])

    def write(self, name: str, values: Array) -> None:
        """Write a whole tensor; `values` has one dimension per axis of its layout."""
        tensor = self._tensors[name]
        self.elements(tensor)[_grid(tensor, values.shape)] = values.astype(DTYPES[tensor.dtype])

    def read(self, name: str) -> Array:
        """Return a whole tensor, one dimension per axis of its layout."""
        tensor = self._tensors[name]
        shape = tuple(tensor.layout.size(axis) for axis in tensor.layout.axes)
        values: Array = self.elements(tensor)[_grid(tensor, shape)]
        return values


def _grid(tensor: Tensor, shape: tuple[int, ...]) -> Array:
    axes = tensor.layout.axes
    coordinates = np.ix_(*(np.arange(extent) for extent in shape))
    offsets: Array = tensor.layout.offsets(**dict(zip(axes, coordinates, strict=True)))
    return offsets


def run(program: Program, memory: Memory, cores: int) -> None:
    """Execute `program` on `cores` cores, changing `memory`.

    Raises RuntimeError naming a queue and its counter if the program deadlocks, ValueError if a phase deals its tasks
    to another number of cores.
    """
    for phase in program.phases:
        if phase.schedule.dynamic:  # which core runs a task changes no value: deal them round
            shares: list[Any] = [phase.schedule.order[core::cores].tolist() for core in range(cores)]
        else:
            shares = task_lists(phase.schedule, cores)
        for tasks in shares:
            _Core(program, phase, memory).run(tasks)


@cache
def _offsets(buffer: Buffer) -> Array:
    """Return the element offset of every row and column of a block."""
    table: Array = buffer.placement.table()
    return np.ascontiguousarray(table.reshape(buffer.columns, buffer.rows).T)


class _Core:
    def __init__(self, program: Program, phase: Phase, memory: Memory) -> None:
        self._program = program
        self._phase = phase
        self._memory = memory
        self._scratchpad = np.zeros(phase.sram_bytes, np.uint8)
        self._counters = [0] * len(phase.counters)

    def run(self, tasks: list[int]) -> None:
        queues = {name: self._queue(number, tasks) for number, name in enumerate(QUEUES)}
        blocked: dict[str, str] = {}
        while queues:
            for name in list(queues):
                before = list(self._counters)
                reason = next(queues[name], None)
                if reason is None:
                    del queues[name]
                    blocked.clear()
                elif self._counters != before:
                    blocked.clear()
                else:
                    blocked[name] = reason
            if queues and len(blocked) == len(queues):
                waits = "; ".join(f"{name} waits for {reason}" for name, reason in blocked.items())
                raise RuntimeError(f"phase {self._phase.name} deadlocks: {waits}")

    def _queue(self, number: int, tasks: list[int]) -> Iterator[str]:
        """Run instructions; yield what is waited for whenever a counter is not yet there."""
        for instruction, variables in walk(self._phase, number, tasks):
            for counter, value in instruction.waits:
                target = value(variables)
                while self._counters[counter] < target:
                    yield f"{self._phase.counters[counter].name} >= {target}, which is {self._counters[counter]}"
            self._execute(instruction, variables)
            for counter in instruction.signals:
                self._counters[counter] += 1

    def _execute(self, instruction: Instruction, variables: list[int]) -> None:
        places = [(number, slot(variables)) for number, slot in instruction.operands]
        read = {place: self._block(*place) for place in places}  # an operand named twice is one block
        self._compute(instruction, variables, [read[place] for place in places])
        for (number, slot), block in read.items():
            buffer = self._phase.buffers[number]
            if buffer.layout is not None:
                self._elements(number, slot)[_offsets(buffer)] = block

    def _compute(self, instruction: Instruction, variables: list[int], blocks: list[Array]) -> None:
        sizes = [size(variables) for size in instruction.sizes]
        if instruction.op in (Op.LOAD, Op.STORE):
            self._transfer(instruction, variables, blocks[0])
        elif instruction.op is Op.MATMUL:
            m, n, k = sizes
            to, a, b = blocks
            right = b[:n, :k].T if instruction.transpose_b else b[:k, :n]
            wide = np.float64 if to.dtype.kind == "i" else np.float32  # sums of integers are exact
            product = a[:m, :k].astype(wide) @ right.astype(wide)
            if instruction.accumulate is not None and instruction.accumulate(variables):
                product += to[:m, :n]
            to[:m, :n] = product.astype(to.dtype)
        else:
            OPERATIONS[instruction.function].values(blocks, instruction.scalar, *sizes)

    def _block(self, number: int, slot: int) -> Array:
        """Return a block as rows and columns: a view where it is row-major, a copy where it has a layout."""
        buffer = self._phase.buffers[number]
        elements = self._elements(number, slot)
        if buffer.layout is not None:
            return elements[_offsets(buffer)]
        return elements[: buffer.rows * buffer.columns].reshape(buffer.rows, buffer.columns)

    def _elements(self, number: int, slot: int) -> Array:
        buffer = self._phase.buffers[number]
        dtype = DTYPES[buffer.dtype]
        start = buffer.address + slot * buffer.pitch_bytes
        count = buffer.rows * buffer.columns if buffer.layout is None else buffer.layout.cosize
        return self._scratchpad[start : start + count * dtype.itemsize].view(dtype)

    def _transfer(self, instruction: Instruction, variables: list[int], block: Array) -> None:
        """Move between a tensor's region and the block's rows; the region's last axis with many entries is the row."""
        tile = self._phase.tiles[instruction.tile]
        tensor = self._program.tensors[tile["tensor"]]
        decode = self._phase.expression
        starts = [decode(int(e))(variables) for e in tile["start"][: len(tensor.layout.axes)]]
        extents = [decode(int(e))(variables) for e in tile["extent"][: len(tensor.layout.axes)]]
        index = [np.arange(s, s + n) for s, n in zip(starts, extents, strict=True)]
        gone = NONE if tile["page_axis"] == tile["position_axis"] else tile["page_axis"]
        shape = [n for axis, n in enumerate(extents) if axis != gone]
        coordinates: dict[str, Array] = {}
        for dimension, axis in enumerate(a for a in range(len(index)) if a != gone):
            view = index[axis].reshape([-1 if d == dimension else 1 for d in range(len(shape))])
            name = tensor.layout.axes[axis]
            if tile["index"] != NONE and axis == tile["position_axis"]:
                size = tensor.layout.size(name) if gone != NONE else 1
                table = self._memory.elements(self._program.tensors[tile["index"]])
                first = decode(int(tile["index_start"]))(variables)
                page = table[first + view // size].astype(np.int64)
                coordinates[tensor.layout.axes[tile["page_axis"]]] = page
                view = page if gone == NONE else view % size
            coordinates[name] = view
        if 0 in shape:
            return
        offsets = tensor.layout.offsets(**coordinates).reshape(-1, shape[-1])
        rows, columns = offsets.shape
        elements = self._memory.elements(tensor)
        if instruction.op is Op.LOAD:
            block[:rows, :columns] = elements[offsets]
        else:
            elements[offsets] = block[:rows, :columns]
