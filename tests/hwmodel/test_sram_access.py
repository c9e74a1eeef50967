from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwmodel.assembler import block
from hwmodel.program import Buffer
from hwmodel.sram_access import Cost, Scratchpad, fragments, ordered_lines, row_lines
from layouts import Layout, swizzle
from layouts.analysis import Banks

GPU = Scratchpad(Banks(32, 4), 1)
NPU = Scratchpad(Banks(64, 16), 4)
BYTES = {"bf16": 2, "fp32": 4}


def counted(pad: Scratchpad, buffer: Buffer, phases: list[list[tuple[int, int]]], write: bool) -> Cost:
    """Return the cost of phases of (row, column), looking at every byte."""
    width, granule = pad.banks.width_bytes, pad.write_granule_bytes
    wavefronts = elements = 0
    for phase in phases:
        touched: set[int] = set()
        for row, column in phase:
            first = int(buffer.placement(row, column)) * buffer.element_bytes
            touched |= set(range(first, first + buffer.element_bytes))
            elements += 1
        loads: dict[int, int] = {}
        for word in {byte // width for byte in touched}:
            pieces = [
                set(range(start, start + granule)) & touched
                for start in range(word * width, (word + 1) * width, granule)
            ]
            in_part = any(0 < len(piece) < granule for piece in pieces)
            bank = word % pad.banks.count
            loads[bank] = loads.get(bank, 0) + (2 if write and in_part else 1)
        wavefronts += max(loads.values())
    return Cost(len(phases), wavefronts, elements * buffer.element_bytes)


def cut(elements: list[tuple[int, int]], size: int) -> list[list[tuple[int, int]]]:
    return [elements[i : i + size] for i in range(0, len(elements), size)]


@st.composite
def tiles(draw: st.DrawFn) -> tuple[Buffer, int, int]:
    """Draw a block in some layout, and how many of its rows and columns are used."""
    rows, columns = draw(st.sampled_from([(8, 64), (16, 32), (5, 24), (64, 16), (3, 1), (16, 128)]))
    dtype = draw(st.sampled_from(["bf16", "fp32"]))
    layout = Layout(
        (rows, columns), draw(st.sampled_from([(columns, 1), (1, rows), (columns + 8, 1), (columns + 1, 1)]))
    )
    if draw(st.booleans()):
        layout = layout.then(swizzle(draw(st.integers(1, 3)), draw(st.integers(0, 3)), draw(st.integers(3, 5))))
    return block("b", rows, columns, dtype, 1, layout), draw(st.integers(1, rows)), draw(st.integers(1, columns))


pads = st.sampled_from([GPU, NPU, Scratchpad(Banks(12, 8), 8)])


@settings(max_examples=60)
@given(tile=tiles(), pad=pads, line_bytes=st.sampled_from([32, 64]), write=st.booleans())
@example((block("b", 4, 64, "bf16"), 3, 7), NPU, 64, True)
def test_lines_cost_what_counting_every_byte_gives(
    tile: tuple[Buffer, int, int], pad: Scratchpad, line_bytes: int, write: bool
) -> None:
    buffer, rows, columns = tile
    elements = [(row, column) for row in range(rows) for column in range(columns)]
    phases = cut(elements, line_bytes // buffer.element_bytes)
    assert row_lines(pad, buffer, rows, columns, line_bytes, write) == counted(pad, buffer, phases, write)
    down = [(row, column) for column in range(columns) for row in range(rows)]
    order = np.array([row + buffer.rows * column for row, column in down])
    phases = cut(down, line_bytes // buffer.element_bytes)
    assert ordered_lines(pad, buffer, order, line_bytes, write) == counted(pad, buffer, phases, write)


@settings(max_examples=60)
@given(tile=tiles(), pad=pads, along=st.integers(0, 1), vector=st.integers(1, 9), lanes=st.integers(1, 9))
def test_fragments_cost_what_counting_every_byte_gives(
    tile: tuple[Buffer, int, int], pad: Scratchpad, along: int, vector: int, lanes: int
) -> None:
    buffer, rows, columns = tile
    step = (lanes, vector) if along == 1 else (vector, lanes)
    phases = [
        [(r, c) for r in range(row, min(row + step[0], rows)) for c in range(column, min(column + step[1], columns))]
        for row in range(0, rows, step[0])
        for column in range(0, columns, step[1])
    ]
    assert fragments(pad, buffer, rows, columns, (along, vector), lanes) == counted(pad, buffer, phases, False)


def tile_of_128_by_64(layout: Any = None) -> Buffer:
    return block("b", 128, 64, "bf16", 1, layout)


def test_the_128_byte_swizzle_frees_both_readings_of_a_tile_of_the_gpu() -> None:
    """8 rows x 16 bytes: eight-way conflicts in row-major rows of 128 B, none under CuTe's Swizzle<3,3,3> of bf16."""
    swizzled = tile_of_128_by_64(Layout((128, 64), (64, 1)).then(swizzle(3, 3, 3)))
    for along in (0, 1):
        plain = fragments(GPU, tile_of_128_by_64(), 128, 64, (along, 8), 8)
        free = fragments(GPU, swizzled, 128, 64, (along, 8), 8)
        assert (plain.phases, plain.wavefronts) == (128, 1024)
        assert free.wavefronts == free.phases == 128
    assert row_lines(GPU, swizzled, 128, 64, 128, True).wavefronts == 128  # nor does the writer pay for it


def test_a_padded_row_frees_a_column_and_costs_the_rows_a_little() -> None:
    padded = tile_of_128_by_64(Layout((128, 64), (72, 1)))
    assert fragments(GPU, padded, 128, 64, (1, 8), 8).wavefronts == 128
    assert fragments(GPU, padded, 128, 64, (0, 1), 64).wavefronts == 128  # 128 B of a row at a time


def test_a_write_of_half_a_granule_is_a_read_and_a_write() -> None:
    column = block("b", 8, 2, "bf16")
    assert row_lines(NPU, column, 8, 1, 2, True) == (8, 16, 16)
    assert row_lines(NPU, column, 8, 2, 4, True) == (8, 8, 32)
    assert row_lines(NPU, column, 8, 1, 2, False) == (8, 8, 16)


def test_more_than_a_block_holds_is_refused_by_the_name_of_its_buffer() -> None:
    with pytest.raises(ValueError, match="buffer b: 129 rows x 64 columns are used of a block of 128 x 64"):
        row_lines(GPU, tile_of_128_by_64(), 129, 64, 128, False)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout((64, 128), (128, 1)), "is not one of 128 rows by 64 columns"),
        (Layout((128, 64), (1, 1)), "puts two elements in one place"),
        (Layout((128, 64), (64, 1), -1), "reaches -1, allowed are offsets from 0"),
    ],
)
def test_a_layout_that_is_none_of_the_block_is_refused(layout: Layout, message: str) -> None:
    with pytest.raises(ValueError, match=f"buffer b: layout .* {message}"):
        tile_of_128_by_64(layout)
