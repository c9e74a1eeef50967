"""The DRAM of a machine: all channels of all stacks under one policy, with exact statistics.

Owner of the arrays on which the compiled controller (`kernel`) works: it turns the rule table, the
organisation and the address map into numbers, grows the pools, and reads results out. The executors enqueue
bursts (`enqueue`, also from compiled code) and call `Dram.advance`. Time is integer CK ticks of
`Timing.tick_hz`. A read is done when its last data has been transferred, a write likewise. Channels are
independent; requests may span them.
A completion is reported when its last column command issues: its done tick lies at least `lookahead_ticks`
after that command, so every completion that `advance` reports is later than the tick it started from by at
least as much.
Not modelled: what `kernel` and `standards` name; staggered or postponed refresh (all pseudo-channels refresh
on time).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.dram import state as k
from hwmodel.dram.intake import enqueue, enqueue_bursts, open_request
from hwmodel.dram.kernel import next_tick, run
from hwmodel.dram.standards import COMMANDS, LEVELS, Organisation, Rule, Timing, rules
from hwmodel.dram.state import CAUSES, DramState
from layouts.notation import nearest_first

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
    "run",
]

Array = np.ndarray[Any, Any]
REFRESH_POLICIES = ("per-bank", "all-bank", "none")
_FIELDS = ("stack", "channel", "pseudo_channel", "bank_group", "bank", "row", "column")


@dataclass(frozen=True)
class Policy:
    """What the standard leaves to the controller. Raises ValueError for values out of range.

    Scheduling is FR-FCFS with open rows: the oldest ready row hit takes the column slot; in each bank the
    oldest burst decides about the row. `bypass_cap` limits the younger hits passing a burst for another row.
    """

    refresh: str = "per-bank"
    queue_depth: int = 64  # reads, and as many writes, per pseudo-channel
    write_high: float = 0.8  # of the queue: start to drain writes (Ramulator 2.1's default)
    write_low: float = 0.2  # of the queue: back to waiting reads (Ramulator 2.1's default)
    bypass_cap: int = 16  # assumed; DRAMsim3 takes 4

    def __post_init__(self) -> None:
        if self.refresh not in REFRESH_POLICIES:
            known = nearest_first(self.refresh, REFRESH_POLICIES)
            raise ValueError(f"policy.refresh: unknown {self.refresh!r}; known: {known}")
        if self.queue_depth < 1:
            raise ValueError(f"policy.queue_depth: {self.queue_depth} must be at least 1")
        if not 0 <= self.write_low <= self.write_high <= 1:
            raise ValueError(
                f"policy: write_low {self.write_low}, write_high {self.write_high}: not 0 <= low <= high <= 1"
            )
        if self.bypass_cap < 1:
            raise ValueError(f"policy.bypass_cap: {self.bypass_cap} must be at least 1")


@dataclass(frozen=True)
class DramStatistics:
    """Exact counts since the start. Arrays are int64 over pseudo-channels (stack-major), or over their banks.

    A burst is a row hit, miss or conflict by its first command: column (row open), activate (bank closed) or
    precharge (other row open). Latencies are ticks from arrival to done. `precharges` counts banks closed.
    """

    reads: int
    writes: int
    row_hits: int
    row_misses: int
    row_conflicts: int
    activates: int
    precharges: int
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
    `record_commands` the trace.
    Raises ValueError for tables that do not fit the organisation.
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
        bin_ticks: int = 0,
    ) -> None:
        _check_organisation(organisation, stacks)
        if bin_ticks < 0:
            raise ValueError(f"bin_ticks: {bin_ticks} must not be negative")
        self.timing, self.organisation, self.policy = timing, organisation, policy
        self.pseudo_channels = stacks * organisation.channels * organisation.pseudo_channels
        delay, faw_ticks = _delays(rules(timing, organisation))
        sizes = {"stack": stacks} | organisation.field_sizes()
        address_map, digits, capacity = _address_map(address_map_tables, sizes)
        scalars = _scalars(timing, organisation, stacks, policy)
        scalars[k.FAW_TICKS] = faw_ticks
        scalars[k.DIGITS], scalars[k.HASHES] = digits, len(address_map) - digits
        scalars[k.CAPACITY] = capacity
        scalars[k.BLOCK_SHIFT] = _block_shift(address_map[:digits], address_map[digits:])
        scalars[k.RECORD], scalars[k.BIN_TICKS] = record_commands, bin_ticks
        channels = stacks * organisation.channels
        nodes = self.pseudo_channels * scalars[k.NODES] + channels
        self.state = DramState(
            scalars=scalars,
            delay=delay,
            address_map=address_map,
            pool=np.zeros((0, k.RUN_FIELDS), np.int64),
            requests=np.zeros((0, k.REQUEST_FIELDS), np.int64),
            completed=np.zeros((0, 2), np.int64),
            channels=np.zeros((channels, k.CHANNEL_FIELDS), np.int64),
            pcs=_pseudo_channels(self.pseudo_channels, int(scalars[k.REFRESH_INTERVAL])),
            banks=_banks(self.pseudo_channels * organisation.banks),
            ready=np.zeros((nodes, k.COMMAND_SLOTS), np.int64),
            bins=np.zeros(0, np.int64),
            trace=np.zeros((0, k.TRACE_FIELDS), np.int64),
        )
        self.reserve(1024)

    @property
    def lookahead_ticks(self) -> int:
        """From a column command to its completion, at least."""
        return min(self.timing.nCL, self.timing.nCWL) + self.timing.nBL

    @property
    def idle(self) -> bool:
        """True when no burst waits anywhere."""
        return bool(self.state.scalars[k.WAITING] == 0)

    @property
    def next_tick(self) -> int:
        """The earliest tick at which a channel with bursts or open rows can act; 2**62 if there is none."""
        return int(next_tick(self.state))

    def reserve(self, bursts: int) -> None:
        """Make room for that many more bursts, and for as many requests. Replaces `state` when it grows."""
        scalars = self.state.scalars
        self.state = self.state._replace(
            pool=_grown(self.state.pool, scalars, bursts, k.FREE_RUN, k.BURSTS_LEFT, k.LINK),
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
        """Run every channel up to (not including) a tick.

        Returns (requests, done ticks), sorted by (tick, request), of the requests whose last burst was
        scheduled; done ticks may lie up to `nCL + nBL` past `until_tick`. Any steps give the same commands,
        counts and ticks; a request's number is free again from the next call on.
        """
        self._run(until_tick, 0)
        completed = self.state.completed[: self.state.scalars[k.COMPLETED]]
        return completed[:, 0].copy(), completed[:, 1].copy()

    def _run(self, until_tick: int, resume: int) -> None:
        status = run(self.state, until_tick, resume)
        while status != k.FINISHED:
            field = "trace" if status == k.TRACE_FULL else "bins"
            array = getattr(self.state, field)
            padding = [(0, max(4096, len(array))), *[(0, 0)] * (array.ndim - 1)]
            self.state = self.state._replace(**{field: np.pad(array, padding)})
            self.state.scalars[k.TRACE_ROWS] = len(self.state.trace)
            self.state.scalars[k.BINS] = len(self.state.bins)
            status = run(self.state, until_tick, 1)

    def _settle(self) -> None:
        """Let channels that sleep catch up with their refreshes."""
        self.state.channels[:, k.ASLEEP] = 0
        self._run(int(self.state.scalars[k.NOW]), 1)

    def drain(self) -> tuple[Array, Array]:
        """Run until no burst waits; returns what `advance` returns."""
        done: list[tuple[Array, Array]] = []
        while not self.idle:
            done.append(self.advance(max(self.next_tick, int(self.state.scalars[k.NOW])) + self.timing.nREFI))
        if not done:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
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

    def statistics(self) -> DramStatistics:
        """Return the exact counts up to now."""
        self._settle()
        pcs, banks = self.state.pcs, self.state.banks.reshape(self.pseudo_channels, -1, k.BANK_FIELDS)
        bursts = pcs[:, k.READS] + pcs[:, k.WRITES]
        used = np.flatnonzero(self.state.bins)
        names = {
            "reads": k.READS,
            "writes": k.WRITES,
            "row_hits": k.HITS,
            "row_misses": k.MISSES,
            "row_conflicts": k.CONFLICTS,
            "activates": k.ACTIVATES,
            "precharges": k.PRECHARGES,
            "refreshes": k.REFRESHES,
            "latency_ticks_sum": k.LATENCY_SUM,
        }
        return DramStatistics(
            **{name: int(pcs[:, field].sum()) for name, field in names.items()},
            latency_ticks_max=int(pcs[:, k.LATENCY_MAX].max()),
            pseudo_channel_bursts=bursts,
            pseudo_channel_busy_ticks=bursts * self.timing.nBL,
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
        pcs = self.state.pcs
        if not self.idle:
            raise ValueError(f"close: {self.state.scalars[k.WAITING]} bursts still wait; advance until idle")
        if makespan_ticks < pcs[:, k.ACCOUNTED].max():
            raise ValueError(
                f"close: makespan {makespan_ticks} ends before the last data at {pcs[:, k.ACCOUNTED].max()}"
            )
        causes = pcs[:, k.CAUSE : k.CAUSE + len(CAUSES)].copy()
        causes[:, k.IDLE] += makespan_ticks - pcs[:, k.ACCOUNTED]
        return causes


def _check_organisation(organisation: Organisation, stacks: int) -> None:
    if stacks < 1:
        raise ValueError(f"stacks: {stacks} must be at least 1")
    if organisation.banks > k.MAX_BANKS:
        raise ValueError(f"organisation: {organisation.banks} banks per pseudo-channel; at most {k.MAX_BANKS}")
    for name in ("banks_per_group", "bank_groups"):
        size = getattr(organisation, name)
        if size < 1 or size & (size - 1):
            raise ValueError(f"organisation.{name}: {size} must be a power of two")


def _delays(table: tuple[Rule, ...]) -> tuple[Array, int]:
    """Return delay[level, previous, following] and the length of the window of four activates."""
    delay = np.zeros((len(LEVELS) + 1, k.COMMAND_SLOTS, k.COMMAND_SLOTS), np.int64)
    faw_ticks = 0
    for rule in table:
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
    nodes = 1 + o.stack_ids + o.stack_ids * o.bank_groups + o.banks
    constants = {
        k.CHANNELS: stacks * o.channels,
        k.PER_CHANNEL: o.pseudo_channels,
        k.NODES: nodes,
        k.STACK_IDS: o.stack_ids,
        k.STACK_ID_SHIFT: stack_banks.bit_length() - 1,
        k.GROUP_SHIFT: o.banks_per_group.bit_length() - 1,
        k.BANKS: o.banks,
        k.FIRST_CHANNEL_NODE: stacks * o.channels * o.pseudo_channels * nodes,
        k.QUEUE_DEPTH: policy.queue_depth,
        k.WRITE_HIGH: max(1, math.ceil(policy.write_high * policy.queue_depth)),
        k.WRITE_LOW: max(1, math.floor(policy.write_low * policy.queue_depth)),
        k.BYPASS_CAP: policy.bypass_cap,
        k.REFRESH_INTERVAL: interval,
        k.REFRESH_ALL: policy.refresh == "all-bank",
        k.REFRESH_TICKS: refresh_ticks,
        k.READ_TICKS: timing.nCL + timing.nBL,
        k.WRITE_TICKS: timing.nCWL + timing.nBL,
        k.BURST_TICKS: timing.nBL,
        k.BURST_BYTES: o.burst_bytes,
        k.BANK_FIELD: bank_field,
        k.CHANNEL_FIELD: o.channels,
        k.FREE_RUN: k.NONE,
        k.FREE_REQUEST: k.NONE,
    }
    scalars = np.zeros(k.PLACES + len(places), np.int64)
    scalars[list(constants)] = list(constants.values())
    scalars[k.PLACES :] = places
    return scalars


def _pseudo_channels(count: int, refresh_interval: int) -> Array:
    pcs = np.zeros((count, k.PC_FIELDS), np.int64)
    pcs[:, k.ENTERING : k.INBOX_TAIL + 1] = k.NONE
    pcs[:, k.FAW : k.FAW + 4] = k.LONG_AGO
    pcs[:, [k.COLUMN_TICK, k.ROW_TICK, k.NEXT_ARRIVAL]] = k.NEVER
    pcs[:, k.REFRESH_DUE] = refresh_interval
    return pcs


def _banks(count: int) -> Array:
    banks = np.zeros((count, k.BANK_FIELDS), np.int64)
    banks[:, k.OPEN_ROW : k.HIT_BEFORE + 2] = k.NONE
    banks[:, [k.ACT_TICK, k.REFRESHED_UNTIL]] = k.LONG_AGO
    return banks


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
