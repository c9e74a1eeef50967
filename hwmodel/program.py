"""What a machine executes: a program of phases, each a task table and one instruction stream per queue.

A core is a decoupled access-execute machine with four in-order queues (load, store, matrix, vector). For every work
item of its share of the task table each queue runs the same short stream; queues meet only at counters: an instruction
waits until counters have reached values and adds one to counters when it completes. Phases follow one another, with a
barrier over all cores and a launch between them.

Loops stay rolled. Every size, address and slot is an expression: affine in the task's columns, the loop indices and
the *running* indices (iterations of a loop, or tasks, that this queue has begun on this core so far), optionally
clipped to a maximum (ragged tails) or taken modulo (the slot of a multi-buffer). A loop index has a value inside its
loop only; a program that reads it elsewhere is refused when its streams are decoded.
Instructions, expressions, tiles and tasks are integer arrays; a program is written with `hwmodel.assembler` and read
back with `walk`.

Three executors read a program: `functional` computes values, `reference` time; `bounds` a lower bound of the time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property, lru_cache
from typing import Any, Literal

import ml_dtypes
import numpy as np

from hwmodel.limits import MAX_AXES, MAX_LOOPS, MAX_OPERANDS, MAX_SIGNALS, MAX_SIZES, MAX_WAITS
from layouts import Layout, NamedLayout, is_injective
from layouts.shape import size
from layouts.span import loose_span

QUEUES = ("load", "store", "matrix", "vector")
DTYPES: dict[str, np.dtype[Any]] = {
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "fp16": np.dtype(np.float16),
    "fp32": np.dtype(np.float32),
    "fp8_e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "fp8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "e8m0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),  # also two elements of four bits
    "int32": np.dtype(np.int32),
    # What a matrix unit that applies block scales itself makes of e4m3 and of e2m1 elements with theirs: numbers in
    # bf16 for their values, while their rate and what is read of them are those of 8 and 4 bits (`hwmodel.matrix`).
    "fp8_scaled": np.dtype(ml_dtypes.bfloat16),
    "fp4_scaled": np.dtype(ml_dtypes.bfloat16),
}
APPLIED = ("fp8_scaled", "fp4_scaled")
NONE = -1


class Op(IntEnum):
    """Instruction kinds. LOOP and END bracket a hardware loop."""

    LOOP = 0
    END = 1
    LOAD = 2
    STORE = 3
    MATMUL = 4
    VECTOR = 5


# Operands are buffer numbers with a slot expression each; the destination comes first (a store's source for STORE).
# Sizes are expressions: trips of a LOOP; m, n, k of a MATMUL; rows, columns of a VECTOR. NONE marks an unused field.
INSTRUCTION = np.dtype(
    [
        ("op", "i4"),
        ("wait_counter", "i4", MAX_WAITS),
        ("wait_value", "i4", MAX_WAITS),
        ("signal", "i4", MAX_SIGNALS),
        ("buffer", "i4", MAX_OPERANDS),
        ("slot", "i4", MAX_OPERANDS),
        ("size", "i4", MAX_SIZES),
        ("tile", "i4"),  # LOAD, STORE: row of `tiles`
        ("function", "i4"),  # VECTOR: index into `functions`
        ("scalar", "f8"),  # VECTOR: a constant of the operation
        ("transpose_b", "i4"),  # MATMUL: b is stored as [n, k]
        (
            "accumulate",
            "i4",
        ),  # MATMUL: expression; the result is added to the destination where it is not zero
    ]
)
# One rectangular region of a tensor. With an index tensor, the page axis is looked up: position p along the in-page
# axis lies in page index[index_start + p // page_size] at p % page_size. Where the position axis is the page axis, each
# position is looked up: p lies at index[index_start + p].
TILE = np.dtype(
    [
        ("tensor", "i4"),
        ("start", "i4", MAX_AXES),  # expression per axis of the tensor
        ("extent", "i4", MAX_AXES),
        ("index", "i4"),
        ("index_start", "i4"),
        ("page_axis", "i4"),
        ("position_axis", "i4"),
    ]
)

Cause = Literal["memory", "buffer", "dependency"]


Values = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True)
class Deferred:
    """Contents of an index tensor that are made when they are first read, and then kept: `make(*arguments)`, int32.

    Building, comparing and pickling a program need none of them. `make` is a function of a module that gives the same
    values for the same arguments; these can be compared and hashed, and stand for the values in comparisons.
    """

    make: Callable[..., Values]
    arguments: tuple[Any, ...]

    @cached_property
    def values(self) -> Values:
        values = self.make(*self.arguments)
        values.flags.writeable = False
        return values

    def __reduce__(self) -> tuple[type[Deferred], tuple[Any, ...]]:
        return Deferred, (self.make, self.arguments)


@dataclass(frozen=True)
class Tensor:
    """A tensor in memory: a named layout (element offsets) at a byte address.

    `resident` says where its bytes are when the kernel starts: in main memory, "hbm" or "sram", or "cache" for small
    activations that the kernel before has just written and the kernel after reads next, on machines with a shared
    cache. `contents` is what index tensors (page tables) hold, on which addresses depend, or how it is made; int32.
    ValueError for a layout with an offset or with stages, such as swizzles: DMA engines know strides.
    """

    name: str
    layout: NamedLayout
    dtype: str
    base_bytes: int
    resident: Literal["hbm", "sram", "cache"] = "hbm"
    contents: Values | Deferred | None = None

    def __post_init__(self) -> None:
        layout = self.layout.layout
        if layout.offset or layout.stages:
            raise ValueError(f"tensor {self.name}: layout {layout}; allowed are strides, beginning at `base_bytes`")

    @property
    def values(self) -> Values | None:
        """The contents of an index tensor, made if need be; None of any other."""
        return self.contents.values if isinstance(self.contents, Deferred) else self.contents

    @property
    def element_bytes(self) -> int:
        return DTYPES[self.dtype].itemsize

    @property
    def size_bytes(self) -> int:
        return self.layout.cosize * self.element_bytes


@dataclass(frozen=True)
class Buffer:
    """A multi-buffer in the scratchpad: `slots` blocks of `rows x columns` elements, `pitch_bytes` apart.

    `layout` sends (row, column) to the element offset within a block; None is row-major. ValueError for a layout whose
    modes are not rows and columns, or that puts two elements in one place or an element before the block.
    """

    name: str
    rows: int
    columns: int
    dtype: str
    slots: int
    address: int
    pitch_bytes: int
    layout: Layout | None = None

    def __post_init__(self) -> None:
        if self.layout is not None:
            _check_placement(self.name, self.layout, self.rows, self.columns)

    @property
    def element_bytes(self) -> int:
        return DTYPES[self.dtype].itemsize

    @cached_property
    def placement(self) -> Layout:
        """Where (row, column) lies in a block, in elements."""
        return self.layout if self.layout is not None else Layout((self.rows, self.columns), (self.columns, 1))

    @property
    def size_bytes(self) -> int:
        return self.slots * self.pitch_bytes


@lru_cache(maxsize=1024)
def _check_placement(name: str, layout: Layout, rows: int, columns: int) -> None:
    sizes = tuple(map(size, layout.shape)) if isinstance(layout.shape, tuple) else (layout.shape,)
    if sizes != (rows, columns) or layout.axes is not None:
        raise ValueError(f"buffer {name}: layout {layout} is not one of {rows} rows by {columns} columns")
    if not is_injective(layout):
        raise ValueError(f"buffer {name}: layout {layout} puts two elements in one place")
    if loose_span(layout)[0] < 0 and (lowest := int(layout.table().min())) < 0:
        raise ValueError(f"buffer {name}: layout {layout} reaches {lowest}, allowed are offsets from 0")


@dataclass(frozen=True)
class Counter:
    """A counter of one core, and what a queue that waits for it is waiting for."""

    name: str
    cause: Cause


@dataclass(frozen=True)
class Schedule:
    """Which core runs which tasks, in which order.

    `order` lists task numbers; core c runs `order[start[c]:start[c+1]]`. With `dynamic`, `start` is empty and a core
    that becomes free takes the next task of `order`.
    """

    order: np.ndarray[Any, np.dtype[np.int64]]
    start: np.ndarray[Any, np.dtype[np.int64]]

    @property
    def dynamic(self) -> bool:
        return len(self.start) == 0


@dataclass(frozen=True)
class Phase:
    """One kernel: tasks `int64[n, columns]`, expressions `int64[n, 2 + variables]` (maximum, modulo, coefficients)."""

    name: str
    columns: tuple[str, ...]
    tasks: np.ndarray[Any, np.dtype[np.int64]]
    schedule: Schedule
    queues: tuple[np.ndarray[Any, Any], ...]  # one INSTRUCTION array per name in QUEUES
    expressions: np.ndarray[Any, np.dtype[np.int64]]
    tiles: np.ndarray[Any, Any]
    functions: tuple[str, ...]
    buffers: tuple[Buffer, ...]
    counters: tuple[Counter, ...]

    @property
    def sram_bytes(self) -> int:
        """What all buffers span, those that matmuls write among them."""
        return max((b.address + b.size_bytes for b in self.buffers), default=0)

    @cached_property
    def products(self) -> frozenset[int]:
        """The buffers that matmuls write."""
        streams = (stream[stream["op"] == Op.MATMUL] for stream in self.queues)
        return frozenset(int(number) for stream in streams for number in stream["buffer"][:, 0])

    def split_bytes(self, own_accumulators: bool) -> tuple[int, int]:
        """Return what the buffers take of a scratchpad and of accumulators, which hold products if they are own.

        Operands with the scales that the matrix unit applies take nothing: they lie in the buffers they come from.
        """
        within = self.products if own_accumulators else frozenset()
        applied = sum(buffer.size_bytes for buffer in self.buffers if buffer.dtype in APPLIED)
        products = sum(self.buffers[number].size_bytes for number in within)
        if not within and not applied:
            return self.sram_bytes, 0
        return sum(buffer.size_bytes for buffer in self.buffers) - products - applied, products

    def expression(self, number: int) -> Expression:
        """Return expression `number`, ready to be evaluated."""
        return self._decoded_expressions[number]

    @cached_property
    def _decoded_expressions(self) -> list[Expression]:
        return [Expression.from_row(row) for row in self.expressions.tolist()]

    @cached_property
    def decoded(self) -> tuple[tuple[Instruction, ...], ...]:
        """The instruction streams with their expressions, ready to be walked.

        Raises ValueError, naming the instruction, where one reads the index of a loop that it does not stand in.
        """
        check_indices(self)
        expressions = self._decoded_expressions
        return tuple(tuple(Instruction.decode(self, row, expressions) for row in stream) for stream in self.queues)


@dataclass(frozen=True)
class Program:
    """Phases over one set of tensors. `hash` identifies everything that a run can depend on.

    A shared cache is empty when the program begins, but for tensors that reside in it. With `earlier_stores` it is full
    of other data, as in the middle of a long stream of loads and stores: that part of it, 0 to 1, is not yet written to
    main memory.
    """

    name: str
    tensors: tuple[Tensor, ...]
    phases: tuple[Phase, ...]
    earlier_stores: float | None = None

    @cached_property
    def hash(self) -> str:
        digest = hashlib.sha256()
        if self.earlier_stores is not None:
            digest.update(repr(self.earlier_stores).encode())
        for tensor in self.tensors:
            digest.update(repr((tensor.name, tensor.layout, tensor.dtype, tensor.base_bytes, tensor.resident)).encode())
            if tensor.values is not None:
                digest.update(tensor.values.tobytes())
        for phase in self.phases:
            buffers = [(replace(buffer, layout=None), buffer.placement.key) for buffer in phase.buffers]
            digest.update(repr((phase.columns, phase.functions, buffers, phase.counters)).encode())
            arrays = (
                phase.tasks,
                phase.schedule.order,
                phase.schedule.start,
                *phase.queues,
                phase.expressions,
            )
            for array in (*arrays, phase.tiles):
                digest.update(repr((array.shape, str(array.dtype))).encode() + array.tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Expression:
    """An affine form over a queue's variables, clipped to `maximum` or taken modulo `modulo` where these are set."""

    constant: int
    terms: tuple[tuple[int, int], ...]  # (variable, coefficient)
    maximum: int
    modulo: int

    @staticmethod
    def from_row(row: list[int]) -> Expression:
        terms = tuple((i, c) for i, c in enumerate(row[3:], start=1) if c)
        return Expression(row[2], terms, row[0], row[1])

    def __call__(self, variables: list[int]) -> int:
        value = self.constant
        for i, coefficient in self.terms:
            value += coefficient * variables[i]
        if self.modulo:
            return value % self.modulo
        return min(value, self.maximum)


