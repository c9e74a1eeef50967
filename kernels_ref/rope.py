"""The values of rotary position embedding (Su et al. 2021, arXiv:2104.09864).

Not modelled: scaled or extended angles (a table holds whatever a model wants), heads that are turned in part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

STYLES = ("neox", "interleaved")


def rotation_angles(positions: NDArray[Any], dim: int, base: float = 10000.0) -> NDArray[np.float64]:
    """Return the angles [tokens, dim / 2] of `positions` [tokens]: position · base^(-2 i / dim) for pair i."""
    pairs = np.arange(dim // 2, dtype=np.float64)
    angles: NDArray[np.float64] = np.multiply.outer(positions.astype(np.float64), base ** (-2 * pairs / dim))
    return angles


def rope(x: NDArray[Any], cosine: NDArray[Any], sine: NDArray[Any], style: str = "neox") -> NDArray[np.float64]:
    """Return x with every pair of elements turned by the angle of its token, in float64.

    Shapes: x [tokens, heads, dim], cosine and sine [tokens, dim / 2] -> that of x. `style` "neox" pairs element i with
    i + dim / 2, "interleaved" 2 i with 2 i + 1. Raises ValueError when the shapes do not fit together, or for another
    style.
    """
    if style not in STYLES:
        raise ValueError(f"rope: style is {style!r}; allowed: {', '.join(STYLES)}")
    if x.ndim != 3 or x.shape[2] % 2:
        raise ValueError(f"rope: x has shape {x.shape}; allowed: [tokens, heads, an even dim]")
    expected = (x.shape[0], x.shape[2] // 2)
    if cosine.shape != expected or sine.shape != expected:
        raise ValueError(f"rope: cosine is {cosine.shape} and sine {sine.shape}; allowed: {expected}")
    half = x.shape[2] // 2
    shape = (2, half) if style == "neox" else (half, 2)
    axis = 2 if style == "neox" else 3
    points = np.moveaxis(x.astype(np.float64).reshape(*x.shape[:2], *shape), axis, 0)
    turn = (cosine.astype(np.float64) + 1j * sine.astype(np.float64))[:, None, :]
    turned = (points[0] + 1j * points[1]) * turn
    parts = np.stack([turned.real, turned.imag])
    out: NDArray[np.float64] = np.moveaxis(parts, 0, axis).reshape(x.shape)
    return out
