"""The matrix unit: how many cycles one matmul takes. The values are computed by `functional`.

The unit works on blocks of m x n x k; smaller operands are padded to them. Operands stream from the scratchpad at its
full width, so a matmul takes the longer of multiplying and reading. Bank conflicts between operands are not modelled.
"""

from __future__ import annotations

from hwmodel.spec import MatrixSpec


def cycles(
    unit: MatrixSpec, m: int, n: int, k: int, operand_bytes: int, sram_bytes_per_cycle: int, dtype: str = "bf16"
) -> int:
    """Return the cycles of an [m, k] x [k, n] product whose operands take `operand_bytes` in the scratchpad.

    `dtype` is the type whose rate the product has: that of the wider operand.
    """
    padded = -(-m // unit.m) * unit.m * (-(-n // unit.n) * unit.n) * (-(-k // unit.k) * unit.k)
    rate = unit.rate(dtype)
    sustained = rate.macs_per_cycle * (rate.sustained_percent or 100)
    return max(-(-100 * padded // sustained), -(-operand_bytes // sram_bytes_per_cycle))