@dataclass(frozen=True, slots=True)
class Instruction:
    """A decoded instruction; see INSTRUCTION for what the fields mean."""

    op: Op
    waits: tuple[tuple[int, Expression], ...]
    signals: tuple[int, ...]
    operands: tuple[tuple[int, Expression], ...]
    sizes: tuple[Expression, ...]
    tile: int
    function: str
    scalar: float
    transpose_b: bool
    accumulate: Expression | None
    loop: int  # LOOP, END: which loop of the queue
    partner: int  # END: position of its LOOP

    @staticmethod
    def decode(phase: Phase, row: Any, expressions: list[Expression]) -> Instruction:
        def pairs(numbers: Any, values: Any) -> tuple[tuple[int, Expression], ...]:
            return tuple((int(n), expressions[v]) for n, v in zip(numbers, values, strict=True) if n != NONE)

        op = Op(int(row["op"]))
        return Instruction(
            op=op,
            waits=pairs(row["wait_counter"], row["wait_value"]),
            signals=tuple(int(s) for s in row["signal"] if s != NONE),
            operands=pairs(row["buffer"], row["slot"]),
            sizes=tuple(expressions[s] for s in row["size"] if s != NONE),
            tile=int(row["tile"]),
            function=phase.functions[row["function"]] if op is Op.VECTOR else "",
            scalar=float(row["scalar"]),
            transpose_b=bool(row["transpose_b"] == 1),
            accumulate=expressions[row["accumulate"]] if row["accumulate"] != NONE else None,
            loop=int(row["tile"]) if op in (Op.LOOP, Op.END) else NONE,
            partner=int(row["function"]) if op is Op.END else NONE,
        )


