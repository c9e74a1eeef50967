"""The DRAM of a machine: all channels of all stacks under one policy, with exact statistics.

Owner of the arrays on which the compiled controller (`kernel`) works: it turns the rule table, the
organisation and the address map into numbers, grows the pools, and reads results out. The executors enqueue
bursts (`enqueue`, also from compiled code) and call `Dram.advance`. Time is integer ticks of `Timing.tick_hz`.
A read is done when its last data has been transferred, a write likewise. Channels are independent; requests
may span them.
A completion is reported when its last column command issues: its done tick lies at least `lookahead_ticks`
after the tick that `advance` started from. Bursts that need no command (reads of a waiting write) are reported
when they are taken in.
Not modelled: what the schedulers and `standards` name; staggered or postponed refresh (all pseudo-channels
refresh on time).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from hwmodel.dram import state as k
from hwmodel.dram.intake import enqueue, enqueue_bursts, open_request, place_of
from hwmodel.dram.kernel import next_tick, run_banked, run_shared
from hwmodel.dram.policy import REFRESH_POLICIES, SCHEDULERS, Policy
from hwmodel.dram.standards import COMMANDS, LEVELS, Organisation, Rule, Timing, rules
from hwmodel.dram.state import CAUSES, DramState

__all__ = [
    "CAUSES",
    "Dram",
    "DramState",
    "DramStatistics",
    "Policy",
    "enqueue",
    "enqueue_bursts",
    "next_tick",
    "open_request",
]

Array = np.ndarray[Any, Any]
_FIELDS = ("stack", "channel", "pseudo_channel", "bank_group", "bank", "row", "column")


@dataclass(frozen=True)
class DramStatistics:
    """Exact counts since the start. Arrays are int64 over pseudo-channels (stack-major), or over their banks.

    A burst is a row hit, miss or conflict by its first command: column (row open), activate (bank closed) or
    precharge (other row open); `merged` ones had none. Latencies are ticks from arrival to done, of reads.
    `precharges` counts banks closed.
    """

    reads: int
    writes: int
    merged_reads: int
    merged_writes: int
    row_hits: int
    row_misses: int
    row_conflicts: int
    activates: int
    precharges: int
    precharge_commands: int
    precharge_all_commands: int
    refreshes: int
    latency_ticks_sum: int
    latency_ticks_max: int
    pseudo_channel_bursts: Array  # [pseudo-channel]
    pseudo_channel_busy_ticks: Array  # [pseudo-channel], data bus
    bank_activates: Array  # [pseudo-channel, bank]; bank = (stack ID, bank group, bank)
    bank_conflicts: Array
    bank_bursts: Array
    bytes_per_bin: Array  # [time bin] of the first data tick; empty without bins

    @property
    def bursts(self) -> int:
        return self.reads + self.writes


class Dram:
    """The DRAM channels of a machine.

    `address_map_tables` = (digits int64[n, 4], hashes int64[m, 4]): rows (divisor, modulus, field,
    multiplier) and (target field, target bit, source field, source bit), fields numbered stack, channel,
    pseudo_channel, bank_group, bank, row, column. `bin_ticks` > 0 keeps bytes per time bin,
    `record_commands` the trace, `log_bursts` one row per burst. `table` replaces the standard's rules.
    Raises ValueError for tables that leave the organisation.
    """

    def __init__(
        self,
        timing: Timing,
        organisation: Organisation,
        stacks: int,
        address_map_tables: tuple[Array, Array],
        policy: Policy,
        *,
        record_commands: bool = False,
        log_bursts: bool = False,
        bin_ticks: int = 0,
        table: tuple[Rule, ...] | None = None,
    ) -> None:
        _check_organisation(organisation, stacks, policy)
        self.timing, self.organisation, self.policy = timing, organisation, policy
        self.pseudo_channels = stacks * organisation.channels * organisation.pseudo_channels
        sizes = {"stack": stacks} | organisation.field_sizes()
        address_map, digits, capacity = _address_map(address_map_tables, sizes)
        scalars = _scalars(timing, organisation, stacks, policy)
        delay, scalars[k.FAW_TICKS] = _delays(rules(timing, organisation) if table is None else table)
        scalars[k.DELAY : k.PLACES] = delay.ravel()
        own, common = delay[[LEVELS.index("stack_id"), LEVELS.index("pseudo_channel")]]
        scalars[k.OWN_STACK_RULES] = (own > common).any()  # what holds in the whole pseudo-channel needs no rule here
        scalars[k.DIGITS], scalars[k.HASHES] = digits, len(address_map) - digits
        scalars[k.CAPACITY] = capacity
        if policy.scheduler != "per-bank-queues":  # whose bursts may be merged one by one
            scalars[k.BLOCK_SHIFT] = _block_shift(address_map[:digits], address_map[digits:])
        scalars[k.RECORD], scalars[k.LOG], scalars[k.BIN_TICKS] = record_commands, log_bursts, bin_ticks
        channels, words = stacks * organisation.channels, policy.mask_words
        has_queues = policy.scheduler == "per-bank-queues"
        self.state = DramState(
            scalars=scalars,
            address_map=address_map,
            linear=np.zeros((8, 256), np.int64),
            pool=np.zeros((0, k.POOL_FIELDS), np.int64),
            requests=np.zeros((0, k.REQUEST_FIELDS), np.int64),
            completed=np.zeros((0, 2), np.int64),
            channels=_channels(channels, words, organisation, scalars),
            queues=np.zeros((channels if has_queues else 0, k.QUEUE_WORDS), np.int64),
            bins=np.zeros(0, np.int64),
            trace=np.zeros((0, k.TRACE_FIELDS), np.int64),
            log=np.zeros((0, k.LOG_FIELDS), np.int64),
            words=(0,) * words,
        )
        self._settled = False  # whether what has completed is still to be returned
        self._linearise(capacity)
        self.reserve(1024)

    def _linearise(self, capacity: int) -> None:
        """Tabulate the address map by address bytes, where it is linear over bits and has a power of two of them."""
        digits = self.state.address_map[: self.state.scalars[k.DIGITS]]
        if capacity & (capacity - 1) or (digits[:, [k.DIGIT_SHIFT, k.DIGIT_MASK]] < 0).any():
            return
        if any(_log2(int(multiplier)) < 0 for multiplier in digits[:, k.DIGIT_MULTIPLIER]):
            return
        places = [place_of(self.state, 1 << bit) for bit in range(capacity.bit_length() - 1)]
        values = np.arange(256)
        for bit, place in enumerate(places):
            self.state.linear[bit // 8] ^= np.where((values >> (bit % 8)) & 1, place, 0)
        self.state.scalars[k.LINEAR] = 1

    @property
    def lookahead_ticks(self) -> int:
        """From a column command to its completion, at least; less where bursts need no command."""
        if self.policy.merge or self.policy.scheduler == "per-bank-queues":
            return 1
        return min(self.timing.nCL, self.timing.nCWL) + self.timing.nBL

    @property
    def waiting(self) -> int:
        """How many bursts have been offered and not yet got their column command."""
        return len(self.state.pool) - int(self.state.scalars[k.BURSTS_LEFT])

    @property
    def idle(self) -> bool:
        """True when no burst waits anywhere."""
        return self.waiting == 0

    @property
    def next_tick(self) -> int:
        """The earliest tick at which a channel with bursts or open rows can act; 2**62 if there is none."""
        return int(next_tick(self.state))

    def reserve(self, bursts: int) -> None:
        """Make room for that many more bursts, and for as many requests. Replaces `state` when it grows."""
        scalars = self.state.scalars
        self.state = self.state._replace(
            pool=_grown(self.state.pool, scalars, bursts, k.FREE_BURST, k.BURSTS_LEFT, k.LINK),
            requests=_grown(self.state.requests, scalars, bursts, k.FREE_REQUEST, k.REQUESTS_LEFT, k.DONE),
        )
        missing = len(self.state.requests) - len(self.state.completed)
        if missing:
            self.state = self.state._replace(completed=np.pad(self.state.completed, ((0, missing), (0, 0))))

    def open_request(self, bursts: int) -> int:
        """Return a request that completes when that many bursts are done; its number is recycled later."""
        if not self.state.scalars[k.REQUESTS_LEFT]:
            self.reserve(1)
        return int(open_request(self.state, bursts))

    def enqueue(self, address: int, request: int, is_write: bool, tick: int) -> None:
        """Offer one burst; see `intake.enqueue`. Makes room where needed."""
        if not self.state.scalars[k.BURSTS_LEFT]:
            self.reserve(1)
        enqueue(self.state, address, request, is_write, tick)

    def advance(self, until_tick: int) -> tuple[Array, Array]:
        """Run every channel up to (not including) a tick, at which bursts may still be enqueued.

        Returns (requests, done ticks), sorted by (tick, request), of the requests whose last burst was
        scheduled; done ticks may lie up to `nCL + nBL` past `until_tick`. Any steps give the same commands,
        counts and ticks; a request's number is free again from the next call on.
        """
        self._run(until_tick, int(self._settled))
        self._settled = False
        completed = self.state.completed[: self.state.scalars[k.COMPLETED]]
        order = np.lexsort((completed[:, 0], completed[:, 1]))
        return completed[order, 0], completed[order, 1]

    def _run(self, until_tick: int, resume: int) -> int:
        run = run_banked if self.policy.scheduler == "per-bank-queues" else run_shared
        self._reserve_log()
        status = run(self.state, until_tick, resume)
        while status in (k.TRACE_FULL, k.BINS_FULL):
            field = {k.TRACE_FULL: "trace", k.BINS_FULL: "bins"}[status]
            array = getattr(self.state, field)
            padding = [(0, max(4096, len(array))), *[(0, 0)] * (array.ndim - 1)]
            grown: dict[str, Any] = {field: np.pad(array, padding)}
            self.state = self.state._replace(**grown)
            self.state.scalars[k.TRACE_ROWS] = len(self.state.trace)
            self.state.scalars[k.BINS] = len(self.state.bins)
            status = run(self.state, until_tick, 1)
        return int(status)

    def _reserve_log(self) -> None:
        """Make room in the log for every waiting burst and one more of a replay."""
        scalars, rows = self.state.scalars, len(self.state.log)
        missing = int(scalars[k.LOGGED]) + self.waiting + 1 - rows
        if scalars[k.LOG] and missing > 0:
            self.state = self.state._replace(log=np.pad(self.state.log, ((0, max(4096, rows, missing)), (0, 0))))
            scalars[k.LOG_ROWS] = len(self.state.log)

    def _settle(self) -> None:
        """Let channels that sleep catch up with their refreshes; what completes with it, the next `advance` returns."""
        self.state.channels[:, k.ASLEEP] = 0
        self._run(int(self.state.scalars[k.NOW]), int(self._settled))
        self._settled = True

    def drain(self) -> tuple[Array, Array]:
        """Run until no burst waits; returns what `advance` returns."""
        done = [self.advance(int(self.state.scalars[k.NOW]))]
        while not self.idle:
            done.append(self.advance(max(self.next_tick, int(self.state.scalars[k.NOW])) + self.timing.nREFI))
        requests, ticks = (np.concatenate(parts) for parts in zip(*done, strict=True))
        order = np.lexsort((requests, ticks))
        return requests[order], ticks[order]

    def commands(self) -> Array:
        """Return the recorded commands, int64[n, 7], channel by channel in time order within one `advance`.

        Columns: tick, channel (over all stacks), pseudo_channel, bank_group, bank (as in addresses), row,
        command (place in `COMMANDS`). What does not apply is -1.
        """
        self._settle()
        return self.state.trace[: self.state.scalars[k.TRACED]].copy()

    def bursts(self) -> Array:
        """Return the log, int64[n, 7], in the order of completion within a channel.

        Columns: arrival tick, done tick, channel, pseudo_channel, bank (stack ID, bank group, bank), is_write,
        outcome (0 row hit, 1 miss, 2 conflict, 3 merged).
        """
        return self.state.log[: self.state.scalars[k.LOGGED]].copy()

    @property
    def _pcs(self) -> Array:
        """The rows of all pseudo-channels, stack-major."""
        area = self.state.channels[:, k.PCS : k.STACK_ROWS].reshape(-1, k.MAX_PCS, k.PC_FIELDS)
        return area[:, : self.organisation.pseudo_channels].reshape(-1, k.PC_FIELDS)

    @property
    def _banks(self) -> Array:
        """The rows of the banks of all pseudo-channels."""
        stride, pcs = int(self.state.scalars[k.BANK_STRIDE]), self.organisation.pseudo_channels
        area = self.state.channels[:, k.BANK_ROWS : k.BANK_ROWS + pcs * stride * k.BANK_FIELDS]
        return area.reshape(self.pseudo_channels, stride, k.BANK_FIELDS)[:, : self.organisation.banks]

    def statistics(self) -> DramStatistics:
        """Return the exact counts up to now."""
        self._settle()
        pcs, banks = self._pcs, self._banks
        bursts = pcs[:, k.READS] + pcs[:, k.WRITES]
        used = np.flatnonzero(self.state.bins)
        names = {
            "reads": k.READS,
            "writes": k.WRITES,
            "row_hits": k.HITS,
            "row_misses": k.MISSES,
            "row_conflicts": k.CONFLICTS,
            "activates": k.ACTIVATES,
            "precharges": k.CLOSED,
            "precharge_commands": k.PRECHARGES,
            "precharge_all_commands": k.PRECHARGE_ALLS,
            "refreshes": k.REFRESHES,
            "latency_ticks_sum": k.LATENCY_SUM,
        }
        return DramStatistics(
            **{name: int(pcs[:, field].sum()) for name, field in names.items()},
            merged_reads=int(self.state.channels[:, k.MERGED_READS].sum()),
            merged_writes=int(self.state.channels[:, k.MERGED_READS + 1].sum()),
            latency_ticks_max=int(pcs[:, k.LATENCY_MAX].max()),
            pseudo_channel_bursts=bursts,
            pseudo_channel_busy_ticks=pcs[:, k.CAUSE + k.DATA].copy(),
            bank_activates=banks[:, :, k.BANK_ACTIVATES].copy(),
            bank_conflicts=banks[:, :, k.BANK_CONFLICTS].copy(),
            bank_bursts=banks[:, :, k.BANK_BURSTS].copy(),
            bytes_per_bin=self.state.bins[: used[-1] + 1 if len(used) else 0].copy(),
        )

    def close(self, makespan_ticks: int) -> Array:
        """Return where each pseudo-channel's time from 0 to the makespan went: int64[pseudo-channel, cause].

        Causes are `CAUSES`; rows add up to the makespan. Data is counted from the column command on; the wait
        before a burst goes to the refresh, then the row that its bank waited for, then turnaround, bus.
        Raises ValueError while bursts wait or if the makespan ends before the last data.
        """
        pcs = self._pcs
        if not self.idle:
            raise ValueError(f"close: {self.waiting} bursts still wait; advance until idle")
        if makespan_ticks < pcs[:, k.ACCOUNTED].max():
            raise ValueError(
                f"close: makespan {makespan_ticks} ends before the last data at {pcs[:, k.ACCOUNTED].max()}"
            )
        causes = pcs[:, k.CAUSE : k.CAUSE + len(CAUSES)].copy()
        causes[:, k.IDLE] += makespan_ticks - pcs[:, k.ACCOUNTED]
        return causes


def _check_organisation(organisation: Organisation, stacks: int, policy: Policy) -> None:
    if stacks < 1:
        raise ValueError(f"stacks: {stacks} must be at least 1")
    for name in ("banks_per_group", "bank_groups"):
        size = getattr(organisation, name)
        if size < 1 or size & (size - 1):
            raise ValueError(f"organisation.{name}: {size} must be a power of two")
    for name, value, most in (
        ("pseudo_channels", organisation.pseudo_channels, k.MAX_PCS),
        ("stack_ids", organisation.stack_ids, k.MAX_STACK_IDS),
        ("bank groups of all stack IDs", organisation.stack_ids * organisation.bank_groups, k.MAX_GROUPS),
        ("banks", organisation.banks, k.MAX_BANKS),
    ):
        if not 1 <= value <= most:
            raise ValueError(
                f"organisation: {value} {name} per {'channel' if most == k.MAX_PCS else 'pseudo-channel'}; "
                f"allowed: 1 .. {most}"
            )
    # a place is one number, and so is an address
    for name, value, bits in (
        ("rows", organisation.rows, k.ROW_BITS),
        ("columns", organisation.columns, k.COLUMN_BITS),
        ("channels of all stacks", stacks * organisation.channels, 62 - k.CHANNEL_SHIFT),
        ("bytes of all stacks", stacks * organisation.capacity_bytes, 62),
    ):
        if value > 1 << bits:
            raise ValueError(f"organisation: {value} {name}; allowed: 1 .. {1 << bits}")
    queues = organisation.pseudo_channels << (organisation.banks - 1).bit_length()
    if policy.scheduler == "per-bank-queues" and queues > k.MAX_QUEUES:
        raise ValueError(f"organisation: {queues} banks per channel; allowed with per-bank queues: 1 .. {k.MAX_QUEUES}")


def _delays(table: tuple[Rule, ...]) -> tuple[Array, int]:
    """Return delay[level, previous, following] and the length of the window of four activates."""
    delay = np.full((len(LEVELS) + 1, k.COMMAND_SLOTS, k.COMMAND_SLOTS), -(1 << 40), np.int64)
    faw_ticks = 0
    for rule in table:
        if rule.level == "channel" or not rule.previous:
            continue  # command buses and clock edges are constants of their own
        if rule.window == 4 and (rule.level, rule.previous, rule.following) == (
            "pseudo_channel",
            ("ACT",),
            ("ACT",),
        ):
            faw_ticks = rule.ticks
            continue
        if rule.window != 1 or (rule.sibling and rule.level != "stack_id"):
            raise ValueError(f"{rule}: only activates have a window (of four), only stack IDs have siblings")
        plane = k.AT_SIBLING if rule.sibling else LEVELS.index(rule.level)
        for previous in rule.previous:
            if rule.level == "stack_id" and previous not in ("RD", "WR"):
                raise ValueError(f"{rule}: only column commands have rules at a stack ID")
            for following in rule.following:
                cell = plane, COMMANDS.index(previous), COMMANDS.index(following)
                delay[cell] = max(delay[cell], rule.ticks)
    return delay, faw_ticks


def _scalars(timing: Timing, organisation: Organisation, stacks: int, policy: Policy) -> Array:
    o = organisation
    stack_banks = o.bank_groups * o.banks_per_group
    bank_field = o.stack_ids * o.banks_per_group
    group, bank = np.divmod(np.arange(o.bank_groups * bank_field), bank_field)
    places = bank // o.banks_per_group * stack_banks + group * o.banks_per_group + bank % o.banks_per_group
    interval, refresh_ticks = {
        "per-bank": (timing.nREFIpb, timing.nRFCpb),
        "all-bank": (timing.nREFI, timing.nRFC),
        "none": (k.NEVER, 0),
    }[policy.refresh]
    if policy.scheduler == "per-bank-queues":
        above = math.ceil(_exact(policy.write_high) * policy.write_queue)
        below = math.floor(_exact(policy.write_low) * policy.write_queue)
    else:
        above = math.floor(_exact(policy.write_high) * policy.write_queue)
        below = max(1, math.ceil(_exact(policy.write_low) * policy.write_queue))
    constants = {
        k.CHANNELS: stacks * o.channels,
        k.PER_CHANNEL: o.pseudo_channels,
        k.STACK_IDS: o.stack_ids,
        k.STACK_ID_SHIFT: stack_banks.bit_length() - 1,
        k.GROUP_SHIFT: o.banks_per_group.bit_length() - 1,
        k.BANKS: o.banks,
        k.BANK_STRIDE: k.MAX_BANKS if policy.scheduler != "per-bank-queues" else 1 << (o.banks - 1).bit_length(),
        k.DEPTH: policy.read_queue,
        k.DEPTH + 1: policy.write_queue,
        k.DRAIN_ABOVE: above,
        k.DRAIN_BELOW: below,
        k.SCHEDULER: SCHEDULERS.index(policy.scheduler),
        k.MERGE: policy.merge,
        k.CLOSE_AFTER: policy.close_after_ticks,
        k.REFRESH: REFRESH_POLICIES.index(policy.refresh),
        k.REFRESH_INTERVAL: interval,
        k.REFRESH_TICKS: refresh_ticks,
        k.HIT_STREAK: policy.hit_streak,
        k.QUEUE_DEPTH: policy.bank_queue,
        k.RISING: timing.ticks_per_ck - 1,
        k.ACT_TICKS: timing.act_ticks,
        k.COLUMN_TICKS: timing.column_ticks,
        k.ONE_BUS: o.command_buses == 1,
        k.READ_TICKS: timing.nCL + timing.nBL,
        k.READ_TICKS + 1: timing.nCWL + timing.nBL,
        k.BURST_TICKS: timing.nBL,
        k.BURST_BYTES: o.burst_bytes,
        k.BANK_FIELD: bank_field,
        k.CHANNEL_FIELD: o.channels,
        k.FREE_BURST: k.NONE,
        k.FREE_REQUEST: k.NONE,
        k.STOP_AT: k.NEVER,
        k.SOURCE_CHANNEL: k.NONE,
    }
    scalars = np.zeros(k.PLACES + len(places), np.int64)
    scalars[list(constants)] = list(constants.values())
    scalars[k.PLACES :] = places
    return scalars


def _exact(share: float) -> Fraction:
    """Return the decimal fraction that was written."""
    return Fraction(str(share))


def _channels(count: int, words: int, o: Organisation, scalars: Array) -> Array:
    """Return the channels at rest: all banks closed, every command allowed."""
    channel = np.zeros(k.SLOTS + words * k.WORDS_PER_MASK_WORD, np.int64)
    channel[[k.COLUMN_WAKE, k.ROW_WAKE, k.ARRIVES]] = k.NEVER
    channel[k.ACTIVE_WAKE : k.OTHER_WAKE + 1] = k.NEVER
    channel[k.RECOUNTED] = 1
    channel[[k.INBOX_HEAD, k.INBOX_TAIL]] = k.NONE
    channel[k.REFRESH_DUE] = scalars[k.REFRESH_INTERVAL]
    if scalars[k.SCHEDULER] == k.PER_BANK_QUEUES:
        channel[[k.TICK, k.LAST_BANK]] = -1
    pcs = channel[k.PCS : k.STACK_ROWS].reshape(k.MAX_PCS, k.PC_FIELDS)
    pcs[:, k.FAW : k.FAW + 4] = k.LONG_AGO
    pcs[:, k.REFRESHING] = k.NONE
    banks = channel[k.BANK_ROWS : k.ACTIVE_ROWS].reshape(-1, k.BANK_FIELDS)
    banks[:, k.OPEN_ROW] = k.NONE
    banks[:, [k.ACT_TICK, k.USED_TICK, k.REFRESHED_UNTIL]] = k.LONG_AGO
    pc, place = np.divmod(np.arange(len(banks)), scalars[k.BANK_STRIDE])
    banks[:, k.BANK_PC] = pc
    banks[:, k.GROUP_AT] = k.GROUP_ROWS + (pc * k.MAX_GROUPS + place // o.banks_per_group) * k.COMMAND_SLOTS
    stack_id = place // (o.bank_groups * o.banks_per_group)
    banks[:, k.STACK_AT] = k.STACK_ROWS + (pc * k.MAX_STACK_IDS + stack_id) * k.COMMAND_SLOTS
    channels = np.tile(channel, (count, 1))
    channels[:, k.INDEX] = np.arange(count)
    return channels


def _grown(array: Array, scalars: Array, wanted: int, free: int, left: int, link: int) -> Array:
    """Return the pool with at least `wanted` free rows, by doubling, new rows first in its free list."""
    missing = wanted - int(scalars[left])
    if missing <= 0:
        return array
    old = len(array)
    new = max(old * 2, old + missing)
    array = np.pad(array, ((0, new - old), (0, 0)))
    array[old:, link] = np.arange(old + 1, new + 1)
    array[new - 1, link] = scalars[free]
    scalars[free] = old
    scalars[left] += new - old
    return array


def _address_map(tables: tuple[Array, Array], sizes: dict[str, int]) -> tuple[Array, int, int]:
    """Return (digit rows then hash rows, number of digits, capacity in bytes) for the compiled decoder.

    Digits are sorted by divisor, each dividing the next, so that one running quotient serves them all.
    """
    digits = sorted(tuple(int(value) for value in row) for row in tables[0])
    hashes = [tuple(int(value) for value in row) for row in tables[1]]
    extents = [1] * len(_FIELDS)
    capacity, reached = 0, 1
    rows = []
    for divisor, modulus, field, multiplier in digits:
        if divisor % reached or modulus < 1:
            raise ValueError(f"address map: digit of divisor {divisor}: not a multiple of {reached} of the digit below")
        step, reached = divisor // reached, divisor
        extents[field] += (modulus - 1) * multiplier
        capacity = max(capacity, divisor * modulus)
        rows.append((_log2(step), step, modulus - 1 if _log2(modulus) >= 0 else -1, modulus, field, multiplier))
    for name, extent in zip(_FIELDS, extents, strict=True):
        if extent > sizes[name]:
            raise ValueError(f"address map: {name} reaches {extent - 1}, but there are {sizes[name]}")
    for target, bit, *_ in hashes:
        size = sizes[_FIELDS[target]]
        if _log2(size) < 0 or size >> bit < 2:
            raise ValueError(f"address map: hash into bit {bit} of {_FIELDS[target]}, whose size is {size}")
    table = np.zeros((len(rows) + len(hashes), 6), np.int64)
    table[: len(rows)] = rows
    if hashes:
        table[len(rows) :, :4] = hashes
    return table, len(rows), capacity


def _block_shift(digits: Array, hashes: Array) -> int:
    """Return log2 of the largest aligned block of addresses, a power of two of bytes, that surely lies in one row."""
    column = _FIELDS.index("column")
    hashed = {int(bit) for field, bit in hashes[:, [k.HASH_SOURCE, k.HASH_SOURCE_BIT]] if field == column}
    shift = max(0, int(digits[0, k.DIGIT_SHIFT])) if len(digits) else 0
    for place, digit in enumerate(digits):
        multiplier, modulus = _log2(int(digit[k.DIGIT_MULTIPLIER])), _log2(int(digit[k.DIGIT_MODULUS]))
        if digit[k.DIGIT_FIELD] != column or min(digit[k.DIGIT_SHIFT], multiplier, modulus) < 0:
            break
        if place and digit[k.DIGIT_STEP] != digits[place - 1, k.DIGIT_MODULUS]:
            break
        free = next((bit for bit in range(modulus) if multiplier + bit in hashed), modulus)
        shift += free
        if free < modulus:
            break
    return shift


def _log2(value: int) -> int:
    """Return the exponent of a power of two, -1 of any other number."""
    return value.bit_length() - 1 if value & (value - 1) == 0 else -1
