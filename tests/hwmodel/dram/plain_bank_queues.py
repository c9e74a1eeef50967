"""DRAMsim3's controller, tick by tick: a queue per bank served round robin, two commands a tick, all-bank refresh.

Not modelled: ranks, closed-page policies, auto-precharge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from plain_controller import COLUMN, Constraint, Controller, Place, Request


@dataclass(frozen=True)
class BankQueueSettings:
    constraints: tuple[Constraint, ...]
    banks: tuple[Place, ...]  # in the order of the round robin, bank-group major
    decode: Callable[[int], Place]
    read_latency: int  # from RD to the call-back
    refresh_interval: int = 0  # 0: no refresh
    queue_depth: int = 8
    read_capacity: int = 32
    write_capacity: int = 32
    idle_drain_above: int = 8  # writes that wait for ever; more are drained when the bank queues are empty
    hit_streak: int = 4
    stands_still: bool = True  # upstream, a drain that is called off and begun again for ever; else reads move instead


class BankQueues(Controller):
    """A read queue and a write buffer, from which one access a tick moves into a queue per bank."""

    def __init__(self, settings: BankQueueSettings) -> None:
        super().__init__(settings.constraints)
        self.settings = settings
        self.clk = 0
        self.read_queue: list[Request] = []
        self.write_buffer: list[Request] = []
        self.queues: list[list[Request]] = [[] for _ in settings.banks]
        self.pending_reads: list[Request] = []  # from acceptance until their RD
        self.pending_writes: list[Request] = []
        self.streaks = [0 for _ in settings.banks]  # CAS since the ACT
        self.last_bank = len(settings.banks) - 1
        self.draining = 0
        self.refreshing = False

    def offer(self, address: int, is_write: bool) -> bool:
        queue, capacity = self.read_queue, self.settings.read_capacity
        if is_write:
            queue, capacity = self.write_buffer, self.settings.write_capacity
        if len(queue) >= capacity:
            return False
        request = Request(address, is_write, self.clk, self.settings.decode(address))
        waiting_write = any(write.address == address for write in self.pending_writes)
        waiting_read = any(read.address == address for read in self.pending_reads)
        if is_write or waiting_write:
            self.under_way.append((self.clk + 1, request))
        if waiting_write:
            self.outcome.coalesced += is_write
            self.outcome.forwarded += not is_write
        elif is_write:
            self.pending_writes.append(request)
            queue.append(request)
        else:
            self.pending_reads.append(request)
            self.outcome.merged += waiting_read
            if not waiting_read:
                queue.append(request)
        return True

    def drained(self) -> bool:
        self.outcome.residual_writes = len(self.write_buffer)
        busy = self.under_way or self.pending_reads or any(self.queues) or self.draining > 0
        return not busy and len(self.write_buffer) <= self.settings.idle_drain_above

    def tick(self) -> None:
        self.call_back(self.clk)
        interval = self.settings.refresh_interval
        if interval and self.clk > 0 and self.clk % interval == 0:
            self.refreshing = True
        if self.refreshing:
            self.refresh_step()
        else:
            self.serve_queues()
        self.move_one()
        self.clk += 1

    def refresh_step(self) -> None:
        opened = [bank for bank in self.settings.banks if self.open_rows.get(bank.bank_name) is not None]
        for bank in opened:
            if self.history.ready(self.clk, "PREpb", bank):
                self.issue(self.clk, "PREpb", bank)
                return
        if not opened and self.history.ready(self.clk, "REFab", Place(0)):
            self.issue(self.clk, "REFab", Place(0))
            self.refreshing = False

    def serve_queues(self) -> None:
        first = self.search()
        if first is None:
            return
        name = self.start(first)
        second = self.search()
        if second is not None and (self.needed(second) in COLUMN) != (name in COLUMN):
            self.start(second)

    def search(self) -> Request | None:
        """Return the first request that can issue, round robin from the bank after the last one."""
        banks = len(self.queues)
        for step in range(1, banks + 1):
            bank = (self.last_bank + step) % banks
            for request in self.queues[bank]:
                if self.can_issue(request, bank):
                    self.last_bank = bank
                    return request
        return None

    def can_issue(self, request: Request, bank: int) -> bool:
        queue, name = self.queues[bank], self.needed(request)
        if not self.history.ready(self.clk, name, request.place):
            return False
        older = queue[: queue.index(request)]
        if name == "WR":
            return not any(other.address == request.address and not other.is_write for other in older)
        if name == "PREpb":
            hits = any(self.needed(other) in COLUMN for other in queue)
            return not older and (not hits or self.streaks[bank] >= self.settings.hit_streak)
        return True

    def start(self, request: Request) -> str:
        """Issue the next command of a request and return its name."""
        name, bank = self.needed(request), self.bank_of(request)
        if name in COLUMN:
            self.queues[bank].remove(request)
            self.outcome.row_hits += self.streaks[bank] > 0
        self.streaks[bank] = self.streaks[bank] + 1 if name in COLUMN else 0
        self.issue(self.clk, name, request.place)
        if name == "WR":
            self.pending_writes.remove(request)
        if name == "RD":
            done = self.clk + self.settings.read_latency
            served = [read for read in self.pending_reads if read.address == request.address]
            self.under_way.extend((done, read) for read in served)
            self.pending_reads = [read for read in self.pending_reads if read not in served]
            self.outcome.last_read_tick = done + 1  # ticks are numbered from 0
        return name

    def bank_of(self, request: Request) -> int:
        return [bank.bank_name for bank in self.settings.banks].index(request.place.bank_name)

    def move_one(self) -> None:
        if self.draining == 0 and self.must_drain():
            self.draining = len(self.write_buffer)
        source = self.write_buffer if self.draining > 0 else self.read_queue
        request = self.movable(source)
        if request is None:
            return
        if request.is_write and any(read.address == request.address for read in self.pending_reads):
            self.draining = 0
            if self.settings.stands_still or any(self.queues) or not self.must_drain():
                return
            source = self.read_queue
            request = self.movable(source)
            if request is None:
                return
        if request.is_write:
            self.draining -= 1
        source.remove(request)
        self.queues[self.bank_of(request)].append(request)

    def must_drain(self) -> bool:
        waiting = len(self.write_buffer)
        idle = waiting > self.settings.idle_drain_above and not any(self.queues)
        return idle or waiting >= self.settings.write_capacity

    def movable(self, source: list[Request]) -> Request | None:
        """Return the first request whose bank queue has room."""
        for request in source:
            if len(self.queues[self.bank_of(request)]) < self.settings.queue_depth:
                return request
        return None
