"""Instruction streams to edit: a phase's arrays read into lines, and lines written back as a phase.

For passes that change compiled phases, such as `fusion`. A line is an instruction or a loop with its body; its
expressions are rows over the variables of the phase that is to be written: `Space` says which variable each one of the
phase that is read becomes. Nothing is checked here but what the arrays have room for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hwmodel.assembler import UNCLIPPED
from hwmodel.limits import MAX_LOOPS
from hwmodel.program import (
    INSTRUCTION,
    NONE,
    QUEUES,
    TILE,
    Buffer,
    Counter,
    Op,
    Phase,
    Schedule,
    check_indices,
    variable_count,
)

LOAD, STORE = QUEUES.index("load"), QUEUES.index("store")
Row = tuple[int, ...]  # of `Phase.expressions`: maximum, modulo, coefficients


@dataclass(frozen=True)
class TileLine:
    """A region of a tensor: its numbers, and the expressions by axis."""

    tensor: int
    index: int
    page_axis: int
    position_axis: int
    start: tuple[Row | None, ...]
    extent: tuple[Row | None, ...]
    index_start: Row


@dataclass
class Line:
    """An instruction of a stream, or a loop with the lines of its body; `position`: where it stood in its phase."""

    position: int
    op: Op
    waits: list[tuple[int, Row]]
    signals: list[int]
    operands: list[tuple[int, Row]]
    sizes: list[Row]
    tile: TileLine | None = None
    function: str = ""
    scalar: float = 0.0
    transpose_b: int = NONE
    accumulate: Row | None = None
    loop: int = NONE
    body: list[Line] = field(default_factory=list)


@dataclass(frozen=True)
class Space:
    """Where the variables of one queue go: `columns` by the old number, of `width` new ones; `loops` likewise."""

    columns: tuple[int, ...]
    width: int
    loops: Mapping[int, int]

    def row(self, old: Sequence[int]) -> Row:
        """Return an expression over the new variables."""
        new = [0] * (2 + variable_count(self.width))
        new[:3] = old[:3]
        for number, coefficient in enumerate(old[3:]):
            variable = self._variable(number) if coefficient else None
            if variable is not None:
                new[3 + variable] += coefficient
        return tuple(int(value) for value in new)

    def _variable(self, number: int) -> int | None:
        """Return the new number of a variable; None for one of a loop that the queue does not have, which stays 0."""
        count = len(self.columns)
        if number < count:
            return self.columns[number]
        if number == count:  # tasks begun
            return self.width
        loop, which = divmod(number - count - 1, 2)
        return self.width + 1 + 2 * self.loops[loop] + which if loop in self.loops else None


def shifted(row: Row, by: int) -> Row:
    """Return the number of a slot before it is taken modulo the slots, plus a constant."""
    return (UNCLIPPED, 0, row[2] + by, *row[3:])


def instructions(lines: Sequence[Line]) -> Iterator[Line]:
    """Yield the lines that are no loops, those in bodies too."""
    for line in lines:
        if line.op is Op.LOOP:
            yield from instructions(line.body)
        else:
            yield line


def renumbered(phase: Phase, by: int) -> Phase:
    """Return a phase over tensors whose numbers are higher `by` so many."""
    tiles = phase.tiles.copy()
    tiles["tensor"] += by
    tiles["index"][tiles["index"] != NONE] += by
    return replace(phase, tiles=tiles)


def touched(phase: Phase, queue: int) -> set[int]:
    """Return the tensors of which a phase's load queue or its store queue moves tiles.

    Index tensors are looked up while tiles are moved; they count as loaded.
    """
    moves = (instruction for instruction in phase.decoded[queue] if instruction.op in (Op.LOAD, Op.STORE))
    found = {int(phase.tiles["tensor"][instruction.tile]) for instruction in moves}
    if queue == LOAD:
        found.update(number for number in phase.tiles["index"].tolist() if number != NONE)
    return found


def read(phase: Phase, queue: int, space: Space) -> list[Line]:
    """Return the lines of a queue of a phase, in the variables of another."""
    expressions = phase.expressions.tolist()
    top: list[Line] = []
    stack = [top]
    for position, row in enumerate(phase.queues[queue]):
        if row["op"] == Op.END:
            stack.pop()
            continue
        line = _line(phase, position, row, [space.row, expressions])
        stack[-1].append(line)
        if line.op is Op.LOOP:
            line.loop = space.loops[int(row["tile"])]
            stack.append(line.body)
    return top


def _line(phase: Phase, position: int, row: Any, reader: list[Any]) -> Line:
    to_new, expressions = reader

    def expression(number: Any) -> Row:
        found: Row = to_new(expressions[number])
        return found

    def pairs(numbers: Any, values: Any) -> list[tuple[int, Row]]:
        return [(int(n), expression(v)) for n, v in zip(numbers, values, strict=True) if n != NONE]

    op = Op(int(row["op"]))
    tile = None
    if op in (Op.LOAD, Op.STORE):
        old = phase.tiles[row["tile"]]
        start, extent = (tuple(None if e == NONE else expression(e) for e in old[f]) for f in ("start", "extent"))
        tensor, index, page, position_axis = (
            int(old[name]) for name in ("tensor", "index", "page_axis", "position_axis")
        )
        tile = TileLine(tensor, index, page, position_axis, start, extent, expression(old["index_start"]))
    return Line(
        position,
        op,
        pairs(row["wait_counter"], row["wait_value"]),
        [int(s) for s in row["signal"] if s != NONE],
        pairs(row["buffer"], row["slot"]),
        [expression(s) for s in row["size"] if s != NONE],
        tile,
        phase.functions[row["function"]] if op is Op.VECTOR else "",
        float(row["scalar"]),
        int(row["transpose_b"]),
        None if row["accumulate"] == NONE else expression(row["accumulate"]),
    )


class _Writer:
    def __init__(self) -> None:
        self.expressions: dict[Row, int] = {}
        self.tiles: list[Any] = []
        self.functions: list[str] = []

    def expression(self, row: Row) -> int:
        return self.expressions.setdefault(row, len(self.expressions))

    def stream(self, lines: Sequence[Line], rows: list[Any]) -> list[Any]:
        for line in lines:
            position = len(rows)
            rows.append(self._row(line))
            if line.op is Op.LOOP:
                rows[-1]["tile"] = line.loop
                self.stream(line.body, rows)
                rows.append(_empty(Op.END))
                rows[-1]["tile"], rows[-1]["function"] = line.loop, position
        return rows

    def _row(self, line: Line) -> Any:
        row = _empty(line.op)
        for names, pairs in ((("wait_counter", "wait_value"), line.waits), (("buffer", "slot"), line.operands)):
            for i, (number, value) in enumerate(pairs):
                row[names[0]][i], row[names[1]][i] = number, self.expression(value)
        row["signal"][: len(line.signals)] = line.signals
        row["size"][: len(line.sizes)] = [self.expression(size) for size in line.sizes]
        row["scalar"], row["transpose_b"] = line.scalar, line.transpose_b
        if line.tile is not None:
            row["tile"] = self._tile(line.tile)
        if line.function:
            if line.function not in self.functions:
                self.functions.append(line.function)
            row["function"] = self.functions.index(line.function)
        if line.accumulate is not None:
            row["accumulate"] = self.expression(line.accumulate)
        return row

    def _tile(self, tile: TileLine) -> int:
        row = np.zeros(1, TILE)[0]
        for name in ("tensor", "index", "page_axis", "position_axis"):
            row[name] = getattr(tile, name)
        for name in ("start", "extent"):
            row[name] = [NONE if e is None else self.expression(e) for e in getattr(tile, name)]
        row["index_start"] = self.expression(tile.index_start)
        self.tiles.append(row)
        return len(self.tiles) - 1


def _empty(op: Op) -> Any:
    row = np.zeros(1, INSTRUCTION)[0]
    for name in ("wait_counter", "wait_value", "signal", "buffer", "slot", "size"):
        row[name] = NONE
    for name in ("tile", "function", "transpose_b", "accumulate"):
        row[name] = NONE
    row["op"] = op
    return row


def write(
    name: str,
    columns: tuple[str, ...],
    tasks: np.ndarray[Any, np.dtype[np.int64]],
    schedule: Schedule,
    streams: Sequence[Sequence[Line]],
    buffers: tuple[Buffer, ...],
    counters: tuple[Counter, ...],
) -> Phase:
    """Return the phase of these streams, one per queue.

    Raises ValueError where an instruction has more waits or signals, or a queue more loops, than there is room for.
    """
    for lines in streams:
        for line in instructions(lines):
            if max(len(line.waits), len(line.signals)) > INSTRUCTION["signal"].shape[0]:
                raise ValueError(f"phase {name}: an instruction would wait for, or signal, more than 4 counters")
    writer = _Writer()
    queues = tuple(np.array(writer.stream(lines, []), INSTRUCTION) for lines in streams)
    for queue in queues:
        if len({int(row["tile"]) for row in queue if row["op"] == Op.LOOP} - set(range(MAX_LOOPS))):
            raise ValueError(f"phase {name}: a queue would have more than {MAX_LOOPS} loops")
    table = np.array(list(writer.expressions), np.int64).reshape(len(writer.expressions), -1)
    tiles, functions = np.array(writer.tiles, TILE), tuple(writer.functions)
    phase = Phase(name, columns, tasks, schedule, queues, table, tiles, functions, buffers, counters)
    check_indices(phase)
    return phase
