"""The values of attention over a window and compressed entries, of the entries, and of residual streams (DeepSeek V4).

End of the data's path: a token has one key, which is also its value, for all heads. Query t sees the last `window`
tokens and entries that each stand for `ratio` tokens, of which those whose tokens all lie at or before t: all, or a
choice of them. A logit per head joins the denominator. An entry is a sum over its window of tokens, weighed channel by
channel by a softmax of gates, to which a bias per place in the window is added; where windows overlap, tokens have
channels for the entry of the window after theirs and channels for that of their own.

Residual streams (manifold-constrained hyper-connections): n copies of the hidden state, of which a block reads one
weighted sum (`pre`) and adds its result to each by a weight of its own (`post`), after a matrix, which Sinkhorn's
iteration brings near a doubly stochastic one, has mixed the streams (`mix`).
Source: get_compress_topk_idxs, Compressor and Block in inference/model.py and hc_split_sinkhorn in inference/kernel.py
of deepseek-ai/DeepSeek-V4-Flash.
Not modelled: projections, norms of queries, keys and entries, rotation, and rounding to types narrower than float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def compressed_attention(
    q: NDArray[Any],
    tokens: NDArray[Any],
    entries: NDArray[Any],
    window: int,
    ratio: int,
    chosen: Sequence[NDArray[Any]] | None,
    sinks: NDArray[Any],
    scale: float,
) -> Array:
    """Return the attention of the last tokens of one sequence in float64.

    Shapes: q [queries, heads, dim]; tokens [context, dim]; entries [context // ratio, dim] (ratio 0: none); chosen: the
    entries that each query attends to, None for all that it sees; sinks [heads] -> [queries, heads, dim].
    Raises ValueError for a chosen entry that stands for a token after its query.
    """
    queries, context = len(q), len(tokens)
    position = np.arange(context - queries, context)
    behind = position[:, None] - np.arange(context)
    complete = (position + 1) // ratio if ratio else np.zeros(queries, int)
    seen = np.arange(len(entries)) < complete[:, None]
    if chosen is not None:
        picked = np.zeros_like(seen)
        for query, which in enumerate(chosen):
            picked[query, which] = True
        if (picked & ~seen).any():
            raise ValueError("compressed_attention: a query attends to an entry that stands for a token after it")
        seen = picked
    keys = np.concatenate([tokens, entries]).astype(np.float64)
    hidden = ~np.concatenate([(behind >= 0) & (behind < window), seen], axis=1)
    scores = scale * np.einsum("qhd,cd->qhc", q.astype(np.float64), keys)
    scores[np.broadcast_to(hidden[:, None], scores.shape)] = -np.inf
    logit = np.broadcast_to(sinks.astype(np.float64)[:, None], (*scores.shape[:2], 1))
    highest = np.maximum(scores.max(axis=2, keepdims=True), logit)  # the shift cancels; it keeps exp in range
    weights = np.exp(scores - highest)
    weights /= weights.sum(axis=2, keepdims=True) + np.exp(logit - highest)
    out: Array = np.einsum("qhc,cd->qhd", weights, keys)
    return out


def compress(kv: NDArray[Any], gates: NDArray[Any], bias: NDArray[Any], overlap: bool) -> Array:
    """Return the entries of one sequence in float64, one per whole window of `ratio` tokens.

    Shapes: kv, gates [tokens, width]; bias [ratio, width] -> [tokens // ratio, dim]. Without `overlap` dim is width.
    With it dim is half of width: an entry is of the second half of the channels of its own window and of the first half
    of those of the window before, which the first entry has none of.
    """
    ratio = len(bias)
    windows = len(kv) // ratio
    dim = kv.shape[1] // 2 if overlap else kv.shape[1]
    out = np.empty((windows, dim))
    for window in range(windows):
        here = slice(window * ratio, (window + 1) * ratio)
        logits, values = gates[here, -dim:].astype(np.float64) + bias[:, -dim:], kv[here, -dim:].astype(np.float64)
        if overlap and window:
            before = slice((window - 1) * ratio, window * ratio)
            logits = np.concatenate([gates[before, :dim].astype(np.float64) + bias[:, :dim], logits])
            values = np.concatenate([kv[before, :dim].astype(np.float64), values])
        weights = np.exp(logits - logits.max(axis=0))
        out[window] = (weights * values).sum(axis=0) / weights.sum(axis=0)
    return out


def stream_weights(
    streams: NDArray[Any], fn: NDArray[Any], base: NDArray[Any], scales: NDArray[Any], iterations: int, eps: float
) -> tuple[Array, Array, Array]:
    """Return the weights `pre` [tokens, n], `post` [tokens, n] and `mix` [tokens, n, n] of a block in float64.

    Shapes: streams [tokens, n, dim]; fn [(2 + n) n, n dim]; base [(2 + n) n]; scales [3], of pre, post and mix. The
    logits are those of the streams of a token together, normed to a root mean square of 1.
    """
    tokens, n, _ = streams.shape
    flat = streams.reshape(tokens, -1).astype(np.float64)
    flat = flat / np.sqrt(np.mean(flat**2, axis=1, keepdims=True) + eps)
    each = np.repeat(scales.astype(np.float64), [n, n, n * n])
    logits = flat @ fn.T.astype(np.float64) * each + base
    weights = 1 / (1 + np.exp(-logits[:, : 2 * n]))
    mix = np.exp(logits[:, 2 * n :].reshape(tokens, n, n))
    mix = mix / mix.sum(axis=2, keepdims=True) + eps
    mix = mix / (mix.sum(axis=1, keepdims=True) + eps)
    for _ in range(iterations - 1):
        mix = mix / (mix.sum(axis=2, keepdims=True) + eps)
        mix = mix / (mix.sum(axis=1, keepdims=True) + eps)
    return weights[:, :n] + eps, 2 * weights[:, n:], mix


def collapse(streams: NDArray[Any], pre: NDArray[Any]) -> Array:
    """Return what a block reads: streams [tokens, n, dim], pre [tokens, n] -> [tokens, dim]."""
    read: Array = np.einsum("tn,tnd->td", pre.astype(np.float64), streams.astype(np.float64))
    return read


def expand(streams: NDArray[Any], out: NDArray[Any], post: NDArray[Any], mix: NDArray[Any]) -> Array:
    """Return the streams after a block, stream m the sum over n of mix[n, m] times stream n, and post[m] times out.

    Shapes: streams [tokens, n, dim], out [tokens, dim], post [tokens, n], mix [tokens, n, n] -> [tokens, n, dim].
    """
    mixed = np.einsum("tnm,tnd->tmd", mix.astype(np.float64), streams.astype(np.float64))
    total: Array = mixed + post.astype(np.float64)[:, :, None] * out.astype(np.float64)[:, None]
    return total
