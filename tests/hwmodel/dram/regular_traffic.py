"""Regular traffic and controllers at random, by a seed: what the fast-forward is compared with plain replays on.

Memories are small, with rows of few columns and short refresh intervals, so that periods are as short as the traffic.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any
from unittest import mock

import numpy as np

from hwmodel.dram import replay as replaying
from hwmodel.dram.controller import Dram
from hwmodel.dram.policy import Policy
from hwmodel.dram.standards import Organisation, Timing, standard, standard_names
from hwmodel.dram.traffic import Traffic, gather, streams, trace

Generator = np.random.Generator
FIELDS = ("stack", "channel", "pseudo_channel", "bank_group", "bank", "row", "column")
SCHEDULERS = ("fr-fcfs-row-hit", "fr-fcfs", "fcfs", "per-bank-queues")
ROW_POLICIES = ("open", "closed", "timeout")
REFRESHES = ("none", "all-bank", "per-bank")


@dataclass(frozen=True)
class Memory:
    """Everything that a `Dram` of one channel is made of."""

    timing: Timing
    organisation: Organisation
    digits: tuple[tuple[int, int, int, int], ...]
    hashes: tuple[tuple[int, int, int, int], ...]
    policy: Policy

    def dram(self, **options: Any) -> Dram:
        tables = (
            np.array(self.digits, np.int64),
            np.array([(*row, 0, 0)[:6] for row in self.hashes], np.int64).reshape(-1, 6),
        )
        return Dram(self.timing, self.organisation, 1, tables, self.policy, **options)

    @property
    def block_bytes(self) -> int:
        """The bytes of one row of every bank."""
        o = self.organisation
        return o.pseudo_channels * o.banks * o.row_bytes


def policies() -> list[tuple[str, str, str]]:
    """Return every scheduler x row policy x refresh policy that there is."""
    return [
        (scheduler, row, refresh)
        for scheduler in SCHEDULERS
        for row in ROW_POLICIES
        for refresh in REFRESHES
        if scheduler != "per-bank-queues" or (row == "open" and refresh != "per-bank")
    ]


@cache
def _described(name: str) -> tuple[Timing, Organisation]:
    part = standard(name)
    return part.timing(part.max_pin_rate_bps), part.organisation


def random_memory(rng: Generator, chosen: tuple[str, str, str], deepest: int = 42, name: str = "") -> Memory:
    """Return a small memory of a standard (any, without a name) under a (scheduler, row policy, refresh policy)."""
    timing, o = _described(name or str(rng.choice(standard_names())))
    organisation = replace(
        o,
        channels=1,
        stack_ids=int(rng.choice([1, o.stack_ids])),
        bank_groups=int(min(o.bank_groups, rng.choice([2, 4, 8]))),
        banks_per_group=int(min(o.banks_per_group, rng.choice([1, 2, 4]))),
        rows=int(rng.choice([64, 1024, 8192])),
        row_bytes=o.burst_bytes * int(rng.choice([2, 8, 16])),
    )
    timing = _shortened(rng, timing, organisation.banks)
    digits = _digits(rng, organisation)
    return Memory(timing, organisation, digits, _hashes(rng, organisation), _policy(rng, chosen, deepest))


def _shortened(rng: Generator, timing: Timing, banks: int) -> Timing:
    """Return the timing with short refreshes that come often, at whole CK."""
    per_ck = timing.ticks_per_ck
    refresh = per_ck * int(rng.integers(20, 80))
    interval = per_ck * int(rng.choice([300, 512, 777, 1000]))
    single = max(interval // banks // per_ck * per_ck, -(-(timing.nRREFD + 40) // per_ck) * per_ck)
    table = {field.name: getattr(timing, field.name) for field in fields(Timing)}
    changes = {"nRFC": refresh, "nRFCpb": min(refresh, 30 * per_ck), "nREFI": interval, "nREFIpb": single}
    return Timing.from_ticks(table | changes)


def _digits(rng: Generator, o: Organisation) -> tuple[tuple[int, int, int, int], ...]:
    """Return an address map: the row on top but for a few, the others below in any order."""
    sizes = o.field_sizes()
    order = ["pseudo_channel", "bank_group", "bank", "column"]
    rng.shuffle(order)
    order.insert(int(rng.integers(4)) if rng.random() < 0.1 else 4, "row")
    digits, stride = [], o.burst_bytes
    for name in order:
        digits.append((stride, sizes[name], FIELDS.index(name), 1))
        stride *= sizes[name]
    return tuple(digits)


def _hashes(rng: Generator, o: Organisation) -> tuple[tuple[int, int, int, int], ...]:
    """Return XORs of bits of the row or the column into the pseudo-channel, the bank group or the bank."""
    found = []
    for name in ("pseudo_channel", "bank_group", "bank"):
        size = o.field_sizes()[name]
        if size & (size - 1) == 0:
            for bit in range(size.bit_length() - 1):
                if rng.random() < 0.3:
                    source = str(rng.choice(["row", "row", "column"]))
                    width = min(4, o.field_sizes()[source].bit_length() - 1)
                    found.append((FIELDS.index(name), bit, FIELDS.index(source), int(rng.integers(width))))
    return tuple(found) if rng.random() < 0.5 else ()


def _policy(rng: Generator, chosen: tuple[str, str, str], deepest: int) -> Policy:
    scheduler, row, refresh = chosen
    low, high = float(rng.choice([0, 0.2, 0.5])), float(rng.choice([0.5, 0.8, 1]))
    return Policy(
        scheduler=scheduler,
        row_policy=row,
        timeout_ticks=int(rng.choice([20, 100, 400])) if row == "timeout" else 0,
        refresh=refresh,
        read_queue=int(rng.choice([1, 2, 8, 32, deepest])),
        write_queue=int(rng.choice([2, 8, 32, deepest])),
        bank_queue=int(rng.choice([1, 4, 8])),
        write_high=high,
        write_low=low,
        hit_streak=int(rng.choice([1, 4, 16])),
        merge=bool(rng.random() < 0.8),
    )


def random_traffic(rng: Generator, memory: Memory, most: int = 40_000) -> Traffic:
    """Return one to three segments of streams and gathers, with a little of anything in between."""
    access_bytes = max(64, memory.organisation.burst_bytes) if rng.random() < 0.8 else memory.organisation.burst_bytes
    count = 1 if rng.random() < 0.7 else int(rng.integers(2, 4))
    traffic = _segment(rng, memory, access_bytes, most // count)
    for _ in range(count - 1):
        if rng.random() < 0.3:
            scattered = rng.integers(0, memory.organisation.capacity_bytes // access_bytes, 200) * access_bytes
            traffic = traffic.then(trace(scattered, rng.random(200) < 0.5, access_bytes))
        traffic = traffic.then(_segment(rng, memory, access_bytes, most // count))
    return traffic


def _segment(rng: Generator, memory: Memory, access_bytes: int, most: int) -> Traffic:
    accesses = int(rng.integers(most // 4, most + 1))
    if rng.random() < 0.3:
        return _random_gather(rng, memory, access_bytes, accesses)
    side_by_side = int(rng.integers(1, 4))
    length = max(2, accesses // side_by_side)
    strides = [_stride(rng, memory, access_bytes) for _ in range(side_by_side)]
    if rng.random() < 0.75:
        strides = strides[:1] * side_by_side
    writes = (rng.random(side_by_side) < 0.5).tolist()
    capacity = memory.organisation.capacity_bytes
    starts = (rng.integers(0, capacity // access_bytes, side_by_side) * access_bytes).tolist()
    if rng.random() < 0.3:  # one behind the other, so that they may meet
        starts = [starts[0] + i * int(rng.integers(0, 9)) * access_bytes for i in range(side_by_side)]
    elif rng.random() < 0.5:  # regions of their own, where there is room
        starts = [
            i * (capacity // side_by_side) // memory.block_bytes * memory.block_bytes for i in range(side_by_side)
        ]
        starts = [
            start if stride > 0 else start + capacity // side_by_side - access_bytes
            for start, stride in zip(starts, strides, strict=True)
        ]
    return streams(starts, strides, writes, length, access_bytes)


def _stride(rng: Generator, memory: Memory, access_bytes: int) -> int:
    size = access_bytes << int(rng.integers(0, 15)) if rng.random() < 0.3 else access_bytes
    if rng.random() < 0.3:
        size *= int(rng.integers(1, 17)) | 1
    size = min(size, 1 << 20)
    return int(size if rng.random() < 0.75 else -size)


def _random_gather(rng: Generator, memory: Memory, access_bytes: int, accesses: int) -> Traffic:
    """Return contiguous runs in random order, on whole blocks or anywhere, perhaps with repeats."""
    capacity, block = memory.organisation.capacity_bytes, memory.block_bytes
    run_bytes = max(access_bytes, int(rng.choice([block, 2 * block, 1 << 16])))
    run_bytes = min(run_bytes, capacity) // access_bytes * access_bytes
    places = max(1, capacity // run_bytes)
    runs = max(2, accesses * access_bytes // run_bytes)
    if rng.random() < 0.5 and places >= runs:
        starts = rng.permutation(places)[:runs] * run_bytes
    else:
        starts = rng.integers(0, places, runs) * run_bytes
    kind = rng.random()
    if kind < 0.1:
        starts = starts + int(rng.integers(0, 64)) * access_bytes
    elif kind < 0.2:
        starts = starts + rng.integers(0, 64, runs) * access_bytes
    return gather(starts, run_bytes, bool(rng.random() < 0.3), access_bytes)


def outcome(memory: Memory, traffic: Traffic, fast_forward: bool) -> tuple[dict[str, Any], int]:
    """Return everything that a replay comes to, by name, and how many times periods were skipped."""
    dram, skipped = memory.dram(), 0

    def counted(*arguments: Any) -> None:
        nonlocal skipped
        skipped += 1
        skip(*arguments)

    skip = replaying.skip
    with mock.patch.object(replaying, "skip", counted):
        ticks = replaying.replay(dram, traffic, fast_forward=fast_forward)
    statistics = dram.statistics()
    found = {field.name: np.asarray(getattr(statistics, field.name)).tolist() for field in fields(statistics)}
    t = memory.timing
    if dram.idle:  # a few writes may wait for more of them, with per-bank queues
        found["causes"] = dram.close(ticks + t.nCL + t.nCWL + t.nBL).tolist()
    return found | {"ticks": ticks}, skipped