def check_indices(phase: Phase) -> None:
    """Raise ValueError for an instruction that reads a loop index which has no value where it stands."""
    for name, stream in zip(QUEUES, phase.queues, strict=True):
        inside: set[int] = set()
        for position, row in enumerate(stream):
            op = Op(int(row["op"]))
            outside = _indices_read(phase, row) - inside
            if outside:
                raise ValueError(
                    f"phase {phase.name}: queue {name}, instruction {position} ({op.name}) reads the index of loop "
                    f"{min(outside)} outside that loop"
                )
            if op is Op.LOOP:
                inside.add(int(row["tile"]))
            elif op is Op.END:
                inside.discard(int(row["tile"]))


def _indices_read(phase: Phase, row: Any) -> set[int]:
    """Return the loops of its queue whose index an INSTRUCTION row reads, in its own expressions or in its tile's."""
    numbers = [*row["wait_value"], *row["slot"], *row["size"], row["accumulate"]]
    if row["op"] in (Op.LOAD, Op.STORE):
        tile = phase.tiles[row["tile"]]
        numbers += [*tile["start"], *tile["extent"], tile["index_start"]]
    read = {variable for n in numbers if n != NONE for variable, _ in phase.expression(n).terms}
    loops = [divmod(variable - 2 - len(phase.columns), 2) for variable in read]  # loop, is its running index
    return {loop for loop, is_running in loops if loop >= 0 and not is_running}


