"""Ramulator 2.1's controller, tick by tick: one read and one write buffer per channel, FR-FCFS, all-bank refresh.

Not modelled: per-bank refresh, closed-page policies, auto-precharge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plain_controller import COLUMN, ROW, Command, Constraint, Controller, Place, Request


@dataclass(frozen=True)
class SharedBufferSettings:
    constraints: tuple[Constraint, ...]
    pseudo_channels: int
    decode: Callable[[int], Place]
    read_latency: int  # nCL + nBL
    ticks_per_ck: int  # 2: columns and activates start at odd ticks, even ones close rows only
    act_ticks: int
    refresh_interval: int = 0  # 0: no refresh
    protect_hits: bool = True  # FRFCFS-RowHit
    read_capacity: int = 32
    write_capacity: int = 32
    high: float = 0.8
    low: float = 0.2


class SharedBuffers(Controller):
    """A read buffer, a write buffer, an active buffer (ACT issued) and a FIFO of refreshes that goes before them."""

    def __init__(self, settings: SharedBufferSettings) -> None:
        super().__init__(settings.constraints)
        self.settings = settings
        self.clk = 0
        self.reads: list[Request] = []
        self.writes: list[Request] = []
        self.active: list[Request] = []
        self.priority: list[Place] = []  # all-bank refreshes asked for
        self.write_mode = False
        self.last_rising: Command | None = None

    def offer(self, address: int, is_write: bool) -> bool:
        request = Request(address, is_write, self.clk, self.settings.decode(address))
        waiting_write = any(write.address == address for write in self.writes)
        if waiting_write and is_write:
            self.outcome.coalesced += 1
        elif waiting_write:
            self.outcome.forwarded += 1
            self.under_way.append((self.clk + 1, request))
        elif is_write:
            if len(self.writes) >= self.settings.write_capacity:
                return False
            self.writes.append(request)
        else:
            if len(self.reads) >= self.settings.read_capacity:
                return False
            self.reads.append(request)
        return True

    def drained(self) -> bool:
        return not (self.reads or self.writes or self.active or self.under_way)

    def tick(self) -> None:
        self.clk += 1
        self.call_back(self.clk)
        interval = self.settings.refresh_interval
        if interval and self.clk % interval == 0:
            self.priority.extend(Place(pc) for pc in range(self.settings.pseudo_channels))
        rising = self.settings.ticks_per_ck == 1 or self.clk % 2 == 1
        if rising:
            self.column_slot()
        self.row_slot(rising)

    def column_slot(self) -> None:
        request = self.best(self.active, COLUMN)
        if request is None or not self.ready(request):
            if self.priority:
                return
            request = self.best(self.buffer_of_the_mode(), COLUMN)
        if request is not None and self.ready(request):
            self.start(request)

    def row_slot(self, rising: bool) -> None:
        if self.priority:
            self.refresh_step(rising)
            return
        buffer = self.buffer_of_the_mode()
        request = self.best(buffer, ("ACT", "PREpb") if rising else ("PREpb",))
        if request is not None and self.ready(request):
            self.start(request)

    def refresh_step(self, rising: bool) -> None:
        place = self.priority[0]
        name = "PREab" if any(row is not None and b[0] == place.pc for b, row in self.open_rows.items()) else "REFab"
        if name == "REFab" and not rising:
            return
        if name == "PREab" and any(request.place.pc == place.pc for request in self.active):
            return
        if not self.allowed(name, place):
            return
        self.issue(self.clk, name, place)
        if name == "REFab":
            self.priority.pop(0)

    def buffer_of_the_mode(self) -> list[Request]:
        size, capacity = len(self.writes), self.settings.write_capacity
        if not self.write_mode:
            self.write_mode = size > self.settings.high * capacity or not self.reads
        elif size < self.settings.low * capacity and self.reads:
            self.write_mode = False
        return self.writes if self.write_mode else self.reads

    def best(self, buffer: Sequence[Request], names: tuple[str, ...]) -> Request | None:
        """Return the candidate that is ready, then the oldest, then the first of the list."""
        best, best_key = None, (True, 0)
        for request in buffer:
            name = self.needed(request)
            if name not in names or (name == "PREpb" and self.suppressed(request, buffer)):
                continue
            key = (not self.ready(request), request.arrive)
            if best is None or key < best_key:
                best, best_key = request, key
        return best

    def suppressed(self, request: Request, buffer: Sequence[Request]) -> bool:
        """Return whether the open row of a bank must stay open."""
        bank = request.place.bank_name
        if any(other.place.bank_name == bank for other in self.active):
            return True
        return self.settings.protect_hits and any(
            other.place.bank_name == bank and self.needed(other) in COLUMN and other.arrive <= request.arrive
            for other in buffer
        )

    def ready(self, request: Request) -> bool:
        return self.allowed(self.needed(request), request.place)

    def allowed(self, name: str, place: Place) -> bool:
        return self.history.ready(self.clk, name, place) and not self.paired(name, place)

    def paired(self, name: str, place: Place) -> bool:
        """Return whether the row command of the rising edge before forbids this one at the falling edge."""
        last = self.last_rising
        if name not in ROW or last is None or self.settings.ticks_per_ck == 1:
            return False
        if self.clk - last.tick != (self.settings.act_ticks if last.name == "ACT" else 1):
            return False
        all_bank = name.endswith("ab") or last.name.endswith("ab")
        return last.place.pc == place.pc and (all_bank or last.place.bank_name == place.bank_name)

    def issue(self, clk: int, name: str, place: Place) -> None:
        super().issue(clk, name, place)
        if name in ROW and clk % 2 == 1:
            self.last_rising = self.outcome.commands[-1]

    def start(self, request: Request) -> None:
        """Issue the next command of a request and move the request on."""
        name = self.needed(request)
        self.note_start(request, name)
        self.issue(self.clk, name, request.place)
        if name == "PREpb":
            return
        for buffer in (self.reads, self.writes, self.active):
            if request in buffer:
                buffer.remove(request)
        if name == "ACT":
            self.active.append(request)
        if name == "RD":
            self.outcome.last_read_tick = self.clk + self.settings.read_latency
            self.under_way.append((self.outcome.last_read_tick, request))
