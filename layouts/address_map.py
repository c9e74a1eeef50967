"""The address map: which DRAM cell a physical byte address names.

Last link of the data's path: byte address -> (stack, channel, pseudo-channel, bank group, bank, row,
column), where a column is one burst.  A map is a mixed-radix number, least significant digit first, whose
digits belong to the fields, followed by XOR hashes of field bits: ``bank_group[0] ^= row[0] row[4]``.
Hashes read the fields as they are before any hash; together they are a linear map over F2 of the hashed
bits, and the map is a bijection exactly when that matrix has full rank.  Digits are division and
remainder, so five stacks or three channels are as good as four.  A field whose size is no power of two has
no bits to hash; it is turned instead, as any other may be: ``stack += row[2:0] bank_group[1:0]`` adds the
number that these bits spell, the most significant first, modulo its size.  In place of a list of hashes may stand
the rule by which GPUs are assumed to spread addresses, ``irreducible`` (`layouts.irreducible`).

Not modelled: remapped (spare) rows, holes in the physical address space, and maps that differ between
regions.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from layouts.address_fields import FIELDS, Bit, Digit, Hash, Turn
from layouts.algebra import coalesce
from layouts.bulk import IntArray, as_index_array
from layouts.irreducible import RULE, irreducible_hashes
from layouts.layout import Layout, flat_layout
from layouts.notation import nearest_first
from layouts.shape import as_int
from layouts.stride import E, X, vector

MAX_ADDRESS_BITS = 62  # so that every address and intermediate product fits int64

_DIGIT = re.compile(r"([a-z_]+)(?::([0-9]{1,3}))?")
_NAMED_BITS = re.compile(r"([a-z_]+)\[([0-9]{1,3})(?::([0-9]{1,3}))?\]")
_BIT = re.compile(r"([a-z_]+)\[([0-9]{1,3})\]")


class Location(NamedTuple):
    """Where bursts lie: one int64 array per field, all of the shape of the addresses asked for."""

    stack: IntArray
    channel: IntArray
    pseudo_channel: IntArray
    bank_group: IntArray
    bank: IntArray
    row: IntArray
    column: IntArray


@dataclass(frozen=True)
class AddressMap:
    """An invertible map from byte addresses to locations; made by `AddressMap.create`."""

    name: str
    burst_bytes: int
    sizes: tuple[int, ...]
    digits: tuple[Digit, ...]
    hashes: tuple[Hash, ...]
    unhashes: tuple[Hash, ...]
    turns: tuple[Turn, ...] = ()

    @classmethod
    def create(
        cls,
        fields: Sequence[str],
        hashes: Sequence[str],
        sizes: Mapping[str, int],
        burst_bytes: int,
        name: str = "address map",
    ) -> "AddressMap":
        """Build a map from text: `fields` least significant first, ``field:bits`` or ``field`` for the rest.

        A field of 2^n can also be placed by naming its bits, ``bank[2]`` and ``bank[1:0]``, in any order.

        The first entry is the offset within a burst, ``offset:5`` for 32 bytes.  `sizes` gives the size
        of each of FIELDS; ``["irreducible"]`` as `hashes` is a rule.  ValueError names the map and what is
        wrong: a field not covered exactly, an unknown name, an offset that is not the burst, a hash of a bit
        that does not exist, hashes that cannot be inverted.
        """
        try:
            checked = _check_sizes(sizes, burst_bytes)
            digits = _read_digits(fields, checked, burst_bytes)
            follow = list(hashes) == [RULE]
            rows, turns = irreducible_hashes(digits, checked) if follow else _read_hashes(hashes, checked)
            return cls(name, burst_bytes, checked, digits, rows, _invert(rows), turns)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    @property
    def capacity_bytes(self) -> int:
        """The number of bytes the map covers: burst bytes times the size of every field."""
        return self.burst_bytes * prod(self.sizes)

    def decode(self, addresses: ArrayLike) -> Location:
        """Return where the bursts of byte addresses lie; ValueError beyond the capacity."""
        bytes_ = self._check_addresses(addresses)
        fields = [np.zeros(bytes_.shape, dtype=np.int64) for _ in FIELDS]
        for digit in self.digits:
            fields[digit.field] += _digit(bytes_, digit.divisor, digit.modulus) * digit.multiplier
        hashed = _xor(fields, self.hashes)
        for field, turned in self._turned(fields).items():
            hashed[field] = (hashed[field] + turned) % self.sizes[field]
        return Location(*hashed)

    def _turned(self, fields: Sequence[IntArray]) -> dict[int, IntArray]:
        """Return by how much each field is turned, from unhashed fields."""
        found: dict[int, IntArray] = {}
        for field, weight, source in self.turns:
            found[field] = found.get(field, np.int64(0)) + weight * ((fields[source.field] >> source.bit) & 1)
        return found

    def encode(
        self,
        stack: ArrayLike,
        channel: ArrayLike,
        pseudo_channel: ArrayLike,
        bank_group: ArrayLike,
        bank: ArrayLike,
        row: ArrayLike,
        column: ArrayLike,
    ) -> IntArray:
        """Return the address of the first byte of bursts: `decode` inverted, ``encode(*decode(a))``.

        Arrays broadcast against each other.  ValueError names a field that is out of its range.
        """
        given = (stack, channel, pseudo_channel, bank_group, bank, row, column)
        where = [f"{self.name}: {field}" for field in FIELDS]
        arrays = np.broadcast_arrays(*map(as_index_array, given, self.sizes, where))
        raw = _xor([np.array(array) for array in arrays], self.unhashes)
        for field, turned in self._turned(raw).items():
            raw[field] = (raw[field] - turned) % self.sizes[field]
        address = np.zeros(raw[0].shape, dtype=np.int64)
        for digit in self.digits:
            address += _digit(raw[digit.field], digit.multiplier, digit.modulus) * digit.divisor
        return address

    def compiled(self) -> tuple[IntArray, IntArray]:
        """Return the map as two int64 tables for compiled code.

        digits[n, 4] = (divisor, modulus, field, multiplier):
        raw[field] += address // divisor % modulus * multiplier;
        then hashes[m, 6] = (target field, target bit, source field, source bit, weight, size):
        field[target] ^= ((raw[source] >> source bit) & 1) << target bit, or where size is not 0 a turn:
        field[target] = (field[target] + ((raw[source] >> source bit) & 1) * weight) % size, with weight < size.
        Fields are places in FIELDS.
        """
        digits = np.array(self.digits, dtype=np.int64).reshape(-1, 4)
        rows = [(*row.target, *row.source, 0, 0) for row in self.hashes]
        rows += [(turn.field, 0, *turn.source, turn.weight, self.sizes[turn.field]) for turn in self.turns]
        return digits, np.array(rows, dtype=np.int64).reshape(-1, 6)

    def layout(self) -> Layout:
        """Return the map as a layout from byte addresses to steps along FIELDS, to read the result of another one.

        A digit is an integer stride along its field; a bit that is hashed into others is an XOR stride along all of
        them.  As a stage its last digit goes on without end: addresses beyond the capacity are not refused.
        ValueError where bits of a field are hashed whose size is no power of two: they are no digits of the address;
        and where a field is turned.
        """
        for turn in self.turns:
            raise ValueError(f"{self.name}: turns {FIELDS[turn.field]} by {turn.source}: no layout does that")
        feeds: dict[Bit, list[Bit]] = {}
        for target, source in self.hashes:
            feeds.setdefault(source, []).append(target)
            if (size := self.sizes[source.field]) & (size - 1):
                raise ValueError(f"{self.name}: hashes {source}, a bit of a field of size {size}: no layout does that")
        modes: list[tuple[int, Any]] = [(self.burst_bytes, 0)]
        for _, modulus, field, multiplier in self.digits:
            modes += _digit_modes(modulus, field, multiplier, feeds)
        return coalesce(flat_layout(modes))

    @cached_property
    def _address_name(self) -> str:
        return f"{self.name} (capacity {self.capacity_bytes} bytes)"

    def _check_addresses(self, addresses: ArrayLike) -> IntArray:
        try:
            return as_index_array(addresses, self.capacity_bytes, "address")
        except ValueError as error:
            raise ValueError(f"{self._address_name}: {error}") from None


def _digit_modes(modulus: int, field: int, multiplier: int, feeds: Mapping[Bit, list[Bit]]) -> list[tuple[int, Any]]:
    """Return the modes of one digit: whole, or bit by bit where bits of it are hashed into other fields."""
    first = multiplier.bit_length() - 1
    bits = [Bit(field, first + k) for k in range(modulus.bit_length() - 1)]
    if not any(bit in feeds for bit in bits):
        return [(modulus, E(FIELDS[field]) * multiplier)]
    modes: list[tuple[int, Any]] = []
    for bit in bits:
        targets = [(FIELDS[where], X(1 << place)) for where, place in (bit, *feeds.get(bit, ()))]
        modes.append((2, vector(targets)))
    return modes


def _digit(values: IntArray, divisor: int, modulus: int) -> IntArray:
    """Return values // divisor % modulus, by shift and mask where both are powers of two."""
    if divisor & (divisor - 1) == 0 and modulus & (modulus - 1) == 0:
        return (values >> (divisor.bit_length() - 1)) & (modulus - 1)
    return values // divisor % modulus


