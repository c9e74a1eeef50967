"""Vector operations of linear attention with a decay per key channel, chunk by chunk.

With F the sum of the log decays of a channel since the chunk began, token i finds the key of an earlier token j faded
by exp(F[i] - F[j]). So that no factor exceeds one, a chunk is cut into blocks of tokens: of a block's tokens with those
of blocks before it, both sides fade to the edge between, exp(F[i] - F[edge]) and exp(F[edge] - F[j]), and meet in the
matrix unit; pairs within a block are made here, channel by channel, as chunk_kda of flash-linear-attention has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hwmodel.program import Buffer
from hwmodel.vector.linear_attention import solve, solve_work
from hwmodel.vector.operation import Operation, Touch, Work, read, update, write

Array = np.ndarray[Any, Any]
FP32 = np.float32


def _sum_decays(blocks: list[Array], _: float, tokens: int, keys: int) -> None:
    """Add up log decays since the chunk began, in place. Operand: log decays [tokens, keys]."""
    (decay,) = blocks
    decay[:tokens, :keys] = np.cumsum(decay[:tokens, :keys], axis=0, dtype=FP32)


def _fade_channels(blocks: list[Array], scale: float, tokens: int, keys: int, values: int) -> None:
    """As `fade_chunk`, with the sums of log decays [tokens, keys] as the last operand."""
    minus_keys, queries, keys_at_end, wide, q, k, v, faded = blocks
    fade, key = faded[:tokens, :keys].astype(FP32), k[:tokens, :keys].astype(FP32)
    minus_keys[:tokens, :keys] = -np.exp(fade) * key
    queries[:tokens, :keys] = FP32(scale) * np.exp(fade) * q[:tokens, :keys].astype(FP32)
    keys_at_end[:keys, :tokens] = (np.exp(fade[-1] - fade) * key).T
    wide[:tokens, :values] = v[:tokens, :values].astype(FP32)


def _fade_block(blocks: list[Array], _: float, tokens: int, first: int, block: int, keys: int) -> None:
    """Fade the tokens of a block, and the keys before it, to the edge between them.

    Operands: keys and queries of the `block` tokens from `first` on [block, keys], keys of the `first` tokens before
    [first, keys]; from q, k and the sums of log decays [tokens, keys]. `first` is above 0.
    """
    then_keys, then_queries, back, q, k, faded = blocks
    rows, edge = slice(first, min(first + block, tokens)), faded[first - 1, :keys].astype(FP32)
    count = rows.stop - first
    fade = np.exp(faded[rows, :keys].astype(FP32) - edge)
    then_keys[:count, :keys] = fade * k[rows, :keys].astype(FP32)
    then_queries[:count, :keys] = fade * q[rows, :keys].astype(FP32)
    back[:first, :keys] = np.exp(edge - faded[:first, :keys].astype(FP32)) * k[:first, :keys].astype(FP32)


def _pair_block(blocks: list[Array], _: float, tokens: int, first: int, block: int, keys: int) -> None:
    """Make a block's rows of the faded products of tokens with those up to them.

    Operands: keys by keys and queries by keys [tokens, tokens], of which the rows from `first` on are written up to the
    block's last token; their parts before the block [block, first]; q, k and the sums of log decays [tokens, keys].
    """
    key_products, query_products, keys_before, queries_before, q, k, faded = blocks
    rows = slice(first, min(first + block, tokens))
    count = rows.stop - first
    fade, key = faded[rows, :keys].astype(FP32), k[rows, :keys].astype(FP32)
    between = np.exp(np.minimum(fade[:, None] - fade[None], 0)) * key[None]  # [token, earlier token, key channel]
    for products, before, left in ((key_products, keys_before, key), (query_products, queries_before, q[rows, :keys])):
        products[rows, :first] = before[:count, :first]
        products[rows, rows] = (between * left.astype(FP32)[:, None]).sum(axis=2, dtype=FP32)


def _solve_faded_chunk(blocks: list[Array], scale: float, tokens: int) -> None:
    """As `solve_chunk`, of products that are faded already. Operands: as there, without the log decays."""
    inverse, attention, key_products, query_products, strength = blocks
    solve(inverse, key_products[:tokens, :tokens], strength[0, :tokens])
    attention[:tokens, :tokens] = FP32(scale) * np.tril(query_products[:tokens, :tokens].astype(FP32))


def _fade_state_channels(blocks: list[Array], _: float, tokens: int, keys: int, values: int) -> None:
    """Fade a state by all decays of a chunk. Operands: state [keys, values], sums of log decays [tokens, keys]."""
    state, faded = blocks
    state[:keys, :values] *= np.exp(faded[tokens - 1, :keys].astype(FP32))[:, None]


def _rows(tokens: int, first: int, block: int) -> int:
    return min(block, tokens - first)


def _fade_work(_: Sequence[Buffer], tokens: int, first: int, block: int, keys: int) -> Work:
    """Per element: a difference, an exp, and a multiplication for every operand that is made and converted."""
    rows = _rows(tokens, first, block)
    return Work(alu=(3 * rows + 2 * first) * keys, exp=(rows + first) * keys, convert=(2 * rows + first) * keys)


def _fade_touches(_: Sequence[Buffer], tokens: int, first: int, block: int, keys: int) -> tuple[Touch, ...]:
    rows = _rows(tokens, first, block)
    made = write(0, rows, keys), write(1, rows, keys), write(2, first, keys)
    return (*made, *(read(operand, first + rows, keys) for operand in (3, 4, 5)))


def _pair_work(_: Sequence[Buffer], tokens: int, first: int, block: int, keys: int) -> Work:
    """Per pair and channel: a difference, an exp, the earlier key faded, two products and their sums; the rest is
    copied (1 alu each).
    """
    rows = _rows(tokens, first, block)
    pairs = rows * (rows + 1) // 2 * keys
    return Work(alu=4 * pairs + 2 * rows * first, exp=pairs, reduce=2 * pairs, convert=2 * rows * keys)


def _pair_touches(_: Sequence[Buffer], tokens: int, first: int, block: int, keys: int) -> tuple[Touch, ...]:
    """The rows before the block stay as they are: touches begin at a block's first row, so they are counted alone."""
    rows = _rows(tokens, first, block)
    before = (read(2, rows, first), read(3, rows, first)) if first else ()
    tokens_of = (read(operand, rows, keys) for operand in (4, 5, 6))
    return (write(0, rows, first + rows), write(1, rows, first + rows), *before, *tokens_of)


