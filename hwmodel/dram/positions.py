"""The positions of a channel's buffers: when they run out, the waiting bursts move down, in their order.

For both families of schedulers. Sets of positions move with them, whatever they mean.
"""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.room import MAX_PCS
from hwmodel.dram.state import (
    BANK_MASKS,
    BANK_STRIDE,
    BANKS,
    LIVE,
    MODE_MASKS,
    PC_MASKS,
    PER_CHANNEL,
    SLOT_FIELDS,
    TAIL,
    Words,
    bank_mask,
    insert,
    lowest,
    mode_mask,
    slot_at,
)
from hwmodel.intrinsics import Row, count_ones, row_at, shift_right, trailing_zeros


@compiled
def make_room(m: Row, c: Row, words: Words, mode: int) -> None:
    """Free positions of a buffer behind its last burst."""
    if not _slide(m, c, words, mode):
        _close_gaps(m, c, words, mode)


@inlined
def _slide(m: Row, c: Row, words: Words, mode: int) -> bool:
    """Move all bursts down alike, without closing gaps; return whether an eighth of the positions became free."""
    first = lowest(mode_mask(c, words, mode, LIVE), words)
    if first < 8 * len(words):
        return False
    slot, to = slot_at(c, words, mode, first), slot_at(c, words, mode, 0)
    for i in range((64 * len(words) - first) * SLOT_FIELDS):
        to[i] = slot[i]
    _slide_masks(mode_mask(c, words, mode, 0), words, MODE_MASKS + MAX_PCS * PC_MASKS, first)
    for pc in range(m[PER_CHANNEL]):
        _slide_masks(bank_mask(c, words, pc * m[BANK_STRIDE], mode, 0), words, m[BANKS] * BANK_MASKS, first)
    c[TAIL + mode] = 64 * len(words) - first
    return True


@inlined
def _slide_masks(mask: Row, words: Words, count: int, places: int) -> None:
    for i in range(count):
        for word in range(len(words)):
            at = i * len(words) + word
            if len(words) == 1:
                mask[at] = shift_right(mask[at], places)
            else:
                whole, part = places >> 6, places & 63
                low = shift_right(mask[at + whole], part) if word + whole < len(words) else 0
                high = mask[at + whole + 1] << 1 << (63 - part) if word + whole + 1 < len(words) else 0
                mask[at] = low | high


@inlined
def _close_gaps(m: Row, c: Row, words: Words, mode: int) -> None:
    to = 0
    live = mode_mask(c, words, mode, LIVE)
    for word in range(len(words)):
        bits = live[word]
        while bits != 0:
            old, new = slot_at(c, words, mode, 64 * word + trailing_zeros(bits)), slot_at(c, words, mode, to)
            bits &= bits - 1
            for field in range(SLOT_FIELDS):
                new[field] = old[field]
            to += 1
    _close_masks(mode_mask(c, words, mode, LIVE + 1), words, live, MODE_MASKS + MAX_PCS * PC_MASKS - 1)
    for pc in range(m[PER_CHANNEL]):
        _close_masks(bank_mask(c, words, pc * m[BANK_STRIDE], mode, 0), words, live, m[BANKS] * BANK_MASKS)
    for word in range(len(words)):
        bits = min(max(to - 64 * word, 0), 64)
        live[word] = (1 << bits) - 1 if bits < 64 else -1
    c[TAIL + mode] = to


@inlined
def _close_masks(mask: Row, words: Words, live: Row, count: int) -> None:
    """Move the positions in masks to as many places as live ones lie below them."""
    for at in range(count):
        below = 0
        for word in range(len(words)):
            bits = mask[at * len(words) + word]
            mask[at * len(words) + word] = 0
            while bits != 0:
                bit = bits & -bits
                bits ^= bit
                insert(row_at(mask, at * len(words)), words, below + count_ones(live[word] & (bit - 1)))
            below += count_ones(live[word])