def _xor(fields: list[IntArray], rows: tuple[Hash, ...]) -> list[IntArray]:
    """Return the fields after the hashes, all of which read the fields as given."""
    result = list(fields)
    for target, source in rows:
        bit = (fields[source.field] >> source.bit) & 1
        result[target.field] = result[target.field] ^ (bit << target.bit)
    return result


def _check_sizes(sizes: Mapping[str, int], burst_bytes: int) -> tuple[int, ...]:
    for field in sizes:
        if field not in FIELDS:
            raise ValueError(f"sizes: unknown field {field!r}, allowed are {nearest_first(field, FIELDS)}")
    if missing := [field for field in FIELDS if field not in sizes]:
        raise ValueError(f"sizes: the size of {missing[0]} is missing")
    if as_int(burst_bytes, "burst_bytes") < 1 or burst_bytes & (burst_bytes - 1):
        raise ValueError(f"burst_bytes is {burst_bytes}, allowed are powers of two")
    for field in FIELDS:
        if as_int(sizes[field], f"size of {field}") < 1:
            raise ValueError(f"size of {field} is {sizes[field]}, sizes are at least 1")
    checked = tuple(int(sizes[field]) for field in FIELDS)
    if burst_bytes * prod(checked) > 2**MAX_ADDRESS_BITS:
        raise ValueError(f"capacity of {burst_bytes * prod(checked)} bytes, at most 2**{MAX_ADDRESS_BITS} are allowed")
    return checked


