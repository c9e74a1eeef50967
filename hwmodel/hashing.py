"""How lines are dealt to the slices of a memory and to the sets of a cache: by the rule of `layouts.irreducible`.

A line's place is the last digit of its number in base of the places, turned by the digits before it: the power of two
in the number of places by the remainder of their bits by an irreducible polynomial, the odd factor by a sum of weights
of their bits. So lines in a row lie in all places evenly, whatever came before, and so do lines a power of two apart
where there are a power of two of places; rows at any other pitch are dealt as if at random. Digits folded upon each
other without polynomials put matrices of common sizes into a few places: 11,008 bytes are 86 lines of 128 bytes, and
3 x 86 = 2 x 129.

What real caches do is not published; that no pitch in use collapses is assumed.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from hwmodel.compiled import compiled, inlined
from hwmodel.intrinsics import Row, pointer, row_at
from hwmodel.runs import Array
from layouts.irreducible import irreducible, reciprocal, remainder, weights

DENSE = 5 / 4  # of a power of two: from there on polynomials have enough terms; x^7 + x + 1 leaves more pitches uneven
BYTES, VALUES = 8, 256  # of a number, and of a byte
LATER = 5  # weights that another hash of as many places leaves out
# Of a hash: the power of two in the places, and the odd factor; two tables [byte][value] of what they are turned by
POWER, ODD, REMAINDERS = range(3)
WEIGHTS = REMAINDERS + BYTES * VALUES


@inlined
def turn_of(h: Row, before: int) -> int:
    """Return what turns the last digit of a number behind the digits `before`, as `turned` takes it."""
    total, weight = 0, 0
    table = row_at(h, REMAINDERS)
    while before != 0:
        value = before & (VALUES - 1)
        total ^= table[value]
        weight += table[value + WEIGHTS - REMAINDERS]
        before >>= 8
        table = row_at(table, VALUES)
    return int(total + weight % h[ODD] * h[POWER])


@inlined
def turned(digit: int, turn: int, places: int) -> int:
    """Return the place of a number by its last digit."""
    low = (places & -places) - 1
    high = (digit & ~low) + (turn & ~low)
    return int((high - places if high >= places else high) + ((digit ^ turn) & low))


@inlined
def place_of(h: Row, number: int, places: int) -> int:
    """Return the place to which a hash deals a number."""
    before = number // places
    return int(turned(number - before * places, turn_of(h, before), places))


@cache
def hash_of(places: int, *, other: bool = False) -> Array:
    """Return the hash that deals numbers to so many places, for `place_of`; int64, not to be written.

    `other`: another one, so that numbers which meet in one part in the other; of 1, 2 and 4 places there is one alone.
    Who hands on its address must keep it.
    """
    power = places & -places
    degree, odd = power.bit_length() - 1, places // power
    polynomial = irreducible(degree, int(DENSE * power))
    if other:
        polynomial = reciprocal(polynomial)
    bits = [remainder(1 << (degree + bit), polynomial) for bit in range(8 * BYTES)]
    added = weights(odd, 8 * BYTES + LATER)[LATER if other else 0 :][: 8 * BYTES]
    tables = _table(np.array(bits), np.bitwise_xor), _table(np.array(added), np.add)
    made = np.concatenate([[power, odd], *tables]).astype(np.int64)
    made.flags.writeable = False
    return made


def _table(bits: Array, joined: np.ufunc) -> Array:
    """Return what every value of every byte of a number comes to, [byte * value], from what each bit adds."""
    values = np.arange(VALUES)[:, None] >> np.arange(8) & 1
    return np.concatenate([joined.reduce(values * byte, axis=1) for byte in bits.reshape(BYTES, 8)])


@compiled
def _deal(h: Array, numbers: Array, places: int, dealt: Array) -> None:
    for i in range(len(numbers)):
        dealt[i] = place_of(pointer(h), numbers[i], places)


def deal(numbers: Array, places: int, *, other: bool = False) -> Array:
    """Return to which of so many places lines with these numbers, int64[n], are dealt: int64[n]."""
    dealt = np.empty_like(numbers)
    _deal(hash_of(places, other=other), numbers, places, dealt)
    return dealt
