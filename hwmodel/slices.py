"""Memory in slices: how lines of addresses are dealt to them, and their bandwidth.

The shared cache and a main memory of SRAM are made of slices, each a first-come-first-served server. Lines are dealt to
them by a hash of their numbers (`hashing`). Slices that are the cores' own have their lines in turn instead, so that a
strided layout keeps to one of them.
"""

from __future__ import annotations

import numpy as np

from hwmodel.compiled import compiled, inlined
from hwmodel.hashing import hash_of, turn_of, turned
from hwmodel.intrinsics import Row, pointer, pointer_of, row_at
from hwmodel.runs import BEGIN, BURSTS, RUN_WORDS, Array, runs_of, tie


@inlined
def quotient(number: int, divisor: int, shift: int) -> int:
    """Return number // divisor; `shift` is its logarithm, or -1."""
    return int(number >> shift if shift >= 0 else number // divisor)


# PASSED: bursts so far. BLOCK: first line of the block of lines, one in each slice, that passed last; BLOCK_SLICE: what
# turns their slices. FREE: address of a table [slice]: when each has passed everything offered so far.
# HASH: of lines.
(
    COUNT, LINE_BYTES, LINE_SHIFT, BURST_BYTES, BURST_SHIFT, BURST_FS, PASSED, IN_TURN, BLOCK, BLOCK_SLICE, FREE, HASH,
) = range(12)  # fmt: skip
SCALARS = HASH + 1


@inlined
def _within_block(s: Row, line: int) -> int:
    """Return the place of a line in its block, which is the one that passes now; its lines share all divisions."""
    inside = line - s[BLOCK]
    if inside < 0 or inside >= s[COUNT]:
        block = line // s[COUNT]
        inside = line - block * s[COUNT]
        s[BLOCK] = line - inside
        s[BLOCK_SLICE] = 0 if s[IN_TURN] else turn_of(pointer_of(s[HASH]), block)
    return int(inside)


@compiled
def serve_runs(s: Row, runs: Row, count: int, now_fs: int) -> int:
    """Pass the bursts of runs through their slices; return when the last has passed. Offers come in order of time."""
    free, done_fs, line_bytes, slices = pointer_of(s[FREE]), now_fs, s[LINE_BYTES], s[COUNT]
    whole = quotient(line_bytes, s[BURST_BYTES], s[BURST_SHIFT])
    for number in range(count):
        run = row_at(runs, number * RUN_WORDS)
        address, left = run[BEGIN], run[BURSTS]
        s[PASSED] += left
        while left > 0:
            line = quotient(address, line_bytes, s[LINE_SHIFT])
            bursts = min(left, quotient((line + 1) * line_bytes - address, s[BURST_BYTES], s[BURST_SHIFT]))
            inside, lines = _within_block(s, line), 1
            if bursts == whole:  # as those behind it in the block
                lines = min(slices - inside, left // whole)
            turn, is_in_turn, duration_fs = s[BLOCK_SLICE], s[IN_TURN] != 0, bursts * s[BURST_FS]
            for place in range(inside, inside + lines):
                here = place if is_in_turn else turned(place, turn, slices)
                free[here] = max(free[here], now_fs) + duration_fs
                done_fs = max(done_fs, free[here])
            address, left = address + lines * bursts * s[BURST_BYTES], left - lines * bursts
    return int(done_fs)


@compiled
def _serve(scalars: Array, runs: Array, count: int, now_fs: int) -> int:
    return int(serve_runs(pointer(scalars), pointer(runs), count, now_fs))


class Slices:
    """Slices of one memory. `bytes_per_second` is that of all together, `line_bytes` what one slice holds in a row.

    `in_turn`: whether lines are dealt round, unhashed.
    """

    def __init__(
        self, count: int, line_bytes: int, burst_bytes: int, bytes_per_second: int, in_turn: bool = False
    ) -> None:
        self.scalars, self.free_fs = np.zeros(SCALARS, np.int64), np.zeros(count, np.int64)
        self.scalars[COUNT], self.scalars[IN_TURN] = count, in_turn
        self.scalars[LINE_BYTES], self.scalars[LINE_SHIFT] = line_bytes, shift(line_bytes)
        self.scalars[BURST_BYTES], self.scalars[BURST_SHIFT] = burst_bytes, shift(burst_bytes)
        self.scalars[BURST_FS] = slice_burst_fs(count, burst_bytes, bytes_per_second)
        self._hash = hash_of(count)  # kept as long as its address
        tie(self.scalars, FREE, self.free_fs, self._hash)

    def serve(self, bursts: Array, first: int, stop: int, now_fs: int) -> int:
        """Pass the bursts at addresses bursts[first:stop] through; see `serve_runs`."""
        runs = runs_of(bursts, first, stop, int(self.scalars[BURST_BYTES]))
        return int(_serve(self.scalars, runs.reshape(-1), len(runs), now_fs))

    @property
    def bursts(self) -> int:
        """How many have passed."""
        return int(self.scalars[PASSED])

    @property
    def busy_fs(self) -> int:
        """For how long the bandwidth of all slices would have been in use."""
        return self.bursts * int(self.scalars[BURST_FS]) // len(self.free_fs)


def shift(size: int) -> int:
    """Return the logarithm of a power of two, -1 for any other number."""
    return size.bit_length() - 1 if size & (size - 1) == 0 else -1


def slice_burst_fs(count: int, burst_bytes: int, bytes_per_second: int) -> int:
    """Return how long one of `count` slices is busy with a burst, rounded up."""
    return -(-burst_bytes * count * 10**15 // bytes_per_second)
