"""The matrix unit: how many cycles one matmul takes. The values are computed by `functional`.

The unit works on blocks of m x n x k; smaller operands are padded to them. Operands stream from the scratchpad at its
full width, so a matmul takes the longer of multiplying and reading. Bank conflicts between operands are not modelled.
"""

from __future__ import annotations

from hwmodel.spec import MatrixSpec


def cycles(unit: MatrixSpec, m: int, n: int, k: int, operand_bytes: int, sram_bytes_per_cycle: int) -> int:
    """Return the cycles of an [m, k] x [k, n] product whose operands take `operand_bytes` in the scratchpad."""
    padded = -(-m // unit.m) * unit.m * (-(-n // unit.n) * unit.n) * (-(-k // unit.k) * unit.k)
    return max(-(-padded // unit.macs_per_cycle), -(-operand_bytes // sram_bytes_per_cycle))
