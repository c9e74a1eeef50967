"""The network between cores and memory, and the shared cache as a stage behind it.

Each core has one port per direction, a server that passes bytes in the order in which they arrive; the shared cache is
one server for all cores. Links between switches, the cache's slices and its capacity are not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Server:
    """A first-come-first-served server: what is offered at `now` starts when it is free."""

    free_fs: int = 0
    busy_fs: int = 0

    def serve(self, now_fs: int, duration_fs: int) -> int:
        """Return when a job of `duration_fs` offered at `now_fs` is finished. Offers come in order of time."""
        self.free_fs = max(now_fs, self.free_fs) + duration_fs
        self.busy_fs += duration_fs
        return self.free_fs