OPERATIONS: dict[str, Operation] = {
    "sum_decays": Operation(
        lambda _, tokens, keys: Work(alu=tokens * keys),
        lambda _, tokens, keys: (update(0, tokens, keys),),
        _sum_decays,
    ),
    "fade_channels": Operation(
        lambda _, tokens, keys, values: Work(
            alu=4 * tokens * keys, exp=2 * tokens * keys, convert=tokens * (2 * keys + values)
        ),
        lambda _, tokens, keys, values: (
            write(0, tokens, keys),
            write(1, tokens, keys),
            write(2, keys, tokens),
            write(3, tokens, values),
            read(4, tokens, keys),
            read(5, tokens, keys),
            read(6, tokens, values),
            read(7, tokens, keys),
        ),
        _fade_channels,
    ),
    "fade_block": Operation(_fade_work, _fade_touches, _fade_block),
    "pair_block": Operation(_pair_work, _pair_touches, _pair_block),
    "solve_faded_chunk": Operation(
        lambda _, tokens: solve_work(tokens, faded=True),
        lambda _, tokens: (
            write(0, tokens, tokens),
            write(1, tokens, tokens),
            read(2, tokens, tokens),
            read(3, tokens, tokens),
            read(4, 1, tokens),
        ),
        _solve_faded_chunk,
    ),
    "fade_state_channels": Operation(
        lambda _, tokens, keys, values: Work(alu=keys * values, exp=keys),
        lambda _, tokens, keys, values: (update(0, keys, values), read(1, tokens, keys)),
        _fade_state_channels,
    ),
}
