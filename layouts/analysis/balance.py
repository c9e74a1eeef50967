"""How the bursts of a buffer spread over channels, banks and rows.

Last link of the data's path, asked about a whole buffer at once: its bytes are cut into bursts, each counted once,
and the address map says where each lies.  Over F2, where the map has only powers of two, the bursts are a space and
the chosen fields a linear map of it, so that every value that is hit at all is hit equally often; otherwise every
burst is decoded.

Not modelled: the order of the bursts in time, on which row hits and misses depend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from layouts.address_fields import FIELDS
from layouts.address_map import AddressMap
from layouts.analysis.buffer import Affine, Buffer
from layouts.analysis.bursts import granule_intervals
from layouts.bulk import IntArray, xor_extremes
from layouts.f2 import image_basis, rank
from layouts.notation import nearest_first

MAX_BINS = 2**24  # assumed: all banks of a machine times its rows are some million
MAX_BURSTS = 2**26  # assumed: 2 to 4 GiB of bursts decoded one by one, some ten seconds
_BLOCK = 1 << 20  # bursts decoded at once


@dataclass(frozen=True, eq=False)
class Balance:
    """Bursts per value of the chosen fields: `counts`, int64 with one dimension per field; `form` "rank" or "count"."""

    fields: tuple[str, ...]
    counts: IntArray
    form: str

    @property
    def bursts(self) -> int:
        """All bursts."""
        return int(self.counts.sum())

    @property
    def used(self) -> int:
        """The values (channels, banks, ...) that get a burst."""
        return int(np.count_nonzero(self.counts))

    @property
    def most(self) -> int:
        """The bursts of the busiest value."""
        return int(self.counts.max())

    @property
    def imbalance(self) -> float:
        """The busiest value over the mean of all, at least 1: the slow-down if all values were equally fast."""
        return self.most * self.counts.size / self.bursts


def balance(buffer: Buffer, address_map: AddressMap, fields: Sequence[str]) -> Balance:
    """Return how many bursts of the buffer fall on each value of `fields` together, exactly.

    ``("stack", "channel")`` counts channels, adding ``"bank_group", "bank"`` banks, adding ``"row"`` row openings.
    ValueError for an unknown or repeated field, more than MAX_BINS values, bytes beyond the capacity of the map, or
    more than MAX_BURSTS bursts without a closed form.
    """
    places = _places(fields, address_map)
    shape = tuple(address_map.sizes[place] for place in places)
    affine = buffer.affine
    if affine is not None and _is_binary(address_map):
        flat = _by_rank(affine, address_map, places)
        return Balance(tuple(fields), flat.reshape(shape), "rank")
    return Balance(tuple(fields), _by_decoding(buffer, address_map, places).reshape(shape), "count")


def _places(fields: Sequence[str], address_map: AddressMap) -> list[int]:
    for field in fields:
        if field not in FIELDS:
            raise ValueError(f"balance: unknown field {field!r}, allowed are {nearest_first(str(field), FIELDS)}")
    if not fields or len(set(fields)) != len(fields):
        raise ValueError(f"balance: fields {tuple(fields)}, at least one is needed, and none twice")
    places = [FIELDS.index(field) for field in fields]
    if (bins := prod(address_map.sizes[place] for place in places)) > MAX_BINS:
        raise ValueError(f"balance: {' x '.join(fields)} has {bins} values, at most {MAX_BINS} are allowed")
    return places


def _is_binary(address_map: AddressMap) -> bool:
    numbers = [number for digit in address_map.digits for number in (digit.divisor, digit.modulus)]
    return not address_map.turns and not any(number & (number - 1) for number in numbers)


def _check_capacity(low: int, high: int, address_map: AddressMap) -> None:
    if low < 0 or high >= address_map.capacity_bytes:
        raise ValueError(
            f"{address_map.name}: the buffer takes the bytes {low}..{high}, "
            f"the capacity is {address_map.capacity_bytes} bytes"
        )


def _by_rank(affine: Affine, address_map: AddressMap, places: list[int]) -> IntArray:
    _check_capacity(*xor_extremes(*affine), address_map)
    burst = address_map.burst_bytes
    zero, *images = _flat_fields(
        np.array([affine.zero, *affine.bits], dtype=np.int64) // burst * burst, address_map, places
    ).tolist()
    # The hashed fields of address 0 are 0: the map is linear, not only affine.
    hit = np.array([zero], dtype=np.int64)
    for image in image_basis(images):
        hit = np.concatenate([hit, hit ^ image])
    counts = np.zeros(prod(address_map.sizes[place] for place in places), dtype=np.int64)
    counts[hit] = (1 << rank(bit // burst for bit in affine.bits)) // len(hit)
    return counts


def _flat_fields(addresses: IntArray, address_map: AddressMap, places: list[int]) -> IntArray:
    """Return the chosen fields of addresses as one number, the last field fastest."""
    location = address_map.decode(addresses)
    flat = np.zeros(addresses.shape, dtype=np.int64)
    for place in places:
        flat = flat * address_map.sizes[place] + location[place]
    return flat


def _by_decoding(buffer: Buffer, address_map: AddressMap, places: list[int]) -> IntArray:
    first, stop = buffer.intervals()
    _check_capacity(int(first[0]), int(stop[-1]) - 1, address_map)
    low, high = granule_intervals(first, stop, address_map.burst_bytes)
    before = np.concatenate([[0], np.cumsum(high - low)])
    total = int(before[-1])
    if total > MAX_BURSTS:
        raise ValueError(
            f"layout {buffer.layout}: {total} bursts are too many to decode, at most {MAX_BURSTS} are allowed"
        )
    counts = np.zeros(prod(address_map.sizes[place] for place in places), dtype=np.int64)
    for start in range(0, total, _BLOCK):
        numbers = np.arange(start, min(start + _BLOCK, total))
        interval = np.searchsorted(before, numbers, side="right") - 1
        bursts = low[interval] + (numbers - before[interval])
        flat = _flat_fields(bursts * address_map.burst_bytes, address_map, places)
        counts += np.bincount(flat, minlength=counts.size)
    return counts


__all__ = ["Balance", "balance"]
