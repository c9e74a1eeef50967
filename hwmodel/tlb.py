"""Translation of addresses: a look-up of pages that delays a request whose page is not among the last ones used.

One for each DMA engine and kernel, empty at first, fully associative, least recently used replaced; pages are as large
as the description says, whatever the pages of a KV cache are. A walk takes a constant time, and requests that need a
page under way wait for the same walk. Not modelled: the traffic of walks, how many can be under way, and levels of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.compiled import compiled
from hwmodel.description import TlbSpec

Array = np.ndarray[Any, Any]


@compiled
def _pages(bursts: Array, first: int, stop: int, page_bytes: int) -> Array:
    """Return the page of every burst, once for neighbours in one page."""
    found = np.empty(stop - first, np.int64)
    count = 0
    for at in range(first, stop):
        page = bursts[at] // page_bytes
        if count == 0 or found[count - 1] != page:
            found[count] = page
            count += 1
    return found[:count]


class Tlb:
    """The pages that are known, each with the time from which on it is."""

    def __init__(self, spec: TlbSpec) -> None:
        self._spec = spec
        self._known_fs: dict[int, int] = {}  # least recently used first

    def delay_fs(self, bursts: Array, first: int, stop: int, now_fs: int) -> int:
        """Look up the pages of bursts[first:stop]; return for how long the request waits."""
        ready_fs = now_fs
        for page in _pages(bursts, first, stop, self._spec.page).tolist():
            known_fs = self._known_fs.pop(page, None)
            if known_fs is None:
                known_fs = now_fs + self._spec.miss_latency
                if len(self._known_fs) >= self._spec.entries:
                    del self._known_fs[next(iter(self._known_fs))]
            self._known_fs[page] = known_fs
            ready_fs = max(ready_fs, known_fs)
        return ready_fs - now_fs
