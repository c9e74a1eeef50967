"""The values of a matrix product: `c = a b`.

End of the data's path: operands come in as plain arrays, already taken out of memory and out of any layout.
Not modelled: tiling, the order of accumulation, accumulators narrower than float64, block scales, epilogues.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def gemm(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return the matrix product of `a` and `b` in float64.

    Shapes: a [m, k], b [k, n] -> [m, n], of any real type.
    Raises ValueError when an operand is not a matrix or the inner sizes differ.
    """
    for name, operand in (("a", a), ("b", b)):
        if operand.ndim != 2:
            raise ValueError(f"gemm: {name} has shape {operand.shape}; allowed: two axes")
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"gemm: a is {a.shape} and b is {b.shape}; the columns of a must equal the rows of b")
    product: NDArray[np.float64] = a.astype(np.float64) @ b.astype(np.float64)
    return product
