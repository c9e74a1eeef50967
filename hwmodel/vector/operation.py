"""What every vector operation is made of: its cost, the parts of its operands that it touches, and its values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hwmodel.description import VectorSpec
from hwmodel.program import Buffer

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Work:
    """Counts of fp32 operations by class."""

    alu: int = 0
    exp: int = 0
    reduce: int = 0
    convert: int = 0

    def cycles(self, unit: VectorSpec) -> int:
        lanes = (
            (self.alu, unit.alu),
            (self.exp, unit.exp),
            (self.reduce, unit.reduce),
            (self.convert, unit.convert),
        )
        return max(-(-count // width) for count, width in lanes)


def rounded(buffers: Sequence[Buffer], count: int) -> int:
    """Return the conversions of `count` results to the type of the first operand: none to fp32, in which they are."""
    return 0 if buffers and buffers[0].dtype == "fp32" else count


class Touch(NamedTuple):
    """The first rows and columns of an operand that an operation reads, writes or both."""

    operand: int
    rows: int
    columns: int
    reads: bool
    writes: bool


def read(operand: int, rows: int, columns: int) -> Touch:
    return Touch(operand, rows, columns, True, False)


def write(operand: int, rows: int, columns: int) -> Touch:
    return Touch(operand, rows, columns, False, True)


def update(operand: int, rows: int, columns: int) -> Touch:
    return Touch(operand, rows, columns, True, True)


@dataclass(frozen=True)
class Operation:
    """A vector operation: what it counts, what it touches, and its values, which it writes into the operand blocks.

    `costed`: how many of its first sizes tell what it counts and touches, where the others tell only its values, as
    the position of a tile in its row does: they differ from one execution to the next, and its cost does not. `counts`:
    how many sizes it may have then; else `work` tells.
    """

    work: Callable[..., Work]  # (operand buffers, *sizes), of which those behind `costed` may be left out
    touches: Callable[..., tuple[Touch, ...]]  # likewise
    values: Callable[..., None]  # (operand blocks, scalar of the instruction, *sizes)
    costed: int | None = None
    counts: tuple[int, ...] = ()
