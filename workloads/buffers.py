"""Scratchpad buffers: addresses for the multi-buffers of one phase, and layouts for those that a matmul reads.

Every buffer of a phase is in use as long as it lasts, since its queues run ahead of one another, so `bufferise` lays
them one after another; each block starts at a multiple of the scratchpad's full width, so that no two blocks share a
row of banks.

An operand is filled along one of its axes and read in fragments along both, so that a row-major block meets some of
its banks many times over. `operand` chooses among the row-major and the column-major layout and the XOR swizzles of
both what takes the fewest wavefronts, and the first of them where several do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

import numpy as np

from hwmodel import matrix
from hwmodel.assembler import block
from hwmodel.description import MatrixSpec
from hwmodel.machine import Machine
from hwmodel.program import Buffer, Tensor
from hwmodel.sram_access import Scratchpad, ordered_lines, row_lines
from layouts import Layout, swizzle
from workloads.bufferise import Request, bufferise

OPERAND_LAYOUTS = ("swizzled", "row-major")
SAMPLE = 128, 512  # rows and columns on which layouts are compared, assumed enough: the patterns of XORs recur
LARGE = 1 << 18  # elements of a block from which one of 2**n rows is compared: others are counted element by element


def allocate(blocks: Sequence[Buffer], machine: Machine) -> tuple[Buffer, ...]:
    """Return the buffers with addresses and aligned pitches; `Machine.require_fit` says whether they fit."""
    found = bufferise([Request(b.name, b.pitch_bytes, b.slots) for b in blocks], machine.sram_line_bytes)
    return tuple(
        replace(request, address=placed.address, pitch_bytes=placed.pitch_bytes)
        for request, placed in zip(blocks, found.placed, strict=True)
    )


def operand(
    request: Buffer, machine: Machine, kind: str, *, side: Literal["a", "b"], axis_of_k: int, filled_along: int = 1
) -> Buffer:
    """Return a buffer request with the layout of an operand of a matmul: one of OPERAND_LAYOUTS.

    `axis_of_k`: which axis of the block (0 rows, 1 columns) the matmul sums over; `filled_along`: the axis along which
    it is written.
    """
    if kind == "row-major" or request.pitch_bytes > machine.spec.cores.sram.capacity:
        return request  # `Machine.require_fit` refuses the latter
    unit = machine.spec.cores.matrix
    write_bytes = machine.spec.cores.dma.write_bytes
    size = unit.m if side == "a" else unit.n
    plain = block(request.name, request.rows, request.columns, request.dtype, 1)
    layout = _best(replace(plain, name="operand"), machine.scratchpad, unit, size, axis_of_k, filled_along, write_bytes)
    return block(request.name, request.rows, request.columns, request.dtype, request.slots, layout)


def contiguous_axis(tensor: Tensor, axes: tuple[str, str]) -> int:
    """Return which of two axes of a tensor is the contiguous one in memory; the second, 1, if neither is."""
    return 0 if any(extent > 1 and stride == 1 for extent, stride in tensor.layout.leaves(axes[0])) else 1


@lru_cache(maxsize=1024)
def _best(
    plain: Buffer, pad: Scratchpad, unit: MatrixSpec, size: int, axis_of_k: int, filled_along: int, write_bytes: int
) -> Layout | None:
    rows, columns = min(plain.rows, SAMPLE[0]), min(plain.columns, SAMPLE[1])
    across, k = (rows, columns) if axis_of_k == 1 else (columns, rows)
    alike = plain
    if plain.rows * plain.columns > LARGE:
        alike = block("operand", 1 << (plain.rows - 1).bit_length(), plain.columns, plain.dtype, 1)
    down_columns = np.add.outer(alike.rows * np.arange(columns), np.arange(rows)).reshape(-1)
    best, least = None, None
    for layout, compared in zip(_candidates(plain, pad, unit), _candidates(alike, pad, unit), strict=True):
        candidate = alike if compared is None else block("operand", alike.rows, alike.columns, alike.dtype, 1, compared)
        cost = matrix.reads(unit, pad, candidate, axis_of_k, across, k, size)
        if filled_along == 1:
            cost = cost.plus(row_lines(pad, candidate, rows, columns, write_bytes, True))
        else:
            cost = cost.plus(ordered_lines(pad, candidate, down_columns, write_bytes, True))
        if least is None or cost.wavefronts < least:
            best, least = layout, cost.wavefronts
        if cost.wavefronts == cost.phases:
            break
    return best


def _candidates(plain: Buffer, pad: Scratchpad, unit: MatrixSpec) -> Iterator[Layout | None]:
    """Yield the layouts that are looked at: None is row-major, the others XOR bits of the line into bits below."""
    rows, columns = plain.rows, plain.columns
    orders = (Layout((rows, columns), (columns, 1)), Layout((rows, columns), (1, rows)))
    line_bits = (pad.line_bytes // plain.element_bytes).bit_length() - 1
    base = min(line_bits, (max(1, unit.lane_bytes // plain.element_bytes)).bit_length() - 1)
    yield None
    yield orders[1]
    for order in orders:
        pitch_bits = ((columns if order is orders[0] else rows) - 1).bit_length()
        for low in range(base, max(-1, base - 3), -1):
            for bits in range(line_bits - low, 0, -1):
                for shift in sorted({max(line_bits, pitch_bits) - low, line_bits - low}, reverse=True):
                    if shift >= bits:
                        yield order.then(swizzle(bits, low, shift))
