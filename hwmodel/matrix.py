"""The matrix unit: how many cycles one matmul takes, and how it reads its operands. Values: `functional`.

The unit works on blocks of m x n x k; smaller operands are padded to them. Operands stream from the scratchpad, each
element once, and a matmul takes the longer of multiplying and reading. A fetch is a fragment that fills one row of
banks: `lane_bytes` along k for each of as many rows (of a) or columns (of b) as fit, wherever the layout of the buffer
puts them. Products gather in accumulators of the unit's own, or in the scratchpad, row by row, where they
are read only to be added to.

A unit that applies block scales itself reads operands of 8 or 4 bits as hardware keeps them, without conflicts, and
makes of them what a buffer of a type in STORED_BITS holds, whose two bytes per element are not there in hardware.

Not modelled: fetching an operand again because the unit cannot hold it, and sparsity.
"""

from __future__ import annotations

from typing import Any

from hwmodel.description import MatrixSpec
from hwmodel.program import Buffer
from hwmodel.sram_access import Cost, Scratchpad, fragments

STORED_BITS = {"fp8_scaled": 8, "fp4_scaled": 4}  # of an element in the scratchpad, by the type it has with its scale


def cycles(unit: MatrixSpec, m: int, n: int, k: int, dtype: str = "bf16") -> int:
    """Return the cycles of multiplying [m, k] x [k, n]; `dtype`, of the wider operand, has the rate of the product."""
    padded = -(-m // unit.m) * unit.m * (-(-n // unit.n) * unit.n) * (-(-k // unit.k) * unit.k)
    rate = unit.rate(dtype)
    return -(-100 * padded // (rate.macs_per_cycle * (rate.sustained_percent or 100)))


def operand_bytes(operand: Buffer, across: Any, k: Any) -> Any:
    """Return the bytes of an operand of `across` rows of a (or columns of b) by k, as hardware keeps it; or of many."""
    return across * -(-k * STORED_BITS.get(operand.dtype, 8 * operand.element_bytes) // 8)


def reads(unit: MatrixSpec, pad: Scratchpad, operand: Buffer, axis_of_k: int, across: int, k: int, block: int) -> Cost:
    """Return the cost of fetching an operand of `across` rows of a (or columns of b) by k, once.

    `axis_of_k` is the axis of the buffer that counts k, `block` the unit's m or n.
    """
    if operand.dtype in STORED_BITS:
        width = operand_bytes(operand, 1, k)
        stored = Buffer(operand.name, across, width, "uint8", 1, 0, across * width)
        cost = reads(unit, pad, stored, 1, across, width, block)
        return cost._replace(wavefronts=cost.phases)
    vector = max(1, min(unit.lane_bytes // operand.element_bytes, unit.k))
    lanes = max(1, min(pad.line_bytes // (vector * operand.element_bytes), block))
    rows, columns = (across, k) if axis_of_k == 1 else (k, across)
    return fragments(pad, operand, rows, columns, (axis_of_k, vector), lanes)
