"""How the traffic of a segment repeats: after how many bursts, and when rows of different runs may meet.

Two addresses that are a block apart differ in nothing but the row, so streams go on alike when all of them have moved
by whole blocks, and gathers whose runs begin at the same place of a block after each run. Addresses go round at the
capacity: where that is no whole number of blocks, as rows that are no power of two and are hashed make it, only traffic
that stays below it goes on alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, lcm
from typing import Any

import numpy as np

from hwmodel.compiled import compiled
from hwmodel.dram.intake import decode
from hwmodel.dram.state import (
    BANK_MASK,
    BURST_BYTES,
    CAPACITY,
    CHANNEL_BANKS,
    DIGIT_FIELD,
    DIGIT_MODULUS,
    DIGIT_MULTIPLIER,
    DIGIT_STEP,
    HASH_SOURCE,
    HASH_SOURCE_BIT,
    HASH_TARGET,
    NEVER,
    ROW_FIELD,
    DramState,
    memory_of,
)
from hwmodel.dram.traffic import (
    ACCESSES,
    DIRECTION,
    FIRST,
    LENGTH,
    RUNS,
    START,
    STREAMS,
    STRIDE,
    Accesses,
    Traffic,
    access_at,
)

Array = np.ndarray[Any, Any]

MAX_UNIT_STEPS = 1 << 16  # assumed: longer patterns would hardly come round within a refresh or two

MAX_BLOCKS = 1 << 24  # assumed: of a gather, as many as are sorted in a second or two


@dataclass(frozen=True)
class Pattern:
    """How a segment repeats: after `unit` bursts; rows meet again after `apart` bursts at the earliest."""

    first: int  # burst
    stop: int  # burst
    unit: int
    apart: int
    banks: Array  # [bank] of the channel: whether its bursts touch it


def block_bytes(address_map: Array, digits: int) -> int:
    """Return how far apart two addresses lie that differ in nothing but the row, by one step of its unhashed part.

    `address_map` is the decoder's table, digits then hashes. The capacity where there is no such distance.
    """
    row = ROW_FIELD
    rows = address_map[:digits]
    top = rows[-1]
    divisor, capacity = 1, 1
    divisors = []
    for digit in rows:
        divisor *= int(digit[DIGIT_STEP])
        divisors.append(divisor)
        capacity = max(capacity, divisor * int(digit[DIGIT_MODULUS]))
    hashes = address_map[digits:]
    sources = hashes[hashes[:, HASH_SOURCE] == row, HASH_SOURCE_BIT] if len(hashes) else np.zeros(0, np.int64)
    targets = hashes[hashes[:, HASH_TARGET] == row] if len(hashes) else hashes
    if top[DIGIT_FIELD] != row or len(targets) or divisors[-1] & (divisors[-1] - 1):
        return capacity
    low = int(top[DIGIT_MULTIPLIER]).bit_length() - 1
    hashed = max((int(bit) + 1 - low for bit in sources), default=0)
    return min(capacity, divisors[-1] << max(0, hashed))


def pattern_of(state: DramState, accesses: Accesses, segment: int, access_bytes: int, block: int) -> Pattern | None:
    """Return how a segment repeats, or None if nothing says that it does."""
    row = accesses.segments[segment].tolist()
    streams, length, count = row[STREAMS], row[LENGTH], row[ACCESSES]
    steps = count // streams
    runs = accesses.runs[row[RUNS] : row[RUNS] + -(-steps // length) * streams]
    parts = access_bytes // int(state.scalars[BURST_BYTES])
    capacity = int(state.scalars[CAPACITY])
    if capacity % block and _goes_round(runs, length, access_bytes, capacity):
        return None  # behind the capacity it goes on elsewhere in a block
    if steps == length:
        unit, apart = _streams(runs, length, access_bytes, block, capacity)
    elif streams == 1:
        unit, apart = _gather(runs, length, access_bytes, block, capacity)
    else:
        return None
    if not unit or unit > MAX_UNIT_STEPS or 2 * unit > steps:
        return None
    bursts = unit * streams * parts
    first = row[FIRST] * parts
    banks = np.zeros(CHANNEL_BANKS, np.bool_)
    _touched(state, accesses, segment, unit * streams, parts, banks)
    return Pattern(first, first + count * parts, bursts, apart * parts, banks)


def _goes_round(runs: Array, length: int, access_bytes: int, capacity: int) -> bool:
    """Return whether a run leaves the addresses from 0 to the capacity."""
    last = runs[:, START] + (length - 1) * runs[:, STRIDE]
    low, high = np.minimum(runs[:, START], last).min(), np.maximum(runs[:, START], last).max()
    return bool(low < 0 or high + access_bytes > capacity)


def _streams(runs: Array, length: int, access_bytes: int, block: int, capacity: int) -> tuple[int, int]:
    """Return (steps after which streams side by side repeat, accesses until rows meet), or (0, 0)."""
    strides = runs[:, STRIDE].tolist()
    unit = lcm(*(block // gcd(block, stride) for stride in strides))
    alike = len(set(strides)) == 1
    return (unit, NEVER) if alike or _are_apart(runs, length, access_bytes, block, capacity) else (0, 0)


def _are_apart(runs: Array, length: int, access_bytes: int, block: int, capacity: int) -> bool:
    """Return whether runs touch different blocks, all of them below the capacity."""
    last = runs[:, START] + (length - 1) * runs[:, STRIDE]
    low = np.minimum(runs[:, START], last) // block
    high = (np.maximum(runs[:, START], last) + access_bytes - 1) // block
    order = np.argsort(low)
    return bool((low[order][1:] > high[order][:-1]).all() and low.min() >= 0 and (high.max() + 1) * block <= capacity)


def _gather(runs: Array, length: int, access_bytes: int, block: int, capacity: int) -> tuple[int, int]:
    """Return (accesses after which a gather of runs repeats, accesses until rows meet), or (0, 0)."""
    stride = int(runs[0, STRIDE])
    if stride <= 0 or (runs[:, STRIDE] != stride).any() or (runs[:, DIRECTION] != runs[0, DIRECTION]).any():
        return 0, 0
    phases = runs[:, START] % block
    if (phases != phases[0]).any():
        return 0, 0
    unit = length
    if phases[0] == 0 and length * stride % block == 0:
        unit = block // gcd(block, stride)
    blocks = -(-(int(phases[0]) + (length - 1) * stride + access_bytes) // block)
    if len(runs) * blocks > MAX_BLOCKS:
        return 0, 0
    touched = (runs[:, START, None] // block + np.arange(blocks)).ravel() % -(-capacity // block)
    order = np.argsort(touched, kind="stable")
    same = np.flatnonzero(touched[order][1:] == touched[order][:-1])
    begins = order // blocks * length + order % blocks * block // stride  # access, of a run's visit to a block
    gaps = begins[same + 1] - begins[same] - -(-block // stride) - 1
    return unit, int(gaps.min()) if len(gaps) else NEVER


@compiled
def _touched(state: DramState, accesses: Accesses, segment: int, count: int, parts: int, banks: Array) -> None:
    """Mark the banks of the first accesses of a segment."""
    m = memory_of(state)
    for i in range(count):
        address, _ = access_at(accesses, segment, i)
        for part in range(parts):
            banks[decode(m, (address + part * m[BURST_BYTES]) % m[CAPACITY]) & BANK_MASK] = True


def joined_runs(traffic: Traffic, block: int) -> Traffic:
    """Return the traffic with neighbouring segments of one run each joined, where they are alike but for the row."""
    segments, runs = traffic.accesses.segments, traffic.accesses.runs
    kept: list[Array] = []
    table: list[Array] = []
    rows = 0
    at = 0
    while at < len(segments):
        stop = at + 1
        if _is_one_run(segments[at]):
            while stop < len(segments) and _alike(segments, runs, at, stop, block):
                stop += 1
        first = segments[at].copy()
        part = runs[first[RUNS] : first[RUNS] + _rows(first)]
        if stop > at + 1:
            lengths = segments[at:stop, LENGTH]
            length = int(np.gcd.reduce(lengths))
            part = np.concatenate(
                [_cut(runs[segments[i, RUNS]], int(segments[i, LENGTH]), length) for i in range(at, stop)]
            )
            first[[ACCESSES, LENGTH]] = int(lengths.sum()), length
        first[RUNS] = rows
        rows += len(part)
        kept.append(first)
        table.append(part)
        at = stop
    if len(kept) == len(segments):
        return traffic
    return Traffic(Accesses(np.array(kept), np.concatenate(table)), traffic.access_bytes)


def _rows(segment: Array) -> int:
    """Return how many runs a segment has."""
    steps = int(segment[ACCESSES]) // int(segment[STREAMS])
    return -(-steps // int(segment[LENGTH])) * int(segment[STREAMS])


def _is_one_run(segment: Array) -> bool:
    return bool(segment[STREAMS] == 1 and segment[ACCESSES] == segment[LENGTH] and segment[LENGTH] > 1)


def _alike(segments: Array, runs: Array, one: int, other: int, block: int) -> bool:
    """Return whether two segments are runs that may be cut into runs of one length."""
    if not _is_one_run(segments[other]):
        return False
    a, b = runs[segments[one, RUNS]], runs[segments[other, RUNS]]
    same = a[STRIDE] == b[STRIDE] and a[DIRECTION] == b[DIRECTION] and a[START] % block == b[START] % block
    if not same or a[STRIDE] <= 0:
        return False
    equal = segments[one, LENGTH] == segments[other, LENGTH]
    whole = a[START] % block == 0 and all(segments[i, LENGTH] * a[STRIDE] % block == 0 for i in (one, other))
    return bool(equal or whole)


def _cut(run: Array, length: int, piece: int) -> Array:
    """Return a run in pieces."""
    pieces = np.repeat(run[None, :], length // piece, axis=0)
    pieces[:, START] += np.arange(length // piece) * piece * run[STRIDE]
    return pieces
