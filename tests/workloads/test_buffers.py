from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel import matrix
from hwmodel.assembler import block
from hwmodel.machine import Machine
from hwmodel.program import Buffer
from hwmodel.spec import load_machine
from hwmodel.sram_access import ordered_lines, row_lines
from workloads.buffers import allocate, operand

MACHINES = [Machine(load_machine(name)) for name in ("h100-sxm", "npu-hbm3")]
Requests = st.lists(
    st.tuples(st.integers(1, 200), st.integers(1, 200), st.sampled_from(["bf16", "fp32"]), st.integers(1, 5)),
    max_size=9,
)


@given(Requests, st.sampled_from(MACHINES))
def test_no_two_blocks_share_a_row_of_banks(requests: list[tuple[int, int, str, int]], machine: Machine) -> None:
    asked = [block(f"b{i}", *request) for i, request in enumerate(requests)]
    row_bytes = machine.sram_line_bytes * machine.spec.cores.sram.ports
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


@pytest.mark.parametrize("machine", MACHINES, ids=["gpu", "npu"])
@pytest.mark.parametrize("filled_along", [0, 1])
@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize(("rows", "columns"), [(128, 64), (64, 128), (128, 128), (64, 64), (32, 256)])
def test_an_operand_of_powers_of_two_is_filled_and_read_without_conflicts(
    machine: Machine, rows: int, columns: int, side: Any, filled_along: int
) -> None:
    pad, unit = machine.scratchpad, machine.spec.cores.matrix
    size = unit.m if side == "a" else unit.n
    buffer = operand(
        block("x", rows, columns, "bf16", 2), machine, "swizzled", side=side, axis_of_k=1, filled_along=filled_along
    )
    reads = matrix.reads(unit, pad, buffer, 1, rows, columns, size)
    assert reads.wavefronts == reads.phases
    lines = [r + rows * c for r in range(rows) for c in range(columns)] if filled_along else range(rows * columns)
    fills = ordered_lines(pad, buffer, np.array(lines), machine.spec.cores.dma.write_bytes, True)
    assert fills.wavefronts == fills.phases
    assert buffer.slots == 2


@pytest.mark.parametrize("machine", MACHINES, ids=["gpu", "npu"])
@pytest.mark.parametrize(("rows", "columns"), [(96, 80), (7, 200), (1, 128), (100, 1)])
def test_an_operand_of_other_sizes_is_never_worse_than_row_major(machine: Machine, rows: int, columns: int) -> None:
    pad, unit = machine.scratchpad, machine.spec.cores.matrix
    plain = block("x", rows, columns, "bf16")
    chosen = operand(plain, machine, "swizzled", side="b", axis_of_k=1)

    def wavefronts(buffer: Buffer) -> int:
        fill = row_lines(pad, buffer, rows, columns, machine.spec.cores.dma.write_bytes, True)
        return fill.wavefronts + matrix.reads(unit, pad, buffer, 1, rows, columns, unit.n).wavefronts

    assert wavefronts(chosen) <= wavefronts(plain)
    assert operand(plain, machine, "row-major", side="b", axis_of_k=1) == plain
