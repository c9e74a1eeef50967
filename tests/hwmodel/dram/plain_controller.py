"""An independent, deliberately slow DRAM controller: what the compiled one is compared with.

One channel, one in-order source, tick by tick: every tick scans every list, nothing is skipped, nothing remembered
but when commands issued. Written from the description of Ramulator 2.1 (`SharedBuffers`: one read and one write buffer
per channel, FR-FCFS) and DRAMsim3 (`BankQueues`: a queue per bank, round robin) that comes with the reference cycle
counts, not from the compiled controller, and shares no code with it. A tick number is the one that the simulator
described prints: `SharedBuffers` counts from 1, `BankQueues` from 0.
Not modelled: per-bank refresh, closed-page policies, several channels, auto-precharge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

COLUMN = ("RD", "WR")
ROW = ("ACT", "PREpb", "PREab", "REFab")
COMMANDS = {*COLUMN, *ROW}
DEPTH = {"Channel": 0, "PseudoChannel": 1, "Sid": 2, "BankGroup": 3, "Bank": 4}  # fields of a place that name a node


class Place(NamedTuple):
    pc: int
    sid: int | None = None
    bg: int | None = None
    bank: int | None = None
    row: int | None = None
    column: int | None = None

    @property
    def bank_name(self) -> tuple[int | None, ...]:
        return self[:4]


class Constraint(NamedTuple):
    """`after` waits `ticks` from the `window`-th last of `before` at the same node, or at other nodes (`sibling`)."""

    level: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    ticks: int
    window: int = 1
    sibling: bool = False


class Burst(NamedTuple):
    """What the source offers, from a tick on."""

    tick: int
    address: int
    is_write: bool


class Command(NamedTuple):
    tick: int
    name: str
    place: Place


@dataclass(eq=False)
class Request:
    address: int
    is_write: bool
    arrive: int
    place: Place
    started: bool = False


@dataclass
class Outcome:
    """What a replay returns. Latencies are ticks from acceptance, of all reads that were called back."""

    ticks: int = 0
    commands: list[Command] = field(default_factory=list)
    row_hits: int = 0
    row_misses: int = 0
    row_conflicts: int = 0
    latencies: list[int] = field(default_factory=list)
    forwarded: int = 0  # reads served from a waiting write
    merged: int = 0  # reads that joined one of the same address
    coalesced: int = 0  # writes that joined one of the same address
    last_read_tick: int = 0
    residual_writes: int = 0

    @property
    def counts(self) -> Counter[str]:
        return Counter(command.name for command in self.commands)


class History:
    """When commands issued, and whether one may issue now: the table of constraints, read literally."""

    def __init__(self, constraints: Iterable[Constraint]) -> None:
        used = [c for c in dict.fromkeys(constraints) if {*c.before} & COMMANDS and {*c.after} & COMMANDS]
        self.before = {name: [c for c in used if name in c.before] for name in COMMANDS}
        self.after = {name: [c for c in used if name in c.after] for name in COMMANDS}
        self.issued: dict[Constraint, dict[tuple[int | None, ...], list[int]]] = {c: {} for c in used}

    def record(self, tick: int, name: str, place: Place) -> None:
        for constraint in self.before[name]:
            node = place[: DEPTH[constraint.level]]
            self.issued[constraint].setdefault(node, []).append(tick)

    def ready(self, tick: int, name: str, place: Place) -> bool:
        for constraint in self.after[name]:
            issued, node = self.issued[constraint], place[: DEPTH[constraint.level]]
            if constraint.sibling:
                nodes = [other for other in issued if other != node and other[:-1] == node[:-1]]
            else:
                nodes = [node] if node in issued else []
            for other in nodes:
                ticks = issued[other]
                if len(ticks) >= constraint.window and tick < ticks[-constraint.window] + constraint.ticks:
                    return False
        return True


class Controller:
    """What both controllers share: the clock, the open rows, the log of commands and the reads under way."""

    def __init__(self, constraints: Iterable[Constraint]) -> None:
        self.history = History(constraints)
        self.open_rows: dict[tuple[int | None, ...], int | None] = {}
        self.outcome = Outcome()
        self.under_way: list[tuple[int, Request]] = []  # (done, request)

    def offer(self, address: int, is_write: bool) -> bool:
        raise NotImplementedError

    def tick(self) -> None:
        raise NotImplementedError

    def drained(self) -> bool:
        raise NotImplementedError

    def needed(self, request: Request) -> str:
        """Return the next command of a request."""
        row = self.open_rows.get(request.place.bank_name)
        if row is None:
            return "ACT"
        if row != request.place.row:
            return "PREpb"
        return "WR" if request.is_write else "RD"

    def call_back(self, clk: int) -> None:
        for done, request in self.under_way:
            if done <= clk and not request.is_write:
                self.outcome.latencies.append(done - request.arrive)
        self.under_way = [(done, request) for done, request in self.under_way if done > clk]

    def note_start(self, request: Request, name: str) -> None:
        """Count a request once, by its first command."""
        if not request.started:
            request.started = True
            self.outcome.row_hits += name in COLUMN
            self.outcome.row_misses += name == "ACT"
            self.outcome.row_conflicts += name == "PREpb"

    def issue(self, clk: int, name: str, place: Place) -> None:
        self.outcome.commands.append(Command(clk, name, place))
        self.history.record(clk, name, place)
        if name == "ACT":
            self.open_rows[place.bank_name] = place.row
        if name == "PREpb":
            self.open_rows[place.bank_name] = None
        if name == "PREab":
            for bank in self.open_rows:
                if bank[0] == place.pc:
                    self.open_rows[bank] = None


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


def bursts_of(
    accesses: Iterable[tuple[int, bool]], burst_bytes: int, access_bytes: int = 64, gap_ticks: int = 0
) -> list[Burst]:
    """Cut accesses (address, is write) into bursts; access i is offered from tick i * `gap_ticks` on."""
    return [
        Burst(i * gap_ticks, address + part, is_write)
        for i, (address, is_write) in enumerate(accesses)
        for part in range(0, access_bytes, burst_bytes)
    ]


def replay(controller: Controller, bursts: Sequence[Burst], most_ticks: int = 1 << 62) -> Outcome:
    """Offer the bursts in order until one is refused, tick, and so on until all is drained.

    Raises RuntimeError after `most_ticks`.
    """
    position, ticks = 0, 0
    while position < len(bursts) or not controller.drained():
        while position < len(bursts) and bursts[position].tick <= ticks:
            if not controller.offer(bursts[position].address, bursts[position].is_write):
                break
            position += 1
        if ticks == most_ticks:
            raise RuntimeError(f"not drained after {ticks} ticks: {len(bursts) - position} bursts still to be offered")
        ticks += 1
        controller.tick()
    controller.outcome.ticks = ticks
    return controller.outcome
