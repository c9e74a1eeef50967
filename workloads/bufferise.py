"""Bufferisation: addresses for blocks of which each is in use for a part of the program only.

Between a list of requests and the buffers of a scratchpad (`buffers.allocate`) or the tensors of main memory
(`sequence`): blocks that are in use at the same time lie apart, all others may share bytes. Memory is counted in
*rows*: what no two blocks share, a row of banks in a scratchpad. A multi-buffer of several slots is one request: its
slots lie at a constant pitch, as `hwmodel.program.Buffer` wants them.

What it takes is compared with what must be in use at the fullest moment. Greedy orders come first, first fit and best
fit; where none reaches that bound, the block at the top is moved forward in the order until nothing improves; then a
search over all placements that cannot be pushed down further, cut off after `MAX_NODES` steps. Where it ends by itself,
its result is the least possible and takes the place of the bound. Nothing is drawn: equal requests get equal addresses.

Not modelled: blocks that move while they are in use, or that are split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from workloads import packing

Proof = Literal["live", "search"]


@dataclass(frozen=True)
class Request:
    """`slots` blocks of `size_bytes`, in use from step `first` to step `last` of the program, both included.

    Every block starts at a multiple of `alignment` rows, a power of two.
    """

    name: str
    size_bytes: int
    slots: int = 1
    alignment: int = 1
    first: int = 0
    last: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (("size_bytes", self.size_bytes, 1), ("slots", self.slots, 1)):
            if value < least:
                raise ValueError(f"request {self.name}: {name} is {value}; allowed: from {least}")
        if self.alignment < 1 or self.alignment & (self.alignment - 1):
            raise ValueError(f"request {self.name}: alignment is {self.alignment} rows; allowed: powers of two")
        if self.last < self.first:
            raise ValueError(
                f"request {self.name}: in use from step {self.first} to {self.last}; allowed: a last "
                "step that is not before the first"
            )


@dataclass(frozen=True)
class Placed:
    """A request with the address of its first block and the distance from one block to the next."""

    request: Request
    address: int
    pitch_bytes: int
    end: int  # the first byte behind its last block, whole rows counted


@dataclass(frozen=True)
class Allocation:
    """Where every request lies, in the order given.

    `live_bytes`: whole rows in use at the fullest moment. `bound_bytes`: what no allocation can be below; `proof` says
    why: "live", so much is in use at once at the alignments asked for, or "search", a complete search found nothing
    lower.
    """

    placed: tuple[Placed, ...]
    row_bytes: int
    live_bytes: int
    bound_bytes: int
    proof: Proof

    @property
    def high_water_bytes(self) -> int:
        """The first byte behind everything."""
        return max((p.end for p in self.placed), default=0)

    @property
    def fragmentation(self) -> float:
        """The share of the bytes below the high-water mark that are nobody's at the fullest moment."""
        return 1 - self.live_bytes / self.high_water_bytes if self.high_water_bytes else 0.0

    def text(self, capacity_bytes: int | None = None) -> str:
        """Return the map for people, lowest address first, and what it comes to."""
        lines = []
        for p in sorted(self.placed, key=lambda p: (p.address, p.request.first, p.request.name)):
            request = p.request
            blocks = f"{request.slots} x {request.size_bytes} B every {p.pitch_bytes}"
            used = f"steps {request.first} to {request.last}"
            lines.append(f"{p.address:>10} to {p.end:<10} {request.name}: {blocks}, {used}")
        free = (
            "" if capacity_bytes is None else f", {capacity_bytes - self.high_water_bytes} B of {capacity_bytes} free"
        )
        reason = "in use at once" if self.proof == "live" else "by search"
        lines.append(
            f"high-water mark {self.high_water_bytes} B{free}; at least {self.bound_bytes} B ({reason}); "
            f"fragmentation {100 * self.fragmentation:.1f} %"
        )
        return "\n".join(lines)


def bufferise(requests: Sequence[Request], row_bytes: int) -> Allocation:
    """Return addresses for the requests, in memory of rows of `row_bytes`."""
    items = [_item(request, row_bytes) for request in requests]
    found = packing.pack(items)
    placed = tuple(
        Placed(request, start * row_bytes, _pitch(request, row_bytes) * row_bytes, (start + item.rows) * row_bytes)
        for request, item, start in zip(requests, items, found.starts, strict=True)
    )
    live = packing.live_rows(items) * row_bytes
    return Allocation(placed, row_bytes, live, found.bound * row_bytes, "search" if found.searched else "live")


def _rows(request: Request, row_bytes: int) -> int:
    return -(-request.size_bytes // row_bytes)


def _pitch(request: Request, row_bytes: int) -> int:
    return -(-_rows(request, row_bytes) // request.alignment) * request.alignment


def _item(request: Request, row_bytes: int) -> packing.Item:
    """Return the rows that a request must have: padding behind its last block is not among them."""
    rows = (request.slots - 1) * _pitch(request, row_bytes) + _rows(request, row_bytes)
    return packing.Item(rows, request.alignment, request.first, request.last)
