"""The values of activations, gated and of one number."""

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


def gelu(x: NDArray[Any]) -> NDArray[np.float64]:
    """Return x / 2 · (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³))) in float64 (arXiv:1606.08415). Any shape."""
    wide = x.astype(np.float64)
    curved: NDArray[np.float64] = wide / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
    return curved
