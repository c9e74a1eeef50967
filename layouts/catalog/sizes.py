"""Checks of sizes, and the two ways the named layouts of the serving stacks are spelt: strides, or padded digits.

Helper of the files beside it that name the layouts of real kernels (`kv`, `scales`, `moe` ...).  Each error is one
line: the layout, the size, its value and what is allowed.

Not modelled: memory beyond the last element; where a kernel allocates padding, its constructor says how much.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from layouts.layout import Layout
from layouts.notation import NamedLayout, named
from layouts.shape import IntTuple, as_int
from layouts.stride import E, StrideTuple

Digits: TypeAlias = Sequence[tuple[int, int]]  # (extent, stride), the fastest digit first


def check_sizes(where: str, **sizes: int) -> None:
    """Raise ValueError unless every size is an integer of at least 1."""
    for name, value in sizes.items():
        if as_int(value, f"{where}: {name}") < 1:
            raise ValueError(f"{where}: {name} is {value}, at least 1 is needed")


def check_multiple(where: str, name: str, value: int, of: int) -> None:
    """Raise ValueError unless `value` is a multiple of `of`."""
    if as_int(value, f"{where}: {name}") % of:
        raise ValueError(f"{where}: {name} is {value}, a multiple of {of} is needed")


def check_choice(where: str, name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise ValueError unless `value` is one of the allowed ones."""
    if isinstance(value, bool | float) or value not in allowed:
        shown = repr(value) if len(repr(value)) <= 40 else repr(value)[:37] + "..."
        raise ValueError(f"{where}: {name} is {shown}, allowed are {', '.join(map(str, allowed))}")


def ceil_div(a: int, b: int) -> int:
    """Return a / b rounded up."""
    return -(-a // b)


def round_up(value: int, multiple: int) -> int:
    """Return the least multiple of `multiple` that is at least `value`."""
    return ceil_div(value, multiple) * multiple


def row_major(where: str, notation: str, sizes: Mapping[str, int]) -> NamedLayout:
    """Return the compact layout of the factors of `notation`, outermost first, after checking the sizes."""
    check_sizes(where, **{f"the size of axis {axis}": size for axis, size in sizes.items()})
    return named(notation, sizes)


def strided(**modes: tuple[IntTuple, StrideTuple]) -> NamedLayout:
    """Return the layout with one mode (shape, stride) per axis, in the order given."""
    shapes, strides = zip(*modes.values(), strict=True)
    return NamedLayout(tuple(modes), Layout(shapes, strides))


def by_digits(**axes: tuple[int, Digits]) -> NamedLayout:
    """Return the layout whose axes have a logical size and the digits of a (padded) size.

    Strides alone say it where the digits divide the logical sizes; else a first stage hands the coordinates on, and
    a second one splits them, so that padding is in the strides and never in the shape.
    """
    direct = {axis: _truncated(size, digits) for axis, (size, digits) in axes.items()}
    modes: dict[str, tuple[IntTuple, StrideTuple]] = {}
    for axis, kept in direct.items():
        if kept is None:
            break
        modes[axis] = _mode(kept)
    else:
        return strided(**modes)
    coordinates = Layout(tuple(size for size, _ in axes.values()), tuple(E(k) for k in range(len(axes))))
    shapes, strides = zip(*(_mode(digits) for _, digits in axes.values()), strict=True)
    return NamedLayout(tuple(axes), coordinates.then(Layout(shapes, strides)))


def _mode(digits: Digits) -> tuple[IntTuple, StrideTuple]:
    if len(digits) == 1:
        return digits[0]
    return tuple(extent for extent, _ in digits), tuple(stride for _, stride in digits)


def _truncated(size: int, digits: Digits) -> list[tuple[int, int]] | None:
    """Return the digits cut to `size` coordinates, None where a digit does not divide what is left."""
    kept: list[tuple[int, int]] = []
    for place, (extent, stride) in enumerate(digits):
        last = place == len(digits) - 1
        if last or size <= extent:
            return [*kept, (size, stride)]
        if size % extent:
            return None
        kept.append((extent, stride))
        size //= extent
    return kept
