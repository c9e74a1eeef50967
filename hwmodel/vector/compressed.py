"""Vector operations of DeepSeek V4: pooling windows of tokens to entries, and weighing residual streams.

Formulas: `kernels_ref.compressed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hwmodel.program import Buffer
from hwmodel.vector.operation import Operation, Touch, Work, read, write

Array = np.ndarray[Any, Any]
FP32 = np.float32


def _pool_windows(blocks: list[Array], _: float, rows: int, columns: int, ratio: int, parts: int) -> None:
    """Sum windows of `ratio` tokens, weighed channel by channel by the softmax of their gates and the bias.

    Operands: out [rows, columns], then of each of `parts` windows of a row the values and gates [rows * ratio, columns]
    and the bias [ratio, columns].
    """
    out, *operands = blocks
    values, logits = [], []
    for part in range(parts):
        kv, gates, bias = operands[3 * part : 3 * part + 3]
        values.append(kv[: rows * ratio, :columns].astype(FP32).reshape(rows, ratio, columns))
        wide = gates[: rows * ratio, :columns].astype(FP32).reshape(rows, ratio, columns)
        logits.append(wide + bias[:ratio, :columns].astype(FP32))
    logit = np.concatenate(logits, axis=1)
    weights = np.exp(logit - logit.max(axis=1, keepdims=True))
    total = (weights * np.concatenate(values, axis=1)).sum(axis=1, dtype=FP32)
    out[:rows, :columns] = (total / weights.sum(axis=1, dtype=FP32)).astype(out.dtype)


def _stream_weights(blocks: list[Array], eps: float, rows: int, streams: int, columns: int, iterations: int) -> None:
    """Make the weights with which a block reads and writes the streams of a row.

    Operands: weights [rows, n], streams [rows * streams, columns], logits [rows, n], base [1, n], scales [1, 3 or 1];
    n is (2 + streams) streams: pre, post, mix. Where `iterations` of Sinkhorn's are 0, pre alone, n is `streams`.
    """
    weights, x, logits, base, scales = blocks
    n = _weights(streams, iterations)
    wide = x[: rows * streams, :columns].astype(FP32).reshape(rows, -1)
    norm = 1 / np.sqrt(np.mean(wide * wide, axis=1, keepdims=True, dtype=FP32) + FP32(eps))
    kind = np.repeat([0, 1, 2], [streams, streams, streams**2])[:n]
    each = scales[0, kind].astype(FP32)
    logit = logits[:rows, :n].astype(FP32) * norm * each + base[0, :n].astype(FP32)
    gate = 1 / (1 + np.exp(-logit[:, : 2 * streams]))
    weights[:rows, :streams] = gate[:, :streams] + FP32(eps)
    if iterations:
        weights[:rows, streams : 2 * streams] = 2 * gate[:, streams:]
        mix = _sinkhorn(logit[:, 2 * streams :].reshape(rows, streams, streams), FP32(eps), iterations)
        weights[:rows, 2 * streams : n] = mix.reshape(rows, -1)


def _sinkhorn(logits: Array, eps: Any, iterations: int) -> Array:
    mix = np.exp(logits - logits.max(axis=2, keepdims=True))
    mix = mix / mix.sum(axis=2, keepdims=True) + eps
    mix = mix / (mix.sum(axis=1, keepdims=True) + eps)
    for _ in range(iterations - 1):
        mix = mix / (mix.sum(axis=2, keepdims=True) + eps)
        mix = mix / (mix.sum(axis=1, keepdims=True) + eps)
    return np.asarray(mix)


def _collapse_streams(blocks: list[Array], _: float, rows: int, streams: int, columns: int) -> None:
    """Sum the streams of a row by their weights. Operands: out [rows, columns], streams, weights [rows, streams]."""
    out, x, weights = blocks
    wide = x[: rows * streams, :columns].astype(FP32).reshape(rows, streams, columns)
    out[:rows, :columns] = (wide * weights[:rows, :streams, None]).sum(axis=1, dtype=FP32).astype(out.dtype)


def _expand_streams(blocks: list[Array], _: float, rows: int, streams: int, columns: int) -> None:
    """Mix the streams of a row and add to each the block's result by a weight.

    Operands: new streams and streams [rows * streams, columns], result [rows, columns], weights [rows, n].
    """
    new, x, result, weights = blocks
    wide = x[: rows * streams, :columns].astype(FP32).reshape(rows, streams, columns)
    mix = weights[:rows, 2 * streams : streams * (2 + streams)].astype(FP32).reshape(rows, streams, streams)
    post = weights[:rows, streams : 2 * streams].astype(FP32)
    total = post[:, :, None] * result[:rows, None, :columns].astype(FP32)
    for stream in range(streams):
        total = total + mix[:, stream, :, None] * wide[:, stream, None]
    new[: rows * streams, :columns] = total.reshape(-1, columns).astype(new.dtype)


def _pool_work(buffers: Sequence[Buffer], rows: int, columns: int, ratio: int, parts: int) -> Work:
    """Per element of a window: the bias is added, the maximum taken off, the value weighed (3 alu), an exp, three
    reductions (maximum, both sums), and the conversion of value and gate where they are narrow; per result a division.
    """
    elements, results = rows * columns * ratio * parts, rows * columns
    narrow = 0 if buffers[1].dtype == "fp32" else 2 * elements
    return Work(alu=3 * elements + results, exp=elements, reduce=3 * elements, convert=narrow + results)


def _pool_touches(_: Sequence[Buffer], rows: int, columns: int, ratio: int, parts: int) -> tuple[Touch, ...]:
    found = [write(0, rows, columns)]
    for part in range(parts):
        tokens = (read(3 * part + 1 + side, rows * ratio, columns) for side in (0, 1))
        found += [*tokens, read(3 * part + 3, ratio, columns)]
    return tuple(found)


def _weights(streams: int, iterations: int) -> int:
    return streams * (2 + streams) if iterations else streams


def _weights_work(_: Sequence[Buffer], rows: int, streams: int, columns: int, iterations: int) -> Work:
    """Streams are converted, squared and summed; a logit is normed, scaled and shifted (3 alu) and exponentiated, its
    sigmoid or first normalisation adds and divides (2 alu); a half of a round of Sinkhorn's divides and sums every
    element of the mix and adds to it.
    """
    elements, n, mix = rows * streams * columns, rows * _weights(streams, iterations), rows * streams**2
    return Work(
        alu=elements + 5 * n + 4 * iterations * mix,
        exp=n,
        reduce=elements + 2 * iterations * mix,
        convert=elements + n,
    )


# Assumed: streams and results are converted once each way, a weighed sum is a multiplication and an addition per term.
OPERATIONS: dict[str, Operation] = {
    "pool_windows": Operation(_pool_work, _pool_touches, _pool_windows),
    "stream_weights": Operation(
        _weights_work,
        lambda _, rows, streams, columns, iterations: (
            write(0, rows, _weights(streams, iterations)),
            read(1, rows * streams, columns),
            read(2, rows, _weights(streams, iterations)),
            read(3, 1, _weights(streams, iterations)),
            read(4, 1, 3 if iterations else 1),
        ),
        _stream_weights,
    ),
    "collapse_streams": Operation(
        lambda _, rows, streams, columns: Work(
            alu=2 * rows * streams * columns, convert=rows * columns * (streams + 1)
        ),
        lambda _, rows, streams, columns: (
            write(0, rows, columns),
            read(1, rows * streams, columns),
            read(2, rows, streams),
        ),
        _collapse_streams,
    ),
    "expand_streams": Operation(
        lambda _, rows, streams, columns: Work(
            alu=2 * rows * columns * streams * (streams + 1), convert=rows * columns * (2 * streams + 1)
        ),
        lambda _, rows, streams, columns: (
            write(0, rows * streams, columns),
            read(1, rows * streams, columns),
            read(2, rows, columns),
            read(3, rows, streams * (2 + streams)),
        ),
        _expand_streams,
    ),
}
