from __future__ import annotations

from functools import reduce
from operator import xor

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hwmodel.l1 import L1, Loads, loads
from hwmodel.machine import Machine
from hwmodel.spec import load_machine
from layouts import Layout, parse
from layouts.analysis import Banks

GPU = L1(Banks(32, 4), Banks(4, 128))
SMALL = L1(Banks(8, 8), Banks(8, 32))
NO_BANKS = L1(Banks(32, 4), Banks(1, 128))


def most(banks: list[int]) -> int:
    return max(banks.count(bank) for bank in banks)


def tag_bank(line: int, banks: int) -> int:
    """Return the XOR of the digits of a line's number, in base `banks`."""
    digits = [line // banks**place % banks for place in range(12)] if banks > 1 else [0]
    return reduce(xor, digits)


def counted(l1: L1, offsets: list[int], lanes: int, element_bytes: int) -> Loads:
    """Return the cost of loads of elements at these places, looking at every byte."""
    data = tags = 0
    word, together = l1.data.width_bytes, max(1, l1.data.count * l1.data.width_bytes // element_bytes)
    for first in range(0, len(offsets), lanes):
        starts = [offset * element_bytes for offset in offsets[first : first + lanes]]
        lines = {start // l1.tags.width_bytes for start in starts}
        tags += most([tag_bank(line, l1.tags.count) for line in lines])
        for part in range(0, len(starts), together):
            words = {(a + byte) // word for a in starts[part : part + together] for byte in range(element_bytes)}
            data += most([w % l1.data.count for w in words])
    return Loads(data, tags)


@given(
    st.sampled_from([GPU, SMALL, NO_BANKS]),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.lists(st.integers(0, 5000), min_size=1, max_size=3),
    st.integers(0, 130),
)
@example(GPU, 8, [0, 16, 5], 5)
@example(GPU, 4, [0], 64)
def test_it_is_what_a_count_of_every_word_and_every_line_gives(
    l1: L1, element_bytes: int, starts: list[int], stride: int
) -> None:
    index = [start + lane * stride for start in starts for lane in range(32)]
    found = loads(l1, Layout(max(index) + 1, 1), index, 32, element_bytes)
    assert found == counted(l1, index, 32, element_bytes)
    assert found.cycles == max(found.data_cycles, found.tag_cycles)


def test_the_placement_moves_the_elements() -> None:
    column = list(range(0, 32 * 32, 32))  # of a tile of 32 x 32 floats
    plain = loads(GPU, parse("1024:1"), column, 32, 4)
    padded = loads(GPU, parse("(32,32):(1,33)"), column, 32, 4)
    assert plain == Loads(data_cycles=32, tag_cycles=8)
    assert padded.data_cycles == 1
    assert padded.tag_cycles in (8, 9)


@pytest.mark.parametrize("lines", [1, 2, 4, 8, 16])
def test_lanes_a_power_of_two_of_lines_apart_keep_all_banks_of_tags_busy(lines: int) -> None:
    index = np.arange(32) * 32 * lines
    assert loads(GPU, Layout(1 << 15, 1), index.tolist(), 32, 4).tag_cycles == 8


def test_one_element_for_all_lanes_takes_a_cycle_per_row_of_banks_that_the_lanes_get() -> None:
    assert [loads(GPU, Layout(1, 1), [0] * 32, 32, size).cycles for size in (1, 2, 4, 8, 16)] == [1, 1, 1, 2, 4]


@pytest.mark.parametrize("element_bytes", [0, 3, 256])
def test_elements_that_could_cross_a_line_are_refused(element_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"element_bytes: {element_bytes}; allowed: powers of two that divide a line"):
        loads(GPU, Layout(32, 1), list(range(32)), 32, element_bytes)


def test_it_shares_the_banks_of_the_scratchpad() -> None:
    assert Machine(load_machine("a100-sxm")).l1 == GPU
    with pytest.raises(ValueError, match=r"machine npu-hbm3: cores\.l1: this machine describes none"):
        _ = Machine(load_machine("npu-hbm3")).l1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cores.l1.line": "96 B"}, "cores.l1.line: 96 B; allowed: powers of two up to 65536 B"),
        ({"cores.l1.tag_banks": 6}, "cores.l1.tag_banks: 6; allowed: powers of two up to 65536"),
    ],
)
def test_tags_that_have_no_bits_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Machine(load_machine("a100-sxm").with_overrides(changes))
