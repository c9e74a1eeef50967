"""Writing programs: the one place that turns readable instructions into the arrays of `hwmodel.program`.

A `PhaseAssembler` is asked for buffers, counters and task columns, then each queue's stream is written with the
methods `load`, `store`, `matmul`, `vector` and the context manager `loop`. Amounts are `Affine` expressions: start from
integers, `column(...)`, a loop's `index` or `running`, and combine with + - * by integers; `clip` and `cyclic` close an
expression. Sizes, extents and trip counts must not use running indices, and an index belongs inside its loop. Nothing
is executed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hwmodel.limits import MAX_AXES, MAX_LOOPS
from hwmodel.program import (
    DTYPES,
    INSTRUCTION,
    NONE,
    QUEUES,
    TILE,
    Buffer,
    Cause,
    Counter,
    Op,
    Phase,
    Schedule,
    Tensor,
    check_indices,
    variable_count,
)
from layouts import Layout
from layouts.notation import nearest_first

UNCLIPPED = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Affine:
    """constant + sum of coefficient * variable, optionally clipped to a maximum or taken modulo."""

    coefficients: tuple[tuple[int, int], ...] = ()  # (variable, coefficient), sorted by variable; variable 0 is one
    maximum: int = UNCLIPPED
    modulo: int = 0

    @staticmethod
    def of(value: Affine | int) -> Affine:
        return value if isinstance(value, Affine) else Affine(((0, int(value)),))

    def _open(self) -> Affine:
        if self.maximum != UNCLIPPED or self.modulo:
            raise ValueError("a clipped or cyclic expression takes no further arithmetic")
        return self

    def __add__(self, other: Affine | int) -> Affine:
        total = dict(self._open().coefficients)
        for variable, coefficient in Affine.of(other)._open().coefficients:
            total[variable] = total.get(variable, 0) + coefficient
        return Affine(tuple(sorted(total.items())))

    def __mul__(self, factor: int) -> Affine:
        return Affine(tuple((v, c * factor) for v, c in self._open().coefficients))

    def __sub__(self, other: Affine | int) -> Affine:
        return self + Affine.of(other) * -1

    def __rsub__(self, other: int) -> Affine:
        return Affine.of(other) - self

    __radd__ = __add__
    __rmul__ = __mul__

    def clip(self, maximum: int) -> Affine:
        return replace(self._open(), maximum=maximum)

    def cyclic(self, modulo: int) -> Affine:
        return replace(self._open(), modulo=modulo)


@dataclass(frozen=True)
class Loop:
    """The variables of a hardware loop: its index, and the iterations this queue has begun on this core so far."""

    index: Affine
    running: Affine


@dataclass(frozen=True)
class Slot:
    """A block of a multi-buffer: the block number is taken modulo the number of slots."""

    buffer: int
    number: Affine


@dataclass(frozen=True)
class Region:
    """A rectangular region of a tensor: axis -> (start, extent).

    With `page_table`, the region's `position` axis counts positions of a sequence that lies in pages:
    page = page_table[first_page + position // page size], and the page axis takes no entry. Where both are one axis,
    each position along it is looked up: a gather by tokens.
    """

    tensor: int
    axes: Mapping[str, tuple[Affine | int, Affine | int]]
    page_table: int = NONE
    first_page: Affine | int = 0
    page_axis: str = ""
    position_axis: str = ""


Wait = tuple[int, Affine | int]


@dataclass
class PhaseAssembler:
    """Collects one phase. `tensors` are the program's; `columns` name the task table's columns."""

    name: str
    tensors: Sequence[Tensor]
    columns: tuple[str, ...]
    buffers: list[Buffer] = field(default_factory=list)
    counters: list[Counter] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    _streams: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in QUEUES})
    _loops: dict[str, int] = field(default_factory=lambda: dict.fromkeys(QUEUES, 0))
    _expressions: dict[Affine, int] = field(default_factory=dict)
    _tiles: list[Any] = field(default_factory=list)

    def column(self, name: str) -> Affine:
        """Return the value of a task column. Raises ValueError for an unknown one."""
        if name not in self.columns:
            known = nearest_first(name, self.columns)
            raise ValueError(f"phase {self.name}: unknown task column {name!r}; known: {known}")
        return Affine(((1 + self.columns.index(name), 1),))

    @property
    def begun(self) -> Affine:
        """Return how many tasks this queue has begun on this core before the current one."""
        return Affine(((1 + len(self.columns), 1),))

    def running(self, loop: int) -> Affine:
        """Return the running index of a queue's loop, also for use before and after that loop."""
        return Affine(((2 + len(self.columns) + 2 * loop + 1, 1),))

    def counter(self, name: str, cause: Cause) -> int:
        self.counters.append(Counter(name, cause))
        return len(self.counters) - 1

    def add_buffers(self, buffers: Sequence[Buffer]) -> tuple[int, ...]:
        first = len(self.buffers)
        self.buffers += buffers
        return tuple(range(first, len(self.buffers)))

    @contextmanager
    def loop(self, queue: str, trips: Affine | int) -> Iterator[Loop]:
        """Write a hardware loop of `queue`; its body is what is written inside the `with` block."""
        number = self._loops[queue]
        if number >= MAX_LOOPS:
            raise ValueError(f"phase {self.name}: queue {queue} has more than {MAX_LOOPS} loops")
        self._loops[queue] += 1
        stream = self._streams[queue]
        position = len(stream)
        self._emit(queue, Op.LOOP, size=(trips,), tile=number)
        yield Loop(Affine(((2 + len(self.columns) + 2 * number, 1),)), self.running(number))
        self._emit(queue, Op.END, tile=number, function=position)

    def load(self, to: Slot, region: Region, wait: Sequence[Wait] = (), signal: Sequence[int] = ()) -> None:
        self._emit("load", Op.LOAD, wait, signal, (to,), tile=self._tile(region))

    def store(self, source: Slot, region: Region, wait: Sequence[Wait] = (), signal: Sequence[int] = ()) -> None:
        self._emit("store", Op.STORE, wait, signal, (source,), tile=self._tile(region))

    def matmul(
        self,
        to: Slot,
        a: Slot,
        b: Slot,
        mnk: tuple[Affine | int, Affine | int, Affine | int],
        *,
        transpose_b: bool = False,
        accumulate: Affine | int = 0,
        wait: Sequence[Wait] = (),
        signal: Sequence[int] = (),
    ) -> None:
        """Write to[m, n] (+)= a[m, k] @ b[k, n], or @ b[n, k]^T with `transpose_b`."""
        self._emit(
            "matrix",
            Op.MATMUL,
            wait,
            signal,
            (to, a, b),
            size=mnk,
            transpose_b=int(transpose_b),
            accumulate=self._expression(accumulate),
        )

    def vector(
        self,
        function: str,
        operands: Sequence[Slot],
        size: Sequence[Affine | int],
        *,
        scalar: float = 0.0,
        wait: Sequence[Wait] = (),
        signal: Sequence[int] = (),
    ) -> None:
        """Write a named vector operation of `hwmodel.vector` over buffers; `size` as that operation documents."""
        if function not in self.functions:
            self.functions.append(function)
        number = self.functions.index(function)
        self._emit(
            "vector",
            Op.VECTOR,
            wait,
            signal,
            tuple(operands),
            size=tuple(size),
            function=number,
            scalar=scalar,
        )

    def finish(self, tasks: np.ndarray[Any, Any], schedule: Schedule) -> Phase:
        """Return the phase over `tasks` (int64[n, columns]).

        Raises ValueError for tasks of another shape, and for a loop index that is read outside its loop.
        """
        if tasks.shape != (len(tasks), len(self.columns)):
            raise ValueError(f"phase {self.name}: tasks have shape {tasks.shape}, columns are {self.columns}")
        table = np.zeros((len(self._expressions), 2 + variable_count(len(self.columns))), np.int64)
        for expression, row in self._expressions.items():
            table[row, :2] = expression.maximum, expression.modulo
            for variable, coefficient in expression.coefficients:
                table[row, 2 + variable] = coefficient
        phase = Phase(
            self.name,
            self.columns,
            np.ascontiguousarray(tasks, np.int64),
            schedule,
            tuple(np.array(self._streams[name], INSTRUCTION) for name in QUEUES),
            table,
            np.array(self._tiles, TILE),
            tuple(self.functions),
            tuple(self.buffers),
            tuple(self.counters),
        )
        check_indices(phase)
        return phase

    def _expression(self, value: Affine | int) -> int:
        return self._expressions.setdefault(Affine.of(value), len(self._expressions))

    def _tile(self, region: Region) -> int:
        tensor = self.tensors[region.tensor]
        names = tensor.layout.axes
        unknown = set(region.axes) - set(names)
        if unknown or len(names) > MAX_AXES:
            raise ValueError(f"phase {self.name}: tensor {tensor.name} has axes {names}, not {sorted(unknown)}")
        row = np.zeros(1, TILE)[0]
        row["tensor"], row["index"] = region.tensor, region.page_table
        row["start"], row["extent"] = NONE, NONE
        for axis, name in enumerate(names):
            start, extent = region.axes.get(name, (0, 1 if name == region.page_axis else tensor.layout.size(name)))
            row["start"][axis], row["extent"][axis] = self._expression(start), self._expression(extent)
        row["index_start"] = self._expression(region.first_page)
        row["page_axis"] = names.index(region.page_axis) if region.page_axis else NONE
        row["position_axis"] = names.index(region.position_axis) if region.position_axis else NONE
        self._tiles.append(row)
        return len(self._tiles) - 1

    def _emit(
        self,
        queue: str,
        op: Op,
        wait: Sequence[Wait] = (),
        signal: Sequence[int] = (),
        operands: Sequence[Slot] = (),
        *,
        size: Sequence[Affine | int] = (),
        tile: int = NONE,
        function: int = NONE,
        scalar: float = 0.0,
        transpose_b: int = NONE,
        accumulate: int = NONE,
    ) -> None:
        row = np.zeros(1, INSTRUCTION)[0]
        for name in ("wait_counter", "wait_value", "signal", "buffer", "slot", "size"):
            row[name] = NONE
        row["op"], row["tile"], row["function"] = op, tile, function
        row["scalar"], row["transpose_b"], row["accumulate"] = scalar, transpose_b, accumulate
        for i, (counter, value) in enumerate(wait):
            row["wait_counter"][i], row["wait_value"][i] = counter, self._expression(value)
        row["signal"][: len(signal)] = signal
        for i, slot in enumerate(operands):
            slots = self.buffers[slot.buffer].slots
            row["buffer"][i], row["slot"][i] = slot.buffer, self._expression(slot.number.cyclic(slots))
        row["size"][: len(size)] = [self._expression(value) for value in size]
        self._streams[queue].append(row)


def block(name: str, rows: int, columns: int, dtype: str, slots: int = 1, layout: Layout | None = None) -> Buffer:
    """Return a buffer request without an address; an allocator places it. Without `layout` it is row-major."""
    elements = rows * columns if layout is None else layout.cosize
    return Buffer(name, rows, columns, dtype, slots, NONE, elements * DTYPES[dtype].itemsize, layout)
