"""An independent, deliberately slow DRAM controller: what the compiled one is compared with.

One channel, one in-order source, tick by tick: every tick scans every list, nothing is skipped, nothing remembered
but when commands issued. Here is what its two kinds share and the loop that drives them; `plain_shared_buffers` is
Ramulator 2.1's scheduler, `plain_bank_queues` DRAMsim3's. Written from the description that comes with the reference
cycle counts, not from the compiled controller, with which it shares no code. Ticks of commands are numbered as the
simulator described numbers them: from 1 by the one, from 0 by the other.
Not modelled: per-bank refresh, closed-page policies, several channels, auto-precharge.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
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


class Controller(ABC):
    """What both controllers share: the clock, the open rows, the log of commands and the reads under way."""

    def __init__(self, constraints: Iterable[Constraint]) -> None:
        self.history = History(constraints)
        self.open_rows: dict[tuple[int | None, ...], int | None] = {}
        self.outcome = Outcome()
        self.under_way: list[tuple[int, Request]] = []  # (done, request)

    @abstractmethod
    def offer(self, address: int, is_write: bool) -> bool: ...

    @abstractmethod
    def tick(self) -> None: ...

    @abstractmethod
    def drained(self) -> bool: ...

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
