"""The stage that looks up: page tables, offsets of experts, orders of rows.

Read by a chain of `layouts.layout` like any other stage; it has no strides, so no closed form passes through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layouts.shape import as_int
from layouts.stride import Axis, axis_order


@dataclass(frozen=True, init=False, repr=False)
class Table:
    """A stage that looks its value up: a page table, the offsets of experts, the order of rows.

    With `axis` it reads and replaces one coordinate, and leaves the others alone.  Values are 64-bit integers;
    an index outside the table is an error.
    """

    values: tuple[int, ...]
    axis: int | None

    def __init__(self, values: ArrayLike, axis: int | None = None) -> None:
        array = np.asarray(values)
        if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
            raise ValueError("table: a non-empty list of integers is needed")
        if axis is not None and not as_int(axis, "table axis") >= 0:
            raise ValueError(f"table axis {axis}: axes are numbered from 0")
        for value in (int(array.min()), int(array.max())):
            as_int(value, "table")
        object.__setattr__(self, "values", tuple(array.tolist()))
        object.__setattr__(self, "axis", axis)

    def __repr__(self) -> str:
        return f"Table({list(self.values)!r}{'' if self.axis is None else f', {self.axis}'})"

    def __str__(self) -> str:
        return self.stage_text()

    def stage_text(self) -> str:
        """Return the text of this stage in a chain: ``[5,2,7]`` or ``[5,2,7]@1``."""
        return f"[{','.join(map(str, self.values))}]" + ("" if self.axis is None else f"@{self.axis}")

    def reads(self, axes: tuple[Axis, ...] | None) -> tuple[Axis, ...] | None:
        """Return the axes of the result; ValueError where the value read is not there."""
        if (axes is None) != (self.axis is None):
            raise ValueError(f"stage {self._short()}: cannot read a result with the axes {axes}")
        if axes is None or self.axis is None or self.axis in axes:
            return axes
        return tuple(sorted([*axes, self.axis], key=axis_order))  # a coordinate that is always 0

    def follow(self, value: Any) -> Any:
        """Return the table's value; ValueError for an index outside."""
        if isinstance(value, dict):
            return value | {self.axis: self._look_up(value.get(self.axis, next(iter(value.values())) * 0))}
        return self._look_up(value)

    def _look_up(self, index: Any) -> Any:
        low, high = (int(np.min(index)), int(np.max(index))) if isinstance(index, np.ndarray) else (index, index)
        if low < 0 or high >= len(self.values):
            wrong = low if low < 0 else high
            raise ValueError(f"stage {self._short()}: index {wrong} is outside 0..{len(self.values) - 1}")
        return self._array[index] if isinstance(index, np.ndarray) else self.values[index]

    @cached_property
    def _array(self) -> NDArray[np.int64]:
        return np.array(self.values, dtype=np.int64)

    def _short(self) -> str:
        text = self.stage_text()
        return text if len(text) <= 60 else text[:57] + "..."
