"""The values of appending keys and values to a paged cache, quantised or not.

Rotary embedding comes before (`kernels_ref.rope`). Not modelled: rounding to the narrow type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def kv_append(
    pool: Array, keys: Array, values: Array, slots: Array, scales: Array | None = None, largest: float = np.inf
) -> NDArray[np.float64]:
    """Return a copy of `pool` in float64 with the rows of token t in slot `slots[t]`.

    Shapes: pool [pages, 2, heads, page_size, dim] (keys, then values), keys and values [tokens, heads, dim], slots
    [tokens] = page · page_size + place. With `scales` [2] what is stored is divided by the scale of keys, or of values,
    and held within ±`largest`. Raises ValueError when shapes do not fit together, or a slot is outside the pool or
    taken twice.
    """
    pages, _, heads, page_size, dim = pool.shape
    for name, rows in (("keys", keys), ("values", values)):
        if rows.shape != (len(slots), heads, dim):
            raise ValueError(f"kv_append: {name} are {rows.shape}; allowed: {(len(slots), heads, dim)}")
    inside = (slots >= 0) & (slots < pages * page_size)
    if not inside.all() or len(np.unique(slots)) != len(slots):
        raise ValueError(f"kv_append: slots {slots.tolist()[:8]}; allowed: 0 to {pages * page_size - 1}, each once")
    out = pool.astype(np.float64)
    for part, rows in enumerate((keys, values)):
        wide = rows.astype(np.float64)
        if scales is not None:
            wide = np.clip(wide / float(scales[part]), -largest, largest)
        out[slots // page_size, part, :, slots % page_size] = wide
    return out
