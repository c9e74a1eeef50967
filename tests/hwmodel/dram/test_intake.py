from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.dram import state as k
from hwmodel.dram.controller import enqueue_bursts
from hwmodel.dram.intake import place_of
from hwmodel.dram.policy import REFRESH_POLICIES
from hwmodel.machine import Machine
from hwmodel.reference import make_dram
from hwmodel.spec import load_machine

MACHINES = ("h100-sxm", "h200-sxm", "a100-sxm", "b200-sxm", "mi300x", "rtx-4090", "t4", "npu-hbm3")
Maker = Callable[..., Any]
RUN_ORDERS = (
    ("column", "pseudo_channel", "channel", "stack", "bank_group", "bank", "row"),
    ("pseudo_channel", "bank_group", "column", "bank", "channel", "stack", "row"),
)


@given(
    requests=st.lists(
        st.tuples(st.sampled_from([0, 0, 3, 60]), st.integers(0, 200), st.integers(1, 40), st.booleans()),
        min_size=1,
        max_size=20,
    ),
    order=st.sampled_from(RUN_ORDERS),
    hashes=st.sampled_from([(), ((2, 0, 6, 2),), ((3, 1, 5, 0),)]),
    refresh=st.sampled_from(REFRESH_POLICIES),
    depth=st.sampled_from([1, 3, 32]),
)
def test_bursts_offered_as_runs_and_one_by_one_get_the_same_commands(
    make_memory: Maker, requests: Any, order: Any, hashes: Any, refresh: str, depth: int
) -> None:
    results = []
    for as_runs in (False, True):
        memory = make_memory(
            order=order, hashes=hashes, refresh=refresh, read_queue=depth, write_queue=depth, bin_ticks=1000
        )
        tick = 0
        for gap, first, bursts, is_write in requests:
            tick += gap
            addresses = np.arange(first, first + bursts) * memory.organisation.burst_bytes
            if as_runs:
                memory.dram.reserve(bursts)
                request = memory.dram.open_request(bursts)
                enqueue_bursts(memory.dram.state, addresses, 0, bursts, request, is_write, tick)
            else:
                memory.offer(addresses.tolist(), tick, is_write)
        done = [part.tolist() for part in memory.dram.drain()]
        s = memory.dram.statistics()
        counts = [np.asarray(getattr(s, name)).tolist() for name in type(s).__dataclass_fields__]
        results.append((done, memory.dram.commands().tolist(), counts))
    assert results[0] == results[1]


@pytest.mark.parametrize("name", MACHINES)
@given(data=st.data())
def test_a_place_is_what_the_address_map_says(name: str, data: st.DataObject) -> None:
    machine = Machine(load_machine(name))
    dram, o = make_dram(machine), machine.organisation
    bursts = st.integers(0, machine.address_map.capacity_bytes // o.burst_bytes - 1)
    addresses = o.burst_bytes * np.array(data.draw(st.lists(bursts, min_size=1, max_size=200)), np.int64)
    at = machine.address_map.decode(addresses)
    bank_groups = at.bank // o.banks_per_group * o.bank_groups + at.bank_group
    banks = bank_groups * o.banks_per_group + at.bank % o.banks_per_group
    places = np.array([place_of(dram.state, int(address)) for address in addresses])
    assert np.array_equal(places & k.BANK_MASK, at.pseudo_channel * int(dram.state.scalars[k.BANK_STRIDE]) + banks)
    assert np.array_equal((places >> k.COLUMN_SHIFT) & ((1 << k.COLUMN_BITS) - 1), at.column)
    assert np.array_equal((places >> k.ROW_SHIFT) & ((1 << k.ROW_BITS) - 1), at.row)
    assert np.array_equal(places >> k.CHANNEL_SHIFT, at.stack * o.channels + at.channel)
    assert dram.state.scalars[k.LINEAR] or dram.state.scalars[k.FOLD]  # tables, not digit by digit
