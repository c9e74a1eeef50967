"""The values of linear attention by the gated delta rule, token by token and in chunks.

End of the data's path: one head, whose memory of all tokens before is a state S of key by value dimensions. A token
with key k, value v, decay a and strength b first fades the state, then replaces what the key reads from it:

    S <- Diag(a) S,   u = b (v - S^T k),   S <- S + k u^T,   out = scale S^T q

With one decay per head this is Gated DeltaNet (arXiv:2412.06464, equation 10, there with the state transposed:
S = S (a (I - b k k^T)) + b v k^T); with a decay per key channel it is Kimi Delta Attention (arXiv:2510.26692,
equation 1). In chunks, all u of a chunk solve one unit triangular system (the WY representation), so that what remains
is matrix products.
Not modelled: how decays and strengths are made, normalised keys, convolutions, and rounding to types narrower than
float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def recurrent(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    log_decay: NDArray[Any],
    strength: NDArray[Any],
    state: NDArray[Any],
    scale: float,
) -> tuple[Array, Array]:
    """Return the outputs [tokens, value dim] and the state after them, token by token, in float64.

    Shapes: q, k [tokens, key dim]; v [tokens, value dim]; log_decay [tokens, 1 or key dim], of which the decay is the
    exponential; strength [tokens]; state [key dim, value dim]. Raises ValueError when the shapes do not fit together.
    """
    _check(q, k, v, log_decay, strength, state)
    memory = state.astype(np.float64)
    out = np.empty(v.shape)
    for t in range(len(q)):
        key = k[t].astype(np.float64)
        memory = np.exp(log_decay[t].astype(np.float64))[:, None] * memory
        update = float(strength[t]) * (v[t].astype(np.float64) - memory.T @ key)
        memory = memory + np.outer(key, update)
        out[t] = scale * (memory.T @ q[t].astype(np.float64))
    return out, memory


def chunked(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    log_decay: NDArray[Any],
    strength: NDArray[Any],
    state: NDArray[Any],
    scale: float,
    chunk: int,
) -> tuple[Array, Array]:
    """Return the same, `chunk` tokens at a time.

    Raises OverflowError where a channel fades within a chunk by more than float64 can undo.
    """
    _check(q, k, v, log_decay, strength, state)
    memory = state.astype(np.float64)
    outs = [np.empty((0, v.shape[1]))]
    for first in range(0, len(q), chunk):
        part = slice(first, first + chunk)
        wide = [a[part].astype(np.float64) for a in (q, k, v, log_decay, strength)]
        out, memory = _chunk(wide, memory, scale)
        outs.append(out)
    return np.concatenate(outs), memory


def _chunk(tokens: list[Array], state: Array, scale: float) -> tuple[Array, Array]:
    q, k, v, log_decay, strength = tokens
    faded = np.cumsum(np.broadcast_to(log_decay, k.shape), axis=0)  # since the chunk began
    if faded.min(initial=0.0) < -700.0:
        raise OverflowError(f"chunked: a channel fades by exp({faded.min():.0f}) in a chunk; allowed: exp(-700)")
    k_then, k_back = np.exp(faded) * k, np.exp(-faded) * k  # k_then[i] . k_back[j]: key j as token i finds it
    system = np.eye(len(k)) + strength[:, None] * np.tril(k_then @ k_back.T, -1)
    inverse = np.linalg.solve(system, np.diag(strength))
    w, u = inverse @ k_then, inverse @ v
    updates = u - w @ state
    q_then = scale * np.exp(faded) * q
    out = q_then @ state + np.tril(q_then @ k_back.T) @ updates
    end = np.exp(faded[-1])
    return out, end[:, None] * state + (end * k_back).T @ updates


def _check(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    log_decay: NDArray[Any],
    strength: NDArray[Any],
    state: NDArray[Any],
) -> None:
    tokens, dim = k.shape
    decays = log_decay.shape in ((tokens, 1), (tokens, dim))
    if q.shape != k.shape or len(v) != tokens or not decays or strength.shape != (tokens,):
        shapes = f"q {q.shape}, k {k.shape}, v {v.shape}, log_decay {log_decay.shape}, strength {strength.shape}"
        raise ValueError(f"linear attention: {shapes}; allowed: one number of tokens, one key dim")
    if state.shape != (dim, v.shape[1]):
        raise ValueError(f"linear attention: state is {state.shape}; allowed: {(dim, v.shape[1])}")
