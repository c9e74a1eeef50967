"""The values of norms and of softmax along rows.

Not modelled: tiling, the order of sums, rounding to types narrower than float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def rms_norm(x: NDArray[Any], weight: NDArray[Any], eps: float) -> NDArray[np.float64]:
    """Return x / sqrt(mean(x²) + eps) · weight in float64 (Zhang and Sennrich 2019, arXiv:1910.07467).

    Shapes: x [..., columns], weight [columns] -> that of x. Raises ValueError when they do not fit together.
    """
    if x.ndim < 1 or weight.shape != x.shape[-1:]:
        raise ValueError(f"rms_norm: x is {x.shape} and weight {weight.shape}; allowed: one weight per column of x")
    wide = x.astype(np.float64)
    normed: NDArray[np.float64] = wide / np.sqrt(np.square(wide).mean(axis=-1, keepdims=True) + eps)
    return normed * weight.astype(np.float64)


def layer_norm(x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any], eps: float) -> NDArray[np.float64]:
    """Return (x - mean) / sqrt(variance + eps) · weight + bias in float64 (Ba et al. 2016, arXiv:1607.06450).

    Shapes: x [..., columns], weight and bias [columns] -> that of x. Raises ValueError when they do not fit together.
    """
    if x.ndim < 1 or weight.shape != x.shape[-1:] or bias.shape != weight.shape:
        raise ValueError(
            f"layer_norm: x is {x.shape}, weight {weight.shape}, bias {bias.shape}; allowed: one of each per column"
        )
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    normed: NDArray[np.float64] = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + eps)
    return normed * weight.astype(np.float64) + bias.astype(np.float64)


def softmax(x: NDArray[Any], scale: float = 1.0) -> NDArray[np.float64]:
    """Return softmax(scale · x) along the last axis in float64."""
    wide = scale * x.astype(np.float64)
    weights = np.exp(wide - wide.max(axis=-1, keepdims=True))  # the shift cancels; it keeps exp in range
    shares: NDArray[np.float64] = weights / weights.sum(axis=-1, keepdims=True)
    return shares