def _read_digits(fields: Sequence[str], sizes: tuple[int, ...], burst_bytes: int) -> tuple[Digit, ...]:
    offset_bits = burst_bytes.bit_length() - 1
    if not fields or fields[0] != f"offset:{offset_bits}":
        first = repr(fields[0]) if fields else "nothing"
        raise ValueError(f"the first digit is {first}, bursts of {burst_bytes} bytes need 'offset:{offset_bits}'")
    digits: list[Digit] = []
    covered = [1] * len(FIELDS)
    named = [0] * len(FIELDS)
    divisor = burst_bytes
    for text in fields[1:]:
        bits = _read_named_bits(text, sizes, covered, named)
        field, modulus, multiplier = bits or _read_digit(text, sizes, covered, named)
        if modulus > 1:
            digits.append(Digit(divisor, modulus, field, multiplier))
        covered[field] *= modulus
        divisor *= modulus
    for name, size, have in zip(FIELDS, sizes, covered, strict=True):
        if have != size:
            raise ValueError(f"digits of {name}: {_shortfall(size // have)}, they cover {have} of {size}")
    return tuple(digits)


def _shortfall(factor: int) -> str:
    return (
        f"{factor.bit_length() - 1} bits too few" if factor & (factor - 1) == 0 else f"a factor of {factor} is missing"
    )


