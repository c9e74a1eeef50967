"""Strides: what one step along a mode adds to the value of a layout.

A stride is an element of a module.  An `int` adds; an `X` adds without carries, over F2, so that a swizzle or
a bank hash is a stride like any other; a `Vector` moves along named axes, so that a layout can have more than
one result: ``E("bank") * 4``, or ``E(0)`` for the first coordinate of whatever reads the result next (CuTe's
scaled basis, printed ``4@bank`` and ``1@0``).

A step ``c`` times ``X(v)`` is the carry-less product: bit k of c adds ``v << k`` by XOR.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from layouts.shape import INT64_MAX, as_int

Axis: TypeAlias = "int | str"
Scalar: TypeAlias = "int | X"
Step: TypeAlias = "int | X | Vector"
StrideTuple: TypeAlias = "int | X | Vector | tuple[StrideTuple, ...]"

MAX_AXES = 64  # assumed: results of one layout


@dataclass(frozen=True, slots=True)
class X:
    """An F2 stride: steps are added by XOR.  ValueError unless 0 <= value < 2**63."""

    value: int

    def __post_init__(self) -> None:
        if not 0 <= as_int(self.value, "XOR stride") <= INT64_MAX:
            raise ValueError(f"XOR stride: {self.value} is negative, allowed are 0..2**63-1")

    def __str__(self) -> str:
        return f"X{self.value}"

    def __repr__(self) -> str:
        return f"X({self.value})"

    def __mul__(self, factor: object) -> "X":
        return X(carryless_product(factor, self.value)) if isinstance(factor, int) else NotImplemented

    __rmul__ = __mul__

    def __add__(self, other: object) -> "X":
        return X(self.value ^ other.value) if isinstance(other, X) else NotImplemented


def carryless_product(a: int, b: int) -> int:
    """Return the product of two integers read as polynomials over F2; ValueError where `a` is negative."""
    if a < 0:
        raise ValueError(f"XOR stride X{b}: a step of {a} is negative and has no carry-less product")
    result, shift = 0, 0
    while a:
        if a & 1:
            result ^= b << shift
        a >>= 1
        shift += 1
    return result


@dataclass(frozen=True, slots=True)
class Vector:
    """A stride along axes: (axis, int or X), non-zero, sorted by name; made with `E` or `vector`."""

    parts: tuple[tuple[Axis, Scalar], ...]

    def __str__(self) -> str:
        return "+".join(f"{part}@{axis}" for axis, part in self.parts)

    def __repr__(self) -> str:
        return " + ".join(f"{part!r}*E({axis!r})" for axis, part in self.parts)

    def __mul__(self, factor: object) -> "Vector":
        if isinstance(factor, X):
            if any(part != 1 for _, part in self.parts):
                raise ValueError(f"{factor} * ({self}): an XOR stride goes along a plain axis, X(v) * E(axis)")
            return vector((axis, factor) for axis, _ in self.parts)
        if not isinstance(factor, int):
            return NotImplemented
        return vector((axis, part * factor) for axis, part in self.parts)

    __rmul__ = __mul__

    def __add__(self, other: object) -> "Vector":
        if other == 0:
            return self
        return vector([*self.parts, *other.parts]) if isinstance(other, Vector) else NotImplemented

    def part(self, axis: Axis) -> Scalar:
        """Return what a step adds along one axis, 0 where it does not move."""
        return dict(self.parts).get(axis, 0)


def vector(parts: Iterable[tuple[Axis, Scalar]]) -> Vector:
    """Return the vector of (axis, step) pairs; steps along one axis add up, zeros vanish.

    ValueError for an axis that is no name and no number, and for integer and XOR steps along one axis.
    """
    total: dict[Axis, Scalar] = {}
    for axis, part in parts:
        _check_axis(axis)
        step = part if isinstance(part, X) else as_int(part, f"stride along {axis}")
        if axis in total:
            before = total[axis]
            if isinstance(before, X) and isinstance(step, X):
                total[axis] = before + step
            elif isinstance(before, int) and isinstance(step, int):
                total[axis] = as_int(before + step, f"stride along {axis}")
            else:
                raise ValueError(f"stride along {axis}: {before} and {step} do not add up")
        else:
            total[axis] = step
    kept = [(axis, step) for axis, step in total.items() if step not in (0, X(0))]
    if len(kept) > MAX_AXES:
        raise ValueError(f"a stride along {len(kept)} axes, at most {MAX_AXES} are allowed")
    return Vector(tuple(sorted(kept, key=lambda item: axis_order(item[0]))))


def E(axis: Axis) -> Vector:
    """Return the unit step along `axis`: a name, or the number of a coordinate."""
    return vector([(axis, 1)])


def axis_order(axis: Axis) -> tuple[bool, int, str]:
    """Return the sort key of an axis: numbers first, then names."""
    return (False, axis, "") if isinstance(axis, int) else (True, 0, axis)


def _check_axis(axis: object) -> None:
    if isinstance(axis, bool) or not isinstance(axis, int | str):
        raise ValueError(f"axis {axis!r}: a name or a number from 0 is needed")
    if isinstance(axis, int) and not 0 <= axis < MAX_AXES:
        raise ValueError(f"axis {axis}: numbered axes are 0..{MAX_AXES - 1}")
    if isinstance(axis, str) and not (axis.isidentifier() and axis.isascii() and len(axis) <= 64):
        raise ValueError(f"axis {axis[:80]!r}: a name of letters, digits and _ is needed, 64 characters at most")


def as_step(value: object, where: str) -> Step:
    """Return a stride leaf; integers are checked to be of 64 bits, an empty vector is 0."""
    if isinstance(value, Vector):
        return value if value.parts else 0
    return value if isinstance(value, X) else as_int(value, where)


def axes_of(steps: Iterable[Step], where: str) -> tuple[Axis, ...] | None:
    """Return the axes that the steps move along, None for a scalar result.

    ValueError when some steps have axes and others, other than 0, have none.
    """
    found: set[Axis] = set()
    plain: Step | None = None
    for step in steps:
        if isinstance(step, Vector):
            found.update(axis for axis, _ in step.parts)
        elif step not in (0, X(0)):
            plain = step
    if found and plain is not None:
        raise ValueError(f"{where}: the stride {plain} has no axis, others go along {_names(found)}")
    return tuple(sorted(found, key=axis_order)) if found else None


def _names(axes: Iterable[Axis]) -> str:
    return ", ".join(str(axis) for axis in sorted(axes, key=axis_order))


def along(step: Step, axis: Axis) -> Scalar:
    """Return what a step adds along `axis`."""
    return step.part(axis) if isinstance(step, Vector) else 0


def stride_leaves(value: StrideTuple) -> Iterator[Step]:
    """Yield the strides of a nested tuple, leftmost first."""
    if isinstance(value, tuple):
        for item in value:
            yield from stride_leaves(item)
    else:
        yield value
