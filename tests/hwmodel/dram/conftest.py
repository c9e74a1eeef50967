"""A small HBM3 memory with a plain address map, driven burst by burst."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwmodel.dram.controller import Dram, Policy
from hwmodel.dram.standards import COMMANDS, Organisation, Timing, standard

FIELDS = ("stack", "channel", "pseudo_channel", "bank_group", "bank", "row", "column")
# least significant first: columns change last, so that an address names its bank at sight
ORDER = ("column", "pseudo_channel", "channel", "stack", "bank_group", "bank", "row")
QUEUE = 32  # bursts; controllers with longer queues are compiled for themselves, which takes a minute


class Memory:
    """A `Dram` with its address map, and shorthand for enqueueing by location."""

    def __init__(
        self,
        timing: Timing,
        organisation: Organisation,
        stacks: int,
        order: tuple[str, ...],
        hashes: list[Any],
        **options: Any,
    ) -> None:
        self.timing, self.organisation, self.stacks = timing, organisation, stacks
        sizes = {"stack": stacks} | organisation.field_sizes()
        self.strides: dict[str, int] = {}
        digits, stride = [], organisation.burst_bytes
        for name in order:
            digits.append((stride, sizes[name], FIELDS.index(name), 1))
            self.strides[name] = stride
            stride *= sizes[name]
        self.capacity_bytes = stride
        tables = np.array(digits, np.int64), np.array([(*row, 0, 0)[:6] for row in hashes], np.int64).reshape(-1, 6)
        kept = {name: options.pop(name) for name in ("record_commands", "bin_ticks", "log_bursts") if name in options}
        queue = options.pop("queue", QUEUE)
        policy = Policy(**{"read_queue": queue, "write_queue": queue} | options)
        self.dram = Dram(timing, organisation, stacks, tables, policy, **{"record_commands": True} | kept)

    def address(self, **location: int) -> int:
        return sum(self.strides[name] * value for name, value in location.items())

    def offer(self, addresses: Iterable[int], tick: int = 0, is_write: bool = False) -> int:
        bursts = list(addresses)
        request = self.dram.open_request(len(bursts))
        for address in bursts:
            self.dram.enqueue(address, request, is_write, tick)
        return request

    def read(self, tick: int = 0, **location: int) -> int:
        return self.offer([self.address(**location)], tick)

    def write(self, tick: int = 0, **location: int) -> int:
        return self.offer([self.address(**location)], tick, is_write=True)

    def commands(self) -> list[tuple[int, str]]:
        """Drain and return (tick, command) in order."""
        self.dram.drain()
        return [(int(c[0]), COMMANDS[c[6]]) for c in self.dram.commands()]


@pytest.fixture(scope="session")
def make_memory() -> Callable[..., Memory]:
    """Return a maker of memories: one channel of HBM3 by default; options of `Policy` and `Dram`.

    `queue` is the length of both queues, `name` and `rate` the standard and its data rate, `timing` replaces theirs.
    """

    def make(
        channels: int = 1,
        stacks: int = 1,
        order: tuple[str, ...] = ORDER,
        hashes: Any = (),
        name: str = "HBM3",
        rate: int | None = None,
        timing: Timing | None = None,
        **options: Any,
    ) -> Memory:
        part = standard(name)
        options = {"refresh": "none"} | options
        timing = timing or part.timing(rate or part.max_pin_rate_bps)
        return Memory(timing, replace(part.organisation, channels=channels), stacks, order, list(hashes), **options)

    return make