def variable_count(columns: int) -> int:
    """Return the length of a queue's variable vector: one, task columns, tasks begun, (index, running) per loop."""
    return 2 + columns + 2 * MAX_LOOPS


def walk(phase: Phase, queue: int, tasks: Iterable[int]) -> Iterator[tuple[Instruction, list[int]]]:
    """Yield the instructions that `queue` of one core executes for `tasks`, with its variables at that moment.

    The variable list is reused: evaluate what is needed before advancing.
    """
    stream = phase.decoded[queue]
    columns = len(phase.columns)
    first_loop = 2 + columns
    variables = [1] + [0] * (variable_count(columns) - 1)
    if not stream:
        return
    for begun, task in enumerate(tasks):
        variables[1 : 1 + columns] = phase.tasks[task].tolist()
        variables[1 + columns] = begun
        position = 0
        remaining = [0] * MAX_LOOPS
        while position < len(stream):
            instruction = stream[position]
            index = first_loop + 2 * instruction.loop
            if instruction.op is Op.LOOP:
                trips = instruction.sizes[0](variables)
                remaining[instruction.loop] = trips
                variables[index] = 0
                if trips <= 0:
                    while not (stream[position].op is Op.END and stream[position].loop == instruction.loop):
                        position += 1
            elif instruction.op is Op.END:
                variables[index] += 1
                variables[index + 1] += 1
                remaining[instruction.loop] -= 1
                if remaining[instruction.loop] > 0:
                    position = instruction.partner
            else:
                yield instruction, variables
            position += 1


def task_lists(schedule: Schedule, cores: int) -> list[Iterable[int]]:
    """Return the tasks of every core of a static schedule. Raises ValueError if it deals to another number of cores."""
    if len(schedule.start) != cores + 1:
        raise ValueError(f"the tasks are dealt to {len(schedule.start) - 1} cores, and the machine has {cores}")
    order, start = schedule.order.tolist(), schedule.start.tolist()
    return [order[start[c] : start[c + 1]] for c in range(cores)]
