"""Hashes of an address map by irreducible polynomials: one rule in place of lists of bits.

Beside `layouts.address_map`, which takes ``hashes: [irreducible]`` for it.  The bits of a number taken as a polynomial
over F2, its remainder by an irreducible one of degree d has d bits; of numbers a power of two apart, any aligned 2^d
have all 2^d remainders, and other strides come out as if at random (Rau, Pseudo-randomly interleaved memory, ISCA
1991).  Stacks, channels and pseudo-channels are XORed with the remainder of all higher bits; bank groups and banks
with that of the bits of the row, by a reciprocal polynomial, so that addresses which meet in a channel part in banks.

The odd factor of a size, three of twelve stacks, has no bits.  It is turned by the same higher bits, each with a
weight: those of the recurrence ``w[k] = a w[k-1] + b w[k-2]`` modulo the factor which has the longest period.  Modulo
a prime that is a remainder by an irreducible polynomial, too.  Weights that double from bit to bit would give the
number itself modulo the factor, and then all addresses of some stride lie in one stack.

Not modelled: hashes that differ between regions of memory, and tables in place of polynomials.
"""

from collections.abc import Sequence
from functools import cache
from math import gcd

from layouts.address_fields import FIELDS, Bit, Digit, Hash, Turn

RULE = "irreducible"
LARGE = 31  # an odd factor beyond which not all recurrences are looked at
CHANNELS = tuple(map(FIELDS.index, ("stack", "channel", "pseudo_channel")))
BANKS = tuple(map(FIELDS.index, ("bank_group", "bank")))
ROW = FIELDS.index("row")


def irreducible_hashes(digits: Sequence[Digit], sizes: Sequence[int]) -> tuple[tuple[Hash, ...], tuple[Turn, ...]]:
    """Return the hashes and turns of a map with these digits, the least significant first, and sizes of FIELDS.

    Bits below the highest digit of stacks and channels are never read, so that what lies side by side stays there.
    """
    last = max((place for place, digit in enumerate(digits) if digit.field in CHANNELS), default=-1)
    below, above = _bits(digits[: last + 1]), _bits(digits[last + 1 :])
    channels = [bit for bit in below if bit.field in CHANNELS]
    banks = [bit for bit in (*below, *above) if bit.field in BANKS]
    rows = [bit for bit in above if bit.field == ROW]
    hashes = _hashes(channels, above, irreducible(len(channels)))
    hashes += _hashes(banks, rows, reciprocal(irreducible(len(banks))))
    return tuple(hashes), tuple(turn for field in CHANNELS for turn in _turns(field, sizes[field], above))


def irreducible(degree: int, least: int = 0) -> int:
    """Return the smallest irreducible polynomial over F2 but x, from `least` on, bit k for x^k.

    19, x^4 + x + 1, is that of degree 4.
    """
    divisors = range(2, 1 << (degree // 2 + 1))
    odd = range(max(1 << degree, least) | 1, 2 << degree, 2)
    return next(number for number in odd if all(remainder(number, divisor) for divisor in divisors))


def reciprocal(polynomial: int) -> int:
    """Return a polynomial with its coefficients the other way round, which is irreducible, too."""
    return int(f"{polynomial:b}"[::-1], 2)


def remainder(number: int, divisor: int) -> int:
    """Return the remainder of a polynomial over F2 by another one, bit k for x^k."""
    while number.bit_length() >= divisor.bit_length():
        number ^= divisor << (number.bit_length() - divisor.bit_length())
    return number


def _bits(digits: Sequence[Digit]) -> list[Bit]:
    """Return the bits that digits consist of, the least significant first, without what is no power of two."""
    found = []
    for digit in digits:
        if digit.multiplier & (digit.multiplier - 1) == 0:
            first, count = digit.multiplier.bit_length() - 1, (digit.modulus & -digit.modulus).bit_length() - 1
            found += [Bit(digit.field, bit) for bit in range(first, first + count)]
    return found


def _hashes(targets: Sequence[Bit], sources: Sequence[Bit], polynomial: int) -> list[Hash]:
    """Return the hashes that add to the targets, bits 0 and up, the remainder of the sources above them."""
    remainders = [remainder(1 << (len(targets) + place), polynomial) for place in range(len(sources))]
    reads = zip(sources, remainders, strict=True)
    return [Hash(targets[k], bit) for bit, remainder in reads for k in range(len(targets)) if remainder >> k & 1]


def _turns(field: int, size: int, sources: Sequence[Bit]) -> list[Turn]:
    """Return the turns of the odd factor of a field, none where there is no such factor."""
    twos = size & -size
    found = weights(size // twos, len(sources))
    return [Turn(field, twos * weight, bit) for bit, weight in zip(sources, found, strict=True) if weight]


def weights(modulus: int, count: int) -> list[int]:
    """Return the first numbers of a recurrence modulo a number, from 0 and 1 on, without the 0.

    Of a small modulus the recurrence with the longest period; of a large one the first that can be run backwards, so
    that 0 and 1 come again, and whose period is as long.
    """
    if modulus <= LARGE:
        _, minus_a, minus_b = max((_period(a, b, modulus), -a, -b) for a in range(modulus) for b in range(modulus))
        a, b = -minus_a, -minus_b
    else:
        pairs = ((a, b) for a in range(1, modulus) for b in range(1, modulus))
        a, b = next((a, b) for a, b in pairs if gcd(b, modulus) == 1 and not 0 < _period(a, b, modulus, count) < count)
    found = [0, 1]
    while len(found) <= count:
        found.append((a * found[-1] + b * found[-2]) % modulus)
    return [weight % modulus for weight in found[1 : count + 1]]


@cache
def _period(a: int, b: int, modulus: int, most: int = LARGE * LARGE) -> int:
    """Return after how many steps 0, 1 comes again; 0 where it does not in so many."""
    before, last = 0, 1 % modulus
    for step in range(1, min(most, modulus * modulus)):
        before, last = last, (a * last + b * before) % modulus
        if (before, last) == (0, 1 % modulus):
            return step
    return 0
