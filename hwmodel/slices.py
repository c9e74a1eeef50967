"""Memory in slices: how lines of addresses are dealt to them, and their bandwidth.

The shared cache and a main memory of SRAM are made of slices, each a first-come-first-served server. A line's slice is
the sum of its number's digits in base `slices`: the exclusive or of groups of bits where that is a power of two, modulo
`slices` where it is not. So the lines of every run of addresses, and of every stride that is a power of `slices`, lie
in the slices evenly. Slices that are the cores' own have their lines in turn instead, so that a strided layout keeps to
one of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hwmodel.compiled import compiled, inlined

Array = np.ndarray[Any, Any]


@inlined
def fold(number: int, base: int) -> int:
    """Return the sum of the digits of `number` in a base: without carry for a power of two, else modulo the base."""
    total = 0
    if base == 1:
        return 0
    if base & (base - 1) == 0:
        while number:
            total ^= number & (base - 1)
            number //= base
        return total
    while number:
        rest = number // base
        total += number - rest * base  # one division where a compiler would do two
        number = rest
    return total % base


LINE_BYTES, BURST_FS, BURSTS, IN_TURN = range(4)


class SlicesState(NamedTuple):
    """The arrays on which the compiled functions work."""

    scalars: Array
    free_fs: Array  # [slice]: when each has passed everything offered so far


@compiled
def serve_slices(slices: SlicesState, bursts: Array, first: int, stop: int, now_fs: int) -> int:
    """Pass the bursts at addresses bursts[first:stop] through their slices; return when the last has passed.

    Offers come in order of time.
    """
    free_fs, line_bytes, burst_fs = slices.free_fs, slices.scalars[LINE_BYTES], slices.scalars[BURST_FS]
    slices.scalars[BURSTS] += stop - first
    done_fs = now_fs
    at = first
    while at < stop:
        line, count = bursts[at] // line_bytes, 0
        base = line * line_bytes
        while at < stop and 0 <= bursts[at] - base < line_bytes:
            count += 1
            at += 1
        here = line % len(free_fs) if slices.scalars[IN_TURN] else fold(line, len(free_fs))
        free_fs[here] = max(free_fs[here], now_fs) + count * burst_fs
        done_fs = max(done_fs, free_fs[here])
    return int(done_fs)


class Slices:
    """Slices of one memory. `bytes_per_second` is that of all together, `line_bytes` what one slice holds in a row.

    `in_turn`: whether lines are dealt round, unhashed.
    """

    def __init__(
        self, count: int, line_bytes: int, burst_bytes: int, bytes_per_second: int, in_turn: bool = False
    ) -> None:
        burst_fs = slice_burst_fs(count, burst_bytes, bytes_per_second)
        self.state = SlicesState(np.array([line_bytes, burst_fs, 0, in_turn], np.int64), np.zeros(count, np.int64))

    def serve(self, bursts: Array, first: int, stop: int, now_fs: int) -> int:
        """Pass bursts through; see `serve_slices`."""
        return int(serve_slices(self.state, bursts, first, stop, now_fs))

    @property
    def bursts(self) -> int:
        """How many have passed."""
        return int(self.state.scalars[BURSTS])

    @property
    def busy_fs(self) -> int:
        """For how long the bandwidth of all slices would have been in use."""
        return self.bursts * int(self.state.scalars[BURST_FS]) // len(self.state.free_fs)


def no_slices() -> SlicesState:
    """Return what stands for slices where there are none."""
    return SlicesState(np.zeros(4, np.int64), np.zeros(0, np.int64))


def shift(size: int) -> int:
    """Return the logarithm of a power of two, -1 for any other number."""
    return size.bit_length() - 1 if size & (size - 1) == 0 else -1


def slice_burst_fs(count: int, burst_bytes: int, bytes_per_second: int) -> int:
    """Return how long one of `count` slices is busy with a burst, rounded up."""
    return -(-burst_bytes * count * 10**15 // bytes_per_second)
