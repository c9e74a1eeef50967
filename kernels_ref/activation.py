"""The values of gated activations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def swiglu(gate: NDArray[Any], up: NDArray[Any]) -> NDArray[np.float64]:
    """Return silu(gate) · up in float64, silu(x) = x / (1 + exp(-x)) (Shazeer 2020, arXiv:2002.05202).

    Shapes: gate and up alike. Raises ValueError otherwise.
    """
    if gate.shape != up.shape:
        raise ValueError(f"swiglu: gate is {gate.shape} and up {up.shape}; they must be equal")
    wide = gate.astype(np.float64)
    sigmoid = np.exp(-np.logaddexp(0.0, -wide))
    gated: NDArray[np.float64] = wide * sigmoid * up.astype(np.float64)
    return gated
