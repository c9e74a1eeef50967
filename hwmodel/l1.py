"""What a load through the L1 of a core costs where every lane hits: cycles of its data banks, or of its tags.

The L1 of a GPU lies in the scratchpad's banks, behind tags. A load of a warp passes both, as stages of one pipeline, so
over many loads the slower stage sets the rate:

* data: as many lanes at a time as fill a row of banks (of 8-byte elements half a warp), and each time as many cycles as
  the most words that they want of one bank;
* tags: each line that the lanes touch is looked up once. The tags lie in banks of their own, which look up one line per
  cycle each, so a load takes as many cycles as it has lines in one of them. The bank is the XOR of all groups of bits
  of the line's number that are as wide as the number of a bank.

Programs do not load through it (their loads are descriptors of a DMA engine): it says what a layout costs a warp that
reads it element by element.

Not modelled: misses, elements that cross a line, several instructions in flight that want the same line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layouts import Layout, swizzle
from layouts.analysis import Access, Banks, bank_conflicts


@dataclass(frozen=True)
class L1:
    """The banks of the data, and those of the tags: each a line wide, their number a power of two."""

    data: Banks
    tags: Banks


@dataclass(frozen=True)
class Loads:
    """Cycles that some loads take in either stage."""

    data_cycles: int
    tag_cycles: int

    @property
    def cycles(self) -> int:
        """What the loads take one after another: the slower stage's cycles."""
        return max(self.data_cycles, self.tag_cycles)


def loads(l1: L1, placement: Layout, index: Layout | Sequence[int], lanes: int, element_bytes: int) -> Loads:
    """Return what loads of one element per lane cost; `index` gives the elements, lane by lane and load by load.

    `placement` says where an element lies, in elements from the start of a line. ValueError unless the bytes of an
    element divide a line and are a power of two.
    """
    line = l1.tags.width_bytes
    if element_bytes < 1 or line % element_bytes or element_bytes & (element_bytes - 1):
        raise ValueError(f"element_bytes: {element_bytes}; allowed: powers of two that divide a line of {line} B")
    row_bytes = l1.data.count * l1.data.width_bytes
    together = Access(index, 1, min(lanes, max(1, row_bytes // element_bytes)))  # type: ignore[arg-type]
    data = bank_conflicts(placement, together, l1.data, element_bytes)
    folded = placement.then(*_fold(l1.tags.count, line // element_bytes, placement.cosize))
    tags = bank_conflicts(folded, Access(index, 1, lanes), l1.tags, element_bytes)  # type: ignore[arg-type]
    return Loads(data.wavefronts, tags.wavefronts)


def _fold(banks: int, line: int, end: int) -> list[Layout]:
    """Return the stages that XOR the higher bits of a line's number, below `end` elements, into those of its bank."""
    bits, base = banks.bit_length() - 1, line.bit_length() - 1
    top = (end - 1).bit_length()
    return [swizzle(bits, base, shift) for shift in range(bits, top - base, bits)] if bits else []
