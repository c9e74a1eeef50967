"""The compiled count behind the questions that have no closed form: wavefronts of offsets, one by one.

numba is imported when the first count is asked for, and the machine code is kept on disk.  Nothing else of this
package needs numba.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from layouts.bulk import IntArray

_SLOTS_PER_WORD = 2  # the hash table of one phase is at most half full


def count_wavefronts(
    offsets: IntArray, elements: int, element_bytes: int, count: int, width_bytes: int
) -> tuple[int, int]:
    """Return (cycles of all phases, cycles of the worst one) of element offsets, `elements` of them per phase.

    Each of `count` banks delivers one word of `width_bytes` per cycle to all lanes that ask for it; the last phase
    may be short.
    """
    words = elements * ((element_bytes - 1) // width_bytes + 2)
    slot_bits = (_SLOTS_PER_WORD * words - 1).bit_length()
    seen = np.empty(1 << slot_bits, np.int64)
    stamps = np.zeros(1 << slot_bits, np.int64)
    loads = np.zeros(count, np.int64)
    powers = (_power(width_bytes), _power(count))
    total, worst = _kernel()(
        offsets, elements, element_bytes, count, width_bytes, powers, seen, stamps, np.uint64(64 - slot_bits), loads
    )
    return int(total), int(worst)


def _power(value: int) -> int:
    """Return the exponent of a power of two, -1 for any other number."""
    return value.bit_length() - 1 if value & (value - 1) == 0 else -1


@cache
def _kernel() -> Any:
    from numba import njit

    return njit(cache=True, nogil=True, error_model="numpy")(_wavefronts)


def _wavefronts(
    offsets: Any,
    elements: int,
    element_bytes: int,
    count: int,
    width: int,
    powers: tuple[int, int],
    seen: Any,
    stamps: Any,
    hash_shift: Any,
    loads: Any,
) -> tuple[int, int]:
    # The words of a phase are kept in an open hash table, whose slots are free unless stamped with this phase.
    # Division is the slowest step, so that powers of two are shifted and masked.
    last_slot = len(seen) - 1
    width_power, count_power = powers
    total = worst = phase = 0
    start = 0
    while start < len(offsets):
        phase += 1
        most = 1
        previous = np.int64(-(2**63))  # a word that no byte address has
        loads[:] = 0
        for place in range(start, min(start + elements, len(offsets))):
            first_byte = offsets[place] * element_bytes
            last_byte = first_byte + element_bytes - 1
            word = first_byte >> width_power if width_power >= 0 else first_byte // width
            last = last_byte >> width_power if width_power >= 0 else last_byte // width
            while word <= last:
                if word != previous:  # the elements of a vector mostly share words
                    previous = word
                    slot = np.int64((np.uint64(word) * np.uint64(0x9E3779B97F4A7C15)) >> hash_shift)
                    while stamps[slot] == phase and seen[slot] != word:
                        slot = (slot + 1) & last_slot
                    if stamps[slot] != phase:
                        stamps[slot] = phase
                        seen[slot] = word
                        bank = word & (count - 1) if count_power >= 0 else word % count
                        loads[bank] += 1
                        most = max(most, loads[bank])
                word += 1
        total += most
        worst = max(worst, most)
        start += elements
    return total, worst