def _read_named_bits(
    text: str, sizes: tuple[int, ...], covered: list[int], named: list[int]
) -> tuple[int, int, int] | None:
    """Return (field, modulus, multiplier) of a digit that names its bits and note them in `named`, or None."""
    match = _NAMED_BITS.fullmatch(text)
    if match is None or match[1] not in FIELDS:
        return None
    field, high = FIELDS.index(match[1]), int(match[2])
    low = int(match[3]) if match[3] else high
    size = sizes[field]
    bits = ((1 << (high + 1)) - 1) >> low << low
    if size & (size - 1) or not low <= high < size.bit_length() - 1:
        raise ValueError(f"digit {text!r}: {match[1]} has the bits 0 .. {size.bit_length() - 2} of a size of {size}")
    if named[field] & bits or (covered[field] > 1 and not named[field]):
        raise ValueError(f"digit {text!r}: the bits are covered already")
    named[field] |= bits
    return field, 1 << (high - low + 1), 1 << low


def _read_digit(text: str, sizes: tuple[int, ...], covered: list[int], named: list[int]) -> tuple[int, int, int]:
    """Return (field, modulus, multiplier) of one digit's text, given what the digits before it cover."""
    match = _DIGIT.fullmatch(text)
    if match is None:
        raise ValueError(f"digit {text!r}: expected 'field:bits', 'field[high:low]' or 'field'")
    if match[1] not in FIELDS:
        raise ValueError(f"digit {text!r}: unknown field, allowed are {nearest_first(match[1], FIELDS)}")
    field = FIELDS.index(match[1])
    size = sizes[field]
    if named[field]:
        raise ValueError(f"digit {text!r}: {match[1]} is placed by named bits already")
    rest = size // covered[field]
    if match[2] is None:
        if rest == 1 and size > 1:
            raise ValueError(f"digit {text!r}: nothing of {match[1]} is left, its size {size} is covered already")
        return field, rest, covered[field]
    bits = int(match[2])
    if bits == 0:
        raise ValueError(f"digit {text!r}: a digit has at least 1 bit")
    left = (rest & -rest).bit_length() - 1
    if bits > left:
        whole = "" if rest & (rest - 1) == 0 else f" (write {match[1]!r} without bits for the factor {rest >> left})"
        raise ValueError(f"digit {text!r}: {bits - left} bits too many, {left} bits of size {size} are left{whole}")
    return field, 1 << bits, covered[field]


def _read_hashes(hashes: Sequence[str], sizes: tuple[int, ...]) -> tuple[tuple[Hash, ...], tuple[Turn, ...]]:
    turns = tuple(turn for text in hashes if "+=" in text for turn in _read_turn(text, sizes))
    rows = tuple(row for text in hashes if "+=" not in text for row in _read_hash(text, sizes))
    if twice := [row for row in rows if rows.count(row) > 1]:
        raise ValueError(f"hash of {twice[0].target}: the source {twice[0].source} appears twice")
    turned = {turn.field for turn in turns}
    sources = [row.source for row in rows] + [turn.source for turn in turns]
    if target := next((row.target for row in rows if row.target.field in turned), None):
        raise ValueError(f"hash of {target}: {FIELDS[target.field]} is turned, it cannot be hashed, too")
    if read := next((source for source in sources if source.field in turned), None):
        raise ValueError(f"hash of {read}: {FIELDS[read.field]} is turned, no hash may read it")
    return rows, turns


