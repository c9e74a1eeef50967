"""What a MATMUL or a VECTOR instruction takes: its unit's own time, and its accesses to the scratchpad.

Where the shape of an instruction meets the layouts of its buffers. `reference` runs on these costs and `bounds` adds
them up, so both know the same machine. Buffers that are the destination of a matmul lie in the accumulators where the
matrix unit has its own: neither unit's accesses to them reach the scratchpad.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from hwmodel import matrix
from hwmodel.machine import Machine
from hwmodel.program import Expression, Instruction, Op, Phase
from hwmodel.sram_access import Cost, row_lines
from hwmodel.vector import OPERATIONS, costed


class UnitCost(NamedTuple):
    """`useful_fs` without any conflict, `sram_fs` the wavefronts alone; the accesses read and written behind them."""

    useful_fs: int
    sram_fs: int
    read: Cost
    written: Cost

    @property
    def alone_fs(self) -> int:
        """The duration where nobody else uses the scratchpad."""
        return max(self.useful_fs, self.sram_fs)


class Operands:
    """The costs of the compute instructions of one phase; each distinct set of sizes is worked out once."""

    def __init__(self, machine: Machine, phase: Phase) -> None:
        self._machine = machine
        self._phase = phase
        self._known: dict[tuple[int, tuple[int, ...]], UnitCost] = {}
        own = machine.spec.cores.matrix.accumulators == "own"
        self._apart = phase.products if own else frozenset()
        self._line_bytes = machine.sram_line_bytes
        self._core_fs = cache(machine.core_fs)

    def adds(self, instruction: Instruction) -> Expression | None:
        """Return what is not zero where an execution reads its destination to add to it; None where none ever does.

        Sums in accumulators of the matrix unit's own are not read from the scratchpad.
        """
        return None if instruction.operands[0][0] in self._apart else instruction.accumulate

    def executed(self, instruction: Instruction, variables: list[int]) -> UnitCost:
        """Return the cost of an instruction of the phase that is executed with these variables."""
        sizes = [size(variables) for size in costed(instruction)]
        if (adds := self.adds(instruction)) is not None:
            sizes.append(int(adds(variables) != 0))
        return self.cost(instruction, tuple(sizes))

    def cost(self, instruction: Instruction, sizes: tuple[int, ...]) -> UnitCost:
        """Return the cost of an instruction of the phase with these sizes; a last 1 says of a matmul that it `adds`.

        Raises ValueError naming the phase and the buffer if it uses more of a block than there is.
        """
        key = id(instruction), sizes
        found = self._known.get(key)
        if found is None:
            try:
                found = (self._matmul if instruction.op is Op.MATMUL else self._vector)(instruction, sizes)
            except ValueError as error:
                raise ValueError(f"phase {self._phase.name}: {error}") from None
            self._known[key] = found
        return found

    def _matmul(self, instruction: Instruction, sizes: tuple[int, ...]) -> UnitCost:
        unit, pad = self._machine.spec.cores.matrix, self._machine.scratchpad
        m, n, k, *adds = sizes
        to, a, b = (number for number, _ in instruction.operands)
        left, right = self._phase.buffers[a], self._phase.buffers[b]
        read = matrix.reads(unit, pad, left, 1, m, k, unit.m)
        read = read.plus(matrix.reads(unit, pad, right, int(instruction.transpose_b), n, k, unit.n))
        written = self._lines(to, m, n, True)
        if any(adds):
            read = read.plus(self._lines(to, m, n, False))
        wider = max(left, right, key=lambda buffer: buffer.element_bytes)
        return self._together(matrix.cycles(unit, m, n, k, wider.dtype), read, written)

    def _vector(self, instruction: Instruction, sizes: tuple[int, ...]) -> UnitCost:
        operation = OPERATIONS[instruction.function]
        numbers = [number for number, _ in instruction.operands]
        buffers = [self._phase.buffers[number] for number in numbers]
        read = written = Cost()
        for touch in operation.touches(buffers, *sizes):
            if touch.reads:
                read = read.plus(self._lines(numbers[touch.operand], touch.rows, touch.columns, False))
            if touch.writes:
                written = written.plus(self._lines(numbers[touch.operand], touch.rows, touch.columns, True))
        cycles = operation.work(buffers, *sizes).cycles(self._machine.spec.cores.vector)
        return self._together(cycles, read, written)

    def _lines(self, number: int, rows: int, columns: int, write: bool) -> Cost:
        if number in self._apart:
            return Cost()
        return row_lines(self._machine.scratchpad, self._phase.buffers[number], rows, columns, self._line_bytes, write)

    def _together(self, cycles: int, read: Cost, written: Cost) -> UnitCost:
        machine = self._machine
        useful = max(self._core_fs(cycles), machine.sram_fs(read.phases + written.phases))
        return UnitCost(useful, machine.sram_fs(read.wavefronts + written.wavefronts), read, written)
