"""Vector operations of linear attention by the gated delta rule: one token's step, and what chunks need beside matmuls.

A state has a row per key channel and a column per value channel; decays come as logarithms.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.vector.operation import Operation, Work, read, update, write

Array = np.ndarray[Any, Any]
FP32 = np.float32


def _delta_step(blocks: list[Array], scale: float, heads: int, keys: int, values: int, group: int, decays: int) -> None:
    """Fade the states of `heads` heads, replace what the key reads by the value, and read the query.

    Operands: out [heads, values], states [heads * keys, values], q and k [heads / group, keys], v [heads, values],
    log decays [heads, decays] with 1 or `keys` decays, strengths [1, heads].
    """
    out, states, q, k, v, decay, strength = blocks
    state = states[: heads * keys, :values].reshape(heads, keys, values)
    query, key = (np.repeat(x[: heads // group, :keys].astype(FP32), group, axis=0)[:, :, None] for x in (q, k))
    faded = state * np.exp(decay[:heads, :decays].astype(FP32))[:, :, None]
    found = (faded * key).sum(axis=1, dtype=FP32)
    change = (v[:heads, :values].astype(FP32) - found) * strength[0, :heads, None].astype(FP32)
    new = faded + key * change[:, None]
    states[: heads * keys, :values] = new.reshape(heads * keys, values)
    out[:heads, :values] = (FP32(scale) * (new * query).sum(axis=1, dtype=FP32)).astype(out.dtype)


def _fade_chunk(blocks: list[Array], scale: float, tokens: int, keys: int, values: int) -> None:
    """Bring the rows of a chunk to the decay at which they meet the state, and the values to fp32.

    Operands: minus the keys as the state before the chunk fades to them [tokens, keys], queries likewise times `scale`
    [tokens, keys], keys as they have faded at the chunk's end, transposed [keys, tokens], values [tokens, values]; from
    q, k, v and the log decays [1, tokens].
    """
    minus_keys, queries, keys_at_end, wide, q, k, v, decay = blocks
    faded = np.cumsum(decay[0, :tokens].astype(FP32), dtype=FP32)[:, None]
    key = k[:tokens, :keys].astype(FP32)
    minus_keys[:tokens, :keys] = -np.exp(faded) * key
    queries[:tokens, :keys] = FP32(scale) * np.exp(faded) * q[:tokens, :keys].astype(FP32)
    keys_at_end[:keys, :tokens] = (np.exp(faded[-1] - faded) * key).T
    wide[:tokens, :values] = v[:tokens, :values].astype(FP32)


def _solve_chunk(blocks: list[Array], scale: float, tokens: int) -> None:
    """Invert the unit triangular system of a chunk, and mask and fade its attention.

    Operands: inverse times strengths [tokens, tokens], attention times `scale` [tokens, tokens]; from the products of
    keys with keys and of queries with keys [tokens, tokens], log decays and strengths [1, tokens].
    """
    inverse, attention, key_products, query_products, decay, strength = blocks
    faded = np.cumsum(decay[0, :tokens].astype(FP32), dtype=FP32)
    between = np.exp(np.minimum(faded[:, None] - faded, 0))  # of a pair whose second token comes first
    solve(inverse, between * key_products[:tokens, :tokens].astype(FP32), strength[0, :tokens])
    seen = np.tril(between * query_products[:tokens, :tokens].astype(FP32))
    attention[:tokens, :tokens] = FP32(scale) * seen


def solve(inverse: Array, products: Array, strength: Array) -> None:
    """Write the inverse, times strengths, of the unit triangular system of faded products [tokens, tokens]."""
    b = strength.astype(FP32)
    system = np.tril(b[:, None] * products.astype(FP32), -1)
    rows = np.eye(len(b), dtype=FP32)
    for row in range(1, len(b)):
        rows[row] -= system[row, :row] @ rows[:row]
    inverse[: len(b), : len(b)] = rows * b


def _fade_state(blocks: list[Array], _: float, tokens: int, keys: int, values: int) -> None:
    """Fade a state by all decays of a chunk. Operands: state [keys, values], log decays [1, tokens]."""
    state, decay = blocks
    state[:keys, :values] *= np.exp(np.cumsum(decay[0, :tokens].astype(FP32), dtype=FP32)[-1])


def solve_work(tokens: int, faded: bool = False) -> Work:
    """A triangle of decays (exp), two triangles of 3 factors each, and forward substitution: row i subtracts i rows of
    1 to i elements, a multiplication and a subtraction each. Of products that are `faded`, a factor each is left.
    """
    triangle = tokens * (tokens + 1) // 2
    substitution = (tokens - 1) * tokens * (tokens + 1) // 3
    if faded:
        return Work(alu=2 * triangle + substitution)
    return Work(alu=7 * triangle + substitution, exp=triangle, reduce=tokens)


# Assumed, per element of a state: one multiplication fades it, and a multiplication and an addition each for what the
# key reads, for the new value and for what the query reads. Sixteen-bit operands are converted once.
OPERATIONS: dict[str, Operation] = {
    "delta_step": Operation(
        lambda _, heads, keys, values, group, decays: Work(
            alu=7 * heads * keys * values,
            exp=heads * decays,
            convert=2 * heads // group * keys + 2 * heads * values,
        ),
        lambda _, heads, keys, values, group, decays: (
            write(0, heads, values),
            update(1, heads * keys, values),
            read(2, heads // group, keys),
            read(3, heads // group, keys),
            read(4, heads, values),
            read(5, heads, decays),
            read(6, 1, heads),
        ),
        _delta_step,
    ),
    "fade_chunk": Operation(
        lambda _, tokens, keys, values: Work(
            alu=3 * tokens * keys, exp=2 * tokens, reduce=tokens, convert=tokens * (2 * keys + values)
        ),
        lambda _, tokens, keys, values: (
            write(0, tokens, keys),
            write(1, tokens, keys),
            write(2, keys, tokens),
            write(3, tokens, values),
            read(4, tokens, keys),
            read(5, tokens, keys),
            read(6, tokens, values),
            read(7, 1, tokens),
        ),
        _fade_chunk,
    ),
    "solve_chunk": Operation(
        lambda _, tokens: solve_work(tokens),
        lambda _, tokens: (
            write(0, tokens, tokens),
            write(1, tokens, tokens),
            read(2, tokens, tokens),
            read(3, tokens, tokens),
            read(4, 1, tokens),
            read(5, 1, tokens),
        ),
        _solve_chunk,
    ),
    "fade_state": Operation(
        lambda _, tokens, keys, values: Work(alu=keys * values, exp=1, reduce=tokens),
        lambda _, tokens, keys, values: (update(0, keys, values), read(1, 1, tokens)),
        _fade_state,
    ),
}
