"""The network between cores and memory: the cores' ports, the cut between cores and memory, and multicast.

Each core has one port per direction, a server that passes bytes in the order in which they arrive. Where the
description gives a bisection bandwidth, all cores' data passes one more server per direction. With multicast, a load
that asks for the same bursts as one that left another core shortly before joins it: memory is asked once, and the data
crosses the cut once and then every core's port. It reaches a core once: a core that asks again is answered again, so
no load serves more requests than there are cores, which `bounds` counts on.

Where slices of a main memory of SRAM are the cores' own (`distributed_sram.local`), a request that lies in its own
core's slice as a whole stays there: it takes neither the network's latency nor the cut, and only its core's port. One
that touches another slice crosses the network with all of its bytes. Links between switches, their routing, and how
far apart two cores are, are not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwmodel import units
from hwmodel.description import NocSpec


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


class Cut:
    """One direction of the network's middle; passes at once where its bandwidth does not limit."""

    def __init__(self, spec: NocSpec) -> None:
        self._bytes_per_second = spec.bisection
        self._server = Server()

    def cross(self, now_fs: int, size_bytes: int) -> int:
        """Return when data that is offered now has crossed."""
        if self._bytes_per_second is None:
            return now_fs
        return self._server.serve(now_fs, units.transfer_fs(size_bytes, self._bytes_per_second))


class Multicast:
    """Loads on their way to memory that others may join, by what they ask for."""

    def __init__(self, spec: NocSpec) -> None:
        self._window_fs = spec.multicast_window
        self._open: dict[bytes, tuple[int, Any, set[Any]]] = {}  # when it left, the load, the engines that wait for it
        self.merged_bytes = 0

    def join(self, load: Any, now_fs: int) -> bool:
        """Return whether the load joins an earlier one, whose `followers` it is then among; else others may join it."""
        if self._window_fs is None:
            return False
        asked = load.bursts[load.first : load.stop].tobytes()
        left_fs, leader, engines = self._open.get(asked, (0, None, set()))
        engine = load.request.engine
        if leader is not None and now_fs - left_fs <= self._window_fs and engine not in engines:
            leader.followers.append(load)
            engines.add(engine)
            self.merged_bytes += load.size_bytes
            return True
        self._open[asked] = now_fs, load, {engine}
        return False

    def close(self, load: Any) -> None:
        """The load's data leaves memory: nobody can join it any more."""
        if self._window_fs is not None:
            asked = load.bursts[load.first : load.stop].tobytes()
            if asked in self._open and self._open[asked][1] is load:
                del self._open[asked]
