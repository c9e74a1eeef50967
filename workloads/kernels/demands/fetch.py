"""What DMA engines do at least: bursts, descriptors, requests, and accesses to the scratchpad.

A load fetches whole aligned transfers, so that a layout whose runs are shorter fetches bytes that nobody asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from hwmodel.machine import Machine
from hwmodel.program import DTYPES
from layouts.notation import named
from workloads.subspace import ALIGNMENT_BYTES

MOST_PIECES = 64  # assumed: tiles of a page that are looked at; where there are more only the bytes count
PAGES = 1009  # a prime: strides that are multiples of a transfer for so many pages are so for any number


@dataclass(frozen=True)
class Dma:
    """What loads and stores cost at least; arguments are numbers or arrays of them."""

    machine: Machine

    @property
    def burst_bytes(self) -> int:
        return self.machine.burst_bytes

    @property
    def transfer_bytes(self) -> int:
        """The least that a load fetches."""
        return max(self.burst_bytes, self.machine.spec.cores.dma.min_transfer)

    @property
    def per_transfer(self) -> int:
        """The bursts of a transfer."""
        return self.transfer_bytes // self.burst_bytes

    @property
    def reuses_loads(self) -> bool:
        """Whether bytes that are loaded often may come from main memory once."""
        return self.reuses_stores or self.machine.spec.noc.multicast_window is not None

    @property
    def reuses_stores(self) -> bool:
        """Whether bytes may be stored without reaching main memory."""
        merges = self.machine.memory == "hbm" and self.machine.hbm.policy.merges
        return merges or self.machine.spec.shared_cache is not None

    def bursts(self, size_bytes: Any) -> Any:
        """Return the bursts that hold so many bytes."""
        return -(-size_bytes // self.burst_bytes)

    def stored_bursts(self, distinct_bytes: Any, bursts: Any) -> Any:
        """Return what main memory moves of stores of so many `bursts`: all, or what no cache can keep of the bytes."""
        return self._beyond_cache(distinct_bytes) if self.reuses_stores else bursts

    def loaded_again_bursts(self, distinct_bytes: Any, bursts: Any) -> Any:
        """Return what main memory moves for loads of what an earlier phase has touched."""
        return self._beyond_cache(distinct_bytes) if self.reuses_loads else bursts

    def _beyond_cache(self, size_bytes: Any) -> Any:
        cache = self.machine.spec.shared_cache
        return np.maximum(0, self.bursts(size_bytes - (cache.distinct_bytes if cache else 0)))

    def issue_cycles(self, bursts: Any, pages: Any = 1, indices: Any = 0) -> Any:
        """Return what an engine spends on so many bursts of as many `pages` as it takes a descriptor each."""
        dma = self.machine.spec.cores.dma
        requests = -(-bursts // (dma.request_bytes // self.burst_bytes))
        return (
            (1 if dma.gather else pages) * dma.issue_cycles + indices * dma.index_cycles + requests * dma.request_cycles
        )

    def lines(self, size_bytes: Any) -> Any:
        """Return the accesses by which an engine fills or drains so many bytes of the scratchpad."""
        return -(-size_bytes // self.machine.spec.cores.dma.write_bytes)

    def operand_lines(self, size_bytes: Any) -> Any:
        """Return the accesses by which the matrix unit reads so many bytes of an operand."""
        return -(-size_bytes // self.machine.sram_line_bytes)


@lru_cache(maxsize=1 << 16)
def tile_transfers(text: str, sizes: tuple[tuple[str, int], ...], tile: int, dtype: str, transfer: int) -> int:
    """Return the transfers that a tile of so many tokens takes at least.

    `sizes` of the axes of a cache, without its pages. Tiles begin at multiples of their length; where pages do not
    begin at transfers, or tiles and pages do not divide each other, only the bytes count.
    """
    axes, element = dict(sizes), DTYPES[dtype].itemsize
    page_size, least = axes["token"], -(-tile * axes["dim"] * element // transfer)
    count, pages = min(tile, page_size), max(1, tile // page_size)
    starts = range(0, page_size, count)
    if (tile % page_size and page_size % tile) or len(starts) > MOST_PIECES or ALIGNMENT_BYTES % transfer:
        return least
    try:
        layout = named(text, {"page": PAGES, **axes})
    except ValueError:  # pages of another number may be what it takes; whether it is a layout is checked elsewhere
        return least
    outer = [stride for axis in ("page", "kv", "head") for extent, stride in layout.leaves(axis) if extent > 1]
    if any(stride * element % transfer for stride in outer):
        return least
    token, dim = (_offsets(layout.leaves(axis), axes[axis]) * element for axis in ("token", "dim"))
    pieces = [np.add.outer(token[start : start + count], dim).reshape(-1) for start in starts]
    touched = [np.unique(np.concatenate([piece, piece + element - 1]) // transfer) for piece in pieces]
    return max(least, pages * min(map(len, touched)))


def _offsets(digits: tuple[tuple[int, int], ...], extent: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the offset of every coordinate of an axis."""
    coordinate = np.arange(extent)
    found = np.zeros(extent, np.int64)
    for count, stride in digits[:-1]:
        found += coordinate % count * stride
        coordinate = coordinate // count
    return found + coordinate * digits[-1][1] if digits else found
