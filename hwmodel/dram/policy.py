"""What a standard leaves to the controller: scheduler, row policy, refresh, queues and write drain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from layouts.notation import nearest_first

if TYPE_CHECKING:
    from hwmodel.dram.organisation import Organisation
    from hwmodel.dram.timing import Timing

SCHEDULERS = ("fr-fcfs", "fr-fcfs-row-hit", "fcfs", "per-bank-queues")
ROW_POLICIES = ("open", "closed", "timeout")
REFRESH_POLICIES = ("per-bank", "all-bank", "none")
MAX_QUEUE = 4096  # assumed: more than any controller holds


@dataclass(frozen=True)
class Policy:
    """A controller as a composition of policies. Raises ValueError for values out of range.

    `scheduler`: "fr-fcfs" and "fr-fcfs-row-hit" (a row is not closed while an older burst of the buffer hits it),
    "fcfs" (strictly in order), "per-bank-queues" (round robin over the banks' queues, at most `hit_streak` hits one
    after the other while the oldest burst of the bank waits for another row).
    `row_policy`: rows stay "open" until another is needed; "timeout" closes a row that nobody waits for `timeout_ticks`
    after its last use, "closed" at once.
    Queues count bursts per channel. Writes are drained from `write_high` of their queue on, down to `write_low`.
    `merge`: reads of a waiting write are served from it, writes to one coalesce (always, with per-bank queues).
    """

    scheduler: str = "fr-fcfs-row-hit"
    row_policy: str = "open"
    timeout_ticks: int = 0
    refresh: str = "per-bank"
    read_queue: int = 64  # per channel; assumed
    write_queue: int = 64  # assumed
    bank_queue: int = 8  # DRAMsim3's HBM configurations
    write_high: float = 0.8  # Ramulator 2.1's default
    write_low: float = 0.2  # Ramulator 2.1's default
    hit_streak: int = 4  # DRAMsim3's limit
    merge: bool = True

    def __post_init__(self) -> None:
        for name, value, known in (
            ("scheduler", self.scheduler, SCHEDULERS),
            ("row_policy", self.row_policy, ROW_POLICIES),
            ("refresh", self.refresh, REFRESH_POLICIES),
        ):
            if value not in known:
                raise ValueError(f"policy.{name}: unknown {value!r}; known: {nearest_first(value, known)}")
        for name, largest in (
            ("read_queue", MAX_QUEUE),
            ("write_queue", MAX_QUEUE),
            ("bank_queue", 32),
            ("hit_streak", 1 << 30),
        ):
            value = getattr(self, name)
            if not 1 <= value <= largest:
                raise ValueError(f"policy.{name}: {value} is outside 1 .. {largest}")
        if not 0 <= self.write_low <= self.write_high <= 1:
            raise ValueError(
                f"policy: write_low {self.write_low}, write_high {self.write_high}: not 0 <= low <= high <= 1"
            )
        if self.timeout_ticks < 0 or (self.row_policy == "timeout") != (self.timeout_ticks > 0):
            raise ValueError(
                f"policy.timeout_ticks: {self.timeout_ticks} with row policy {self.row_policy!r}: a timeout has at "
                "least 1 tick, the others 0"
            )
        if self.scheduler == "per-bank-queues" and self.refresh == "per-bank":
            raise ValueError("policy.refresh: 'per-bank' does not go with per-bank queues; known: all-bank, none")
        if self.scheduler == "per-bank-queues" and self.row_policy != "open":
            raise ValueError(f"policy.row_policy: {self.row_policy!r} does not go with per-bank queues; known: open")

    @property
    def merges(self) -> bool:
        """Whether a burst may be served with another one of its address, without a command of its own."""
        return self.merge or self.scheduler == "per-bank-queues"

    @property
    def close_after_ticks(self) -> int:
        """After how many ticks without use a row is closed that nobody waits for; -1 for never."""
        return -1 if self.row_policy == "open" else self.timeout_ticks

    @property
    def mask_words(self) -> int:
        """How many words of 64 bits a set of waiting bursts takes: half the queue again, so that it is seldom moved."""
        return -(-3 * max(self.read_queue, self.write_queue) // 128)


def check_refresh_interval(timing: Timing, organisation: Organisation, refresh: str) -> None:
    """Refuse refreshes so often that no burst may ever get through between them: a run would not end.

    Sufficient, not exact. All banks: whatever is open ends with a write and closes bank by bank before the refresh.
    Single banks: one activate of every pseudo-channel fits between two of them, a whole use of a row between two of
    the same bank.
    """
    t, o = timing, organisation
    use = t.act_ticks + max(t.nRAS, t.nRCDWR + t.nCWL + t.nBL + t.nWR) + t.nRP
    if refresh == "all-bank":
        name, least = "nREFI", t.nRFC + use + o.pseudo_channels * (o.banks + t.nRPab)
    elif refresh == "per-bank":
        between = t.nRREFD + o.pseudo_channels * (t.act_ticks + t.ticks_per_ck)
        name, least = "nREFIpb", max(between, -(-(t.nRFCpb + use) // o.banks))
    else:
        return
    if getattr(t, name) <= least:
        ticks = f"{getattr(t, name)} ticks leave no time between two refreshes"
        raise ValueError(f"{name}: {ticks}; allowed: more than {least}, or a controller with refresh none")