def _read_hash(text: str, sizes: tuple[int, ...]) -> list[Hash]:
    target_text, operator, sources_text = text.partition("^=")
    sources = sources_text.split()
    if not operator or not sources:
        raise ValueError(f"hash {text!r}: expected 'field[bit] ^= field[bit] ...'")
    target = _read_bit(target_text.strip(), text, sizes)
    size = sizes[target.field]
    if size & (size - 1):
        raise ValueError(f"hash {text!r}: {FIELDS[target.field]} has size {size}, only powers of two can be hashed")
    return [Hash(target, _read_bit(source, text, sizes)) for source in sources]


def _read_turn(text: str, sizes: tuple[int, ...]) -> list[Turn]:
    name, _, sources_text = text.partition("+=")
    sources = sources_text.split()
    if name.strip() not in FIELDS or not sources:
        raise ValueError(f"turn {text!r}: expected 'field += field[high:low] ...'")
    field = FIELDS.index(name.strip())
    size = sizes[field]
    turns: list[Turn] = []
    weight = 1
    for source in reversed(sources):
        match = _NAMED_BITS.fullmatch(source)
        if match is None:
            raise ValueError(f"turn {text!r}: expected field[high:low] or field[bit], found {source!r}")
        high, low = int(match[2]), int(match[3] or match[2])
        if high < low:
            raise ValueError(f"turn {text!r}: {source!r} has no bits")
        bits = [_read_bit(f"{match[1]}[{bit}]", text, sizes) for bit in range(low, high + 1)]
        for bit in bits:
            turns.append(Turn(field, weight, bit))
            weight = 2 * weight % size
    return turns


def _read_bit(text: str, where: str, sizes: tuple[int, ...]) -> Bit:
    match = _BIT.fullmatch(text)
    if match is None:
        raise ValueError(f"hash {where!r}: expected field[bit], found {text!r}")
    if match[1] not in FIELDS:
        raise ValueError(f"hash {where!r}: unknown field {match[1]!r}, allowed are {nearest_first(match[1], FIELDS)}")
    field = FIELDS.index(match[1])
    bits = (sizes[field] - 1).bit_length()
    if int(match[2]) >= bits:
        raise ValueError(f"hash {where!r}: {match[1]} of size {sizes[field]} has {bits} bits, there is no {text}")
    return Bit(field, int(match[2]))


def _invert(rows: tuple[Hash, ...]) -> tuple[Hash, ...]:
    """Return the hashes that undo `rows`: read from the hashed fields, they give the unhashed ones.

    Gauss-Jordan elimination over F2 of  hashed = raw + sum of sources,  rows as sets of bits, whose
    symmetric difference is the sum: `left` holds raw target bits, `right` hashed bits (sources that are
    no target stay as they are).  ValueError names hashed bits whose equations add up to nothing.
    """
    targets = list(dict.fromkeys(row.target for row in rows))
    left = {t: {t} ^ {row.source for row in rows if row.target == t and row.source in targets} for t in targets}
    right = {t: {t} | {row.source for row in rows if row.target == t and row.source not in targets} for t in targets}
    solved: dict[Bit, Bit] = {}  # raw bit -> the equation that has been solved for it
    for equation in targets:
        pivot = next((bit for bit in targets if bit in left[equation] and bit not in solved), None)
        if pivot is None:
            dependent = ", ".join(str(bit) for bit in targets if bit in right[equation])
            raise ValueError(
                f"the hashes are not invertible: the hashed bits {dependent} are linearly dependent "
                f"(F2 rank {_rank(left)} of {len(targets)})"
            )
        solved[pivot] = equation
        for other in targets:
            if other != equation and pivot in left[other]:
                left[other] = left[other] ^ left[equation]
                right[other] = right[other] ^ right[equation]
    return tuple(Hash(t, bit) for t in targets for bit in sorted(right[solved[t]] ^ {t}))


def _rank(rows: Mapping[Bit, set[Bit]]) -> int:
    """Return the F2 rank of rows given as sets of bits."""
    remaining = [set(row) for row in rows.values() if row]
    rank = 0
    while remaining:
        row = remaining.pop()
        pivot = next(iter(row))
        rank += 1
        remaining = [r for r in (other ^ row if pivot in other else other for other in remaining) if r]
    return rank
