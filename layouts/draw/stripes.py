"""The stripe diagram: which bit of a tensor's coordinates feeds which bit of the DRAM location.

It looks at pairs of elements whose coordinates differ in one bit.  A location bit that differs in all of these pairs
is fed by the bit plainly (a solid line); one that differs in some, through a carry, a padding or a number that is no
power of two, is fed sometimes (a dashed line).  Up to 65,536 elements all are looked at, of more a fixed choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np

from layouts.address_fields import FIELDS
from layouts.address_map import AddressMap
from layouts.bulk import IntArray
from layouts.draw.cells import heading, mode_sizes, plain, values_at
from layouts.draw.svg import FONT, MAX_LABEL, PALE, Picture, width_of
from layouts.layout import Layout
from layouts.notation import NamedLayout
from layouts.shape import as_int

MAX_LOOKED_AT = 65_536
COLOURS = {
    "stack": "#7a5195",
    "channel": "#d1495b",
    "pseudo_channel": "#e07b39",
    "bank_group": "#b8860b",
    "bank": "#2e8b57",
    "row": "#2f6fb3",
    "column": "#00838f",
    "byte": "#8c8c8c",
}
_BOX, _PITCH, _GROUP, _DROP = 22, 24, 18, 150  # pixels: of a box, from box to box, between groups, between the rows


@dataclass(frozen=True)
class Feed:
    """That a coordinate bit changes a location bit, in all pairs looked at or only in some."""

    axis: str
    bit: int
    field: str
    field_bit: int
    always: bool


def feeds(layout: Layout | NamedLayout, address_map: AddressMap, element_bytes: int, base: int = 0) -> list[Feed]:
    """Return which coordinate bit feeds which bit of which field, "byte" being the place within a burst.

    The tensor's element at offset 0 lies at byte `base`.  ValueError for a layout with axes, and for addresses beyond
    the map.
    """
    inner, names = plain(layout)
    if inner.axes is not None:
        raise ValueError(f"layout {str(inner)[:120]}: has axes, an offset is needed")
    if as_int(element_bytes, "element_bytes") < 1:
        raise ValueError(f"element_bytes is {element_bytes}, at least 1 is needed")
    sizes = mode_sizes(inner)
    points = _points(sizes)

    def location(at: list[IntArray]) -> dict[str, IntArray]:
        address = values_at(inner, at)[None] * element_bytes + base
        decoded = address_map.decode(address)
        return {**decoded._asdict(), "byte": address % address_map.burst_bytes}

    found: list[Feed] = []
    for k, (name, extent) in enumerate(zip(names, sizes, strict=True)):
        for bit in range((extent - 1).bit_length()):
            other = points[k] | (1 << bit)
            chosen = (points[k] >> bit & 1 == 0) & (other < extent)
            if not chosen.any():
                continue
            one = location([part[chosen] for part in points])
            two = location([other[chosen] if j == k else part[chosen] for j, part in enumerate(points)])
            for field in one:
                changed = one[field] ^ two[field]
                ever, always = int(np.bitwise_or.reduce(changed)), int(np.bitwise_and.reduce(changed))
                places = [place for place in range(ever.bit_length()) if ever >> place & 1]
                found += [Feed(name, bit, field, place, bool(always >> place & 1)) for place in places]
    return found


def stripes_svg(
    layout: Layout | NamedLayout, address_map: AddressMap, element_bytes: int, base: int = 0, title: str | None = None
) -> str:
    """Return the diagram of the bits of a tensor above the bits of the DRAM location that they feed.

    Bit 0 of every group is at the right.  A box of a coordinate bit is striped in the colours of its fields; below
    the diagram each location bit stands with the coordinate bits that change it, ``~`` for those that do sometimes.
    ValueError as for `feeds`.
    """
    inner, names = plain(layout)
    found = feeds(layout, address_map, element_bytes, base)
    picture = Picture(heading(layout, title))
    picture.text(8, 17, picture.title)
    told = f"{address_map.name}: elements of {element_bytes} bytes, bursts of {address_map.burst_bytes} bytes"
    told += "" if all(feed.always for feed in found) else "; dashed and ~: changes it sometimes"
    picture.text(8, 33, told, fill=PALE)
    logical = [(name, (extent - 1).bit_length()) for name, extent in zip(names, mode_sizes(inner), strict=True)]
    tops = _group_boxes(logical, 8)
    bottoms = _group_boxes(_fields(address_map), 8)
    _centre(tops, bottoms)
    high, low = 64, 64 + _BOX + _DROP
    for feed in found:
        hover = f"{feed.axis}[{feed.bit}] changes {feed.field}[{feed.field_bit}]" + (
            "" if feed.always else " sometimes"
        )
        start, end = tops[feed.axis, feed.bit] + _BOX / 2, bottoms[feed.field, feed.field_bit] + _BOX / 2
        picture.curve(start, high + _BOX, end, low, COLOURS[feed.field], not feed.always, hover)
    for (name, bit), x in tops.items():
        fields = sorted({feed.field for feed in found if (feed.axis, feed.bit) == (name, bit)}, key=list(COLOURS).index)
        _striped(picture, x, high, bit, [COLOURS[field] for field in fields])
    for (name, bit), x in bottoms.items():
        _striped(picture, x, low, bit, [COLOURS[name]])
    _names(picture, tops, high - 8)
    _names(picture, bottoms, low + _BOX + 14)
    _sources(picture, found, _fields(address_map), low + _BOX + 44)
    return picture.done()


def _points(sizes: list[int]) -> list[IntArray]:
    """Return coordinates to look at, one array per mode: all, or a fixed choice of them."""
    if prod(sizes) <= MAX_LOOKED_AT:
        index = np.arange(prod(sizes), dtype=np.int64)
        points = []
        for extent in sizes:
            points.append(index % max(extent, 1))
            index = index // max(extent, 1)
        return points
    rng = np.random.default_rng(0)
    return [rng.integers(0, extent, MAX_LOOKED_AT // 4) for extent in sizes]


def _fields(address_map: AddressMap) -> list[tuple[str, int]]:
    """Return (field, bits) from the most significant digit of the address to the byte within a burst."""
    highest = {digit.field: digit.divisor for digit in sorted(address_map.digits)}
    order = sorted(highest, key=lambda field: highest[field], reverse=True)
    fields = [(FIELDS[field], (address_map.sizes[field] - 1).bit_length()) for field in order]
    return [*fields, ("byte", address_map.burst_bytes.bit_length() - 1)]


def _group_boxes(groups: Iterable[tuple[str, int]], left: float) -> dict[tuple[str, int], float]:
    """Return the left edge of the box of every (name, bit), bit 0 of a group at the right."""
    boxes: dict[tuple[str, int], float] = {}
    x = left
    for name, bits in groups:
        if bits == 0:
            continue
        room = max(bits * _PITCH, width_of(name) + 4)
        start = x + (room - bits * _PITCH) / 2
        for bit in range(bits):
            boxes[name, bit] = start + (bits - 1 - bit) * _PITCH
        x += room + _GROUP
    return boxes


def _centre(one: dict[tuple[str, int], float], two: dict[tuple[str, int], float]) -> None:
    """Move the narrower row of boxes so that both have one middle."""
    if not one or not two:
        return
    shift = (max(two.values()) + min(two.values()) - max(one.values()) - min(one.values())) / 2
    narrow = one if shift > 0 else two
    for key in narrow:
        narrow[key] += abs(shift)


def _striped(picture: Picture, x: float, y: float, bit: int, colours: list[str]) -> None:
    shown = colours or ["#d0d5dd"]
    for k, colour in enumerate(shown):
        picture.rect(x + k * _BOX / len(shown), y, _BOX / len(shown), _BOX, colour, colour)
    ink = ' font-weight="bold"'
    picture.text(x + _BOX / 2, y + _BOX / 2 + FONT * 0.36, bit, "middle", "#ffffff" if colours else PALE, ink)


def _names(picture: Picture, boxes: dict[tuple[str, int], float], y: float) -> None:
    for name in dict.fromkeys(name for name, _ in boxes):
        places = [x for (other, _), x in boxes.items() if other == name]
        picture.text((min(places) + max(places) + _BOX) / 2, y, name, "middle")


def _sources(picture: Picture, found: list[Feed], fields: list[tuple[str, int]], top: float) -> None:
    """Write for every location bit which coordinate bits change it, a column per field."""
    x = 8.0
    for field, bits in fields:
        lines = []
        for bit in range(bits):
            own = [feed for feed in found if (feed.field, feed.field_bit) == (field, bit)]
            lines.append(f"[{bit}] {_spelt(own) or 'constant'}"[:MAX_LABEL])
        if not lines:
            continue
        picture.text(x, top, field, fill=COLOURS[field], extra=' font-weight="bold"')
        for k, line in enumerate(lines):
            picture.text(x, top + 16 * (k + 1), line)
        x += max(map(width_of, [field, *lines])) + 22


def _spelt(feeds_of_bit: list[Feed]) -> str:
    """Return the sum of the coordinate bits, neighbouring ones of an axis as ``axis[0..4]``."""
    runs: list[list[Feed]] = []
    axes = list(dict.fromkeys(feed.axis for feed in feeds_of_bit))
    for feed in sorted(feeds_of_bit, key=lambda feed: (axes.index(feed.axis), not feed.always, feed.bit)):
        last = runs[-1][-1] if runs else None
        if last is not None and (last.axis, last.bit + 1, last.always) == (feed.axis, feed.bit, feed.always):
            runs[-1].append(feed)
        else:
            runs.append([feed])
    words = []
    for run in runs:
        bits = f"{run[0].bit}..{run[-1].bit}" if len(run) > 1 else str(run[0].bit)
        words.append(f"{'' if run[0].always else '~'}{run[0].axis}[{bits}]")
    return " ^ ".join(words)
