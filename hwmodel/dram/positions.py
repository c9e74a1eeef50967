"""The positions of a channel's buffers: when they run out, the waiting bursts move down, in their order.

For both families of schedulers. Sets of positions move with them, whatever they mean.
"""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.state import (
    BANK_MASK,
    BANK_MASKS,
    BANK_STRIDE,
    BANKS,
    LIVE,
    MAX_PCS,
    MODE_MASKS,
    PC_MASKS,
    PER_CHANNEL,
    SLOT_FIELDS,
    SLOT_PLACE,
    TAIL,
    Row,
    Words,
    bank_mask,
    lowest,
    mode_mask,
    shift_right,
    slot_at,
    trailing_zeros,
    word_of,
)


@compiled
def make_room(m: Row, c: Row, words: Words, mode: int) -> None:
    """Free positions of a buffer behind its last burst."""
    if not _slide(m, c, words, mode):
        _close_gaps(c, words, mode)


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
def _close_gaps(c: Row, words: Words, mode: int) -> None:
    to = 0
    for word in range(len(words)):
        bits = mode_mask(c, words, mode, LIVE)[word]
        while bits != 0:
            position = 64 * word + trailing_zeros(bits)
            bits &= bits - 1
            if position != to:
                _move(c, words, mode, position, to)
            to += 1
    c[TAIL + mode] = to


@inlined
def _move(c: Row, words: Words, mode: int, position: int, to: int) -> None:
    """Move a burst to a free position."""
    old, new = slot_at(c, words, mode, position), slot_at(c, words, mode, to)
    for field in range(SLOT_FIELDS):
        new[field] = old[field]
    for mask in range(MODE_MASKS + MAX_PCS * PC_MASKS):
        _move_bit(mode_mask(c, words, mode, mask), words, position, to)
    for mask in range(BANK_MASKS):
        _move_bit(bank_mask(c, words, new[SLOT_PLACE] & BANK_MASK, mode, mask), words, position, to)


@inlined
def _move_bit(mask: Row, words: Words, position: int, to: int) -> None:
    bit = (mask[word_of(words, position)] >> (position & 63)) & 1
    mask[word_of(words, position)] &= ~(1 << (position & 63))
    mask[word_of(words, to)] |= bit << (to & 63)
