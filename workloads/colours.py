"""Colours of KV pages: which channel or bank a page lies in, and how evenly pages that are read together spread.

Between the placed KV cache and the order "coloured" of its page table. A page takes many bursts; a kernel that reads
one head of it takes some of them. The colour of a page is where the first of these lies.
Not modelled: the order of the bursts in time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hwmodel.program import Tensor
from layouts import AddressMap
from layouts.address_fields import FIELDS
from layouts.notation import nearest_first
from workloads.numbering import within_owners
from workloads.paging import PageTable


def page_colours(cache: Tensor, address_map: AddressMap, fields: Sequence[str], **at: int) -> NDArray[np.int64]:
    """Return a colour per page: the values of `fields` (stack, channel, ..., row) where its first byte lies.

    `cache`: a placed tensor with an axis "page"; `at`: coordinates of other axes (kv, head), 0 unless given. Colours
    are numbers, equal where all the fields are. Raises ValueError for an axis or a field that does not exist.
    """
    point = {axis: np.array(at.get(axis, 0)) for axis in _axes(cache, at)}
    pages = np.arange(cache.layout.size("page"))
    addresses = cache.base_bytes + cache.layout.offsets(page=pages, **point) * cache.element_bytes
    return _values(np.asarray(addresses), address_map, fields)


def imbalance(table: PageTable, bursts: NDArray[np.int64], window: int = 1) -> float:
    """Return how much longer reading takes than if the bursts were spread evenly, at least 1.

    The pages at `window` consecutive positions of all sequences are read together, window after window; each takes
    the time of its busiest value. `bursts`: int64 [pages, values], how many of a page lie at each; or one-hot colours.
    """
    counts = np.diff(table.first_page)
    _, position = within_owners(counts)
    busiest, even = 0, 0.0
    order = np.argsort(position // window, kind="stable")
    stops = np.searchsorted((position // window)[order], np.arange(1, -(-int(counts.max()) // window)))
    for entries in np.split(order, stops):
        together = bursts[np.unique(table.pages[entries])].sum(axis=0)
        busiest += int(together.max())
        even += float(together.sum()) / len(together)
    return busiest / even


def _axes(cache: Tensor, at: dict[str, int]) -> list[str]:
    rest = [axis for axis in cache.layout.axes if axis != "page"]
    if len(rest) == len(cache.layout.axes):
        raise ValueError(f"tensor {cache.name}: no axis page; it has {', '.join(cache.layout.axes)}")
    for axis in at:
        if axis not in rest:
            raise ValueError(f"tensor {cache.name}: no axis {axis!r}; known: {nearest_first(axis, rest)}")
    return rest


def _known(fields: Sequence[str]) -> Sequence[str]:
    for field in fields:
        if field not in FIELDS:
            raise ValueError(f"colours: unknown field {field!r}; known: {nearest_first(field, FIELDS)}")
    return fields


def _values(addresses: NDArray[np.int64], address_map: AddressMap, fields: Sequence[str]) -> NDArray[np.int64]:
    """Return the fields of addresses as one number, the last field fastest."""
    location = address_map.decode(addresses)
    found = np.zeros(addresses.shape, dtype=np.int64)
    for field in _known(fields):
        place = FIELDS.index(field)
        found = found * address_map.sizes[place] + location[place]
    return found
