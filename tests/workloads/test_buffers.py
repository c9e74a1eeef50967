from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hwmodel.assembler import block
from hwmodel.machine import Machine
from hwmodel.spec import load_machine
from workloads.buffers import allocate

MACHINES = [Machine(load_machine(name)) for name in ("h100-sxm", "npu-hbm3")]
Requests = st.lists(
    st.tuples(st.integers(1, 200), st.integers(1, 200), st.sampled_from(["bf16", "fp32"]), st.integers(1, 5)),
    max_size=9,
)


@given(Requests, st.sampled_from(MACHINES))
def test_no_two_blocks_share_a_row_of_banks(requests: list[tuple[int, int, str, int]], machine: Machine) -> None:
    asked = [block(f"b{i}", *request) for i, request in enumerate(requests)]
    row_bytes = machine.sram_bytes_per_cycle
    taken: set[int] = set()
    for before, after in zip(asked, allocate(asked, machine), strict=True):
        assert (after.name, after.rows, after.columns, after.dtype, after.slots) == (
            *(before.name, before.rows, before.columns),
            *(before.dtype, before.slots),
        )
        for slot in range(after.slots):
            first = after.address + slot * after.pitch_bytes
            size = after.rows * after.columns * after.element_bytes
            rows = set(range(first // row_bytes, (first + size - 1) // row_bytes + 1))
            assert first % row_bytes == 0
            assert not rows & taken
            taken |= rows
    assert taken == set(range(len(taken)))  # and none is wasted


def test_no_buffers_take_no_scratchpad() -> None:
    assert allocate([], MACHINES[0]) == ()
