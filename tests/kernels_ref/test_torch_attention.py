"""Attention beside that of PyTorch, in float64 and float32: softmax, latent, sparse and linear.

What PyTorch computes may be off by what its own type allows (`allowed`, a bound of the rounding errors); the formulas
are compared with that, and with nothing wider.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels_ref.attention import attention, decode_attention, fp8_attention
from kernels_ref.compressed import compressed_attention
from kernels_ref.linear_attention import chunked, recurrent
from kernels_ref.mla import absorb, dequantise, mla_decode, mla_prefill
from kernels_ref.sparse_attention import index_scores, select, sparse_gqa, sparse_mla

torch = pytest.importorskip("torch", reason="pip install -e '.[oracle]' installs PyTorch")
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.nn.functional import scaled_dot_product_attention as sdpa  # noqa: E402

pytestmark = pytest.mark.oracle

Array = np.ndarray[Any, Any]
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 6)
EPS = float(np.finfo(np.float64).eps)


def allowed(q: Array, keys: Array, values: Array, scale: float, eps: float = EPS) -> float:
    """Return how far attention in a type of `eps` may be from the exact one, at most: any value of any query.

    A score of d products is off by (d + 2) eps of the sum of their magnitudes (Higham 2002, section 3.1), which moves
    every weight by twice that, relatively, numerator and denominator; exponentials, sums over c keys and the division
    add (c + 8) eps. Both sides round, so it is taken twice.
    """
    largest = abs(scale) * float(np.abs(q).sum(axis=-1).max() * np.abs(keys).max())
    off = 2 * (q.shape[-1] + 2) * eps * largest + (2 * len(keys) + 8) * eps
    return 2 * off * float(np.abs(values).max())


def heads_first(array: Array, dtype: Any) -> Any:
    """Return [tokens, heads, dim] as a tensor [1, heads, tokens, dim]."""
    return torch.from_numpy(array).to(dtype).transpose(0, 1)[None]


def seen(queries: int, context: int, window: int = 0) -> Any:
    """Return which keys a query sees, [queries, context], its own the last of them."""
    before = context - queries
    ones = torch.ones(queries, context, dtype=torch.bool)
    return ones.tril(before).triu(before - window + 1) if window else ones.tril(before)


@st.composite
def sequences(draw: st.DrawFn) -> tuple[Array, Array, Array]:
    """One sequence in numbers that float32 has: q, keys, values."""
    queries, before, heads_kv, group = draw(sizes), draw(st.integers(0, 9)), draw(st.integers(1, 3)), draw(sizes)
    dim, dim_v = draw(st.integers(1, 16)), draw(st.integers(1, 16))
    rng = np.random.default_rng(draw(seeds))
    shapes = (queries, heads_kv * group, dim), (queries + before, heads_kv, dim), (queries + before, heads_kv, dim_v)
    q, keys, values = (rng.normal(size=shape).astype(np.float32).astype(np.float64) for shape in shapes)
    return q * draw(st.sampled_from([1.0, 8.0])), keys, values


@pytest.mark.parametrize(("dtype", "eps"), [("float64", EPS), ("float32", float(np.finfo(np.float32).eps))])
@given(sequences(), st.sampled_from([0.125, 1.0, -0.5]), st.sampled_from([-1, 0, 1, 3]))
def test_a_prefill_a_chunk_or_a_window_is_that_of_pytorch(
    dtype: str, eps: float, sequence: tuple[Array, Array, Array], scale: float, window: int
) -> None:
    """`window` -1: not causal. In float32 by PyTorch's plain operators: the fused ones have exponentials of 20 bits."""
    q, keys, values = sequence
    (found,) = attention([q], [keys], [values], scale, causal=window >= 0, window=max(0, window))
    mask = seen(len(q), len(keys), window) if window >= 0 else None
    tensors = [heads_first(a, getattr(torch, dtype)) for a in sequence]
    with sdpa_kernel(SDPBackend.MATH):
        expected = sdpa(*tensors, attn_mask=mask, scale=scale, enable_gqa=True)[0].transpose(0, 1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=allowed(q, keys, values, scale, eps))


@given(sequences())
def test_a_whole_prompt_is_the_fused_causal_attention_of_pytorch(sequence: tuple[Array, Array, Array]) -> None:
    q, keys, values = sequence
    keys, values = keys[: len(q)], values[: len(q)]
    (found,) = attention([q], [keys], [values], 0.5)
    tensors = [heads_first(a, torch.float64) for a in (q, keys, values)]
    expected = sdpa(*tensors, is_causal=True, scale=0.5, enable_gqa=True)[0].transpose(0, 1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=allowed(q, keys, values, 0.5))


@given(sequences(), st.sampled_from([0, 2]), seeds)
def test_a_sink_is_a_key_with_a_score_of_its_own_and_no_value(
    sequence: tuple[Array, Array, Array], window: int, seed: int
) -> None:
    q, keys, values = sequence
    sinks = np.random.default_rng(seed).normal(0, 3, q.shape[1])
    (found,) = attention([q], [keys], [values], 0.5, window=window, sinks=sinks)
    bias = torch.zeros(q.shape[1], len(q), len(keys) + 1, dtype=torch.float64)
    bias[:, :, 1:].masked_fill_(~seen(len(q), len(keys), window), -torch.inf)
    bias[:, :, 0] = torch.from_numpy(sinks)[:, None]
    wider = [np.concatenate([0 * a[:1], a]) for a in (keys, values)]
    tensors = [heads_first(a, torch.float64) for a in (q, *wider)]
    expected = sdpa(*tensors, attn_mask=bias, scale=0.5, enable_gqa=True)[0].transpose(0, 1)
    slack = 2 * EPS * np.abs(sinks).max() * np.abs(values).max()  # the sink joins the scores
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=allowed(q, keys, values, 0.5) + slack)


@given(sequences(), st.sampled_from([2.0, 30.0]))
def test_capped_scores_are_those_of_pytorchs_tanh(sequence: tuple[Array, Array, Array], cap: float) -> None:
    q, keys, values = sequence
    (found,) = attention([q], [keys], [values], 0.5, soft_cap=cap)
    group = q.shape[1] // keys.shape[1]
    query, key, value = (heads_first(a, torch.float64)[0] for a in sequence)
    key, value = key.repeat_interleave(group, 0), value.repeat_interleave(group, 0)
    scores = cap * torch.tanh(0.5 * query @ key.mT / cap)
    weights = scores.masked_fill(~seen(len(q), len(keys)), -torch.inf).softmax(-1)
    slack = 8 * EPS * cap * np.abs(values).max()  # tanh and its products
    expected = (weights @ value).transpose(0, 1).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=allowed(q, keys, values, 0.5) + slack)


@given(st.lists(sequences(), min_size=1, max_size=3))
def test_a_decode_step_is_a_query_of_each_sequence(batch: list[tuple[Array, Array, Array]]) -> None:
    q, keys, values = batch[0]
    caches = [(keys[: i + 1], values[: i + 1]) for i in range(min(len(batch), len(keys)))]
    found = decode_attention(np.repeat(q[-1:], len(caches), axis=0), *zip(*caches, strict=True), 0.25)
    for out, cache in zip(found, caches, strict=True):
        tensors = [heads_first(a, torch.float64) for a in (q[-1:], *cache)]
        expected = sdpa(*tensors, scale=0.25, enable_gqa=True)[0, :, 0]
        np.testing.assert_allclose(out, expected.numpy(), rtol=0, atol=allowed(q, keys, values, 0.25))


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=3), seeds)
def test_weights_in_fp8_are_rounded_as_pytorchs_e4m3_rounds(parts: list[list[int]], seed: int) -> None:
    """A weight is rounded against the largest score of its part so far; the sum that divides it is not."""
    rng, context = np.random.default_rng(seed), sum(map(sum, parts))
    q, keys, values = rng.normal(0, 2, (1, 3, 4)), rng.normal(size=(context, 1, 4)), rng.normal(size=(context, 1, 2))
    (found,) = fp8_attention([q], [keys], [values], 1.0, [parts])
    query, key, value = (torch.from_numpy(a[:, 0] if a is not q else a[0]) for a in (q, keys, values))
    scores = query @ key.T
    highest, begin = torch.empty_like(scores), 0
    for part in parts:
        ends = begin + np.cumsum(part)
        running = scores[:, begin : ends[-1]].cummax(dim=1).values
        last = torch.from_numpy(np.repeat(ends - 1 - begin, part))  # the end of the tile that a key is in
        highest[:, begin : ends[-1]] = running[:, last]
        begin = int(ends[-1])
    weights = 256 * torch.exp(scores - highest)
    rounded = weights.float().to(torch.float8_e4m3fn).double() / 256 * torch.exp(highest)
    expected = (rounded @ value / torch.exp(scores).sum(dim=1, keepdim=True))[None]
    slack = 4 * EPS * float(scores.abs().max()) * np.abs(values).max()  # exp(scores) without a shift
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=allowed(q, keys, values, 1.0) + slack)


@given(sizes, st.integers(0, 6), sizes, st.integers(1, 8), st.integers(1, 8), st.integers(1, 4), seeds)
def test_latent_attention_expanded_and_absorbed_is_one_attention_of_pytorch(
    queries: int, before: int, heads: int, rank: int, nope: int, rotary: int, seed: int
) -> None:
    rng, context = np.random.default_rng(seed), queries + before
    q, latent = rng.normal(size=(queries, heads, nope + rotary)), rng.normal(size=(context, rank))
    turned, w_uk, w_uv = (rng.normal(size=s) for s in ((context, rotary), (heads, nope, rank), (heads, 5, rank)))
    scale = (nope + rotary) ** -0.5
    c, uk, uv = (torch.from_numpy(a) for a in (latent, w_uk, w_uv))
    shared = torch.from_numpy(turned).expand(heads, -1, -1)
    keys, values = torch.cat([c @ uk.mT, shared], dim=-1), c @ uv.mT  # [heads, context, ...]
    out = sdpa(heads_first(q, torch.float64), keys[None], values[None], attn_mask=seen(queries, context), scale=scale)
    expected = out[0].transpose(0, 1).numpy()
    wide = [np.moveaxis(a.numpy(), 0, 1) for a in (keys, values)]
    largest = float(np.abs(w_uk).max() * np.abs(latent).max() * np.abs(q).sum(axis=-1).max()) * rank
    slack = 4 * EPS * (rank + nope) * (largest + 1) * rank * float(np.abs(w_uv).max() * np.abs(latent).max())
    bound = allowed(q, *wide, scale) + slack  # keys and values are themselves sums of `rank` products
    np.testing.assert_allclose(mla_prefill(q, latent, turned, w_uk, w_uv, scale), expected, rtol=0, atol=bound)
    absorbed = mla_decode(absorb(q, w_uk)[None], [np.concatenate([latent, turned], axis=1)], rank, scale)[0]
    np.testing.assert_allclose(np.einsum("qhr,hvr->qhv", absorbed, w_uv), expected, rtol=0, atol=bound)


@given(sizes, sizes, sizes, seeds)
def test_scales_of_groups_are_repeated_along_the_columns(rows: int, groups: int, group: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, scales = rng.normal(size=(rows, groups * group)), rng.normal(size=(rows, groups))
    expected = torch.from_numpy(values).unflatten(1, (groups, group)) * torch.from_numpy(scales)[:, :, None]
    np.testing.assert_array_equal(dequantise(values, scales, group), expected.flatten(1).numpy())


@given(sizes, st.integers(0, 9), sizes, st.integers(1, 8), st.integers(1, 9), seeds)
def test_an_indexer_selects_and_attention_keeps_to_what_it_selects(
    queries: int, before: int, heads: int, dim: int, top_k: int, seed: int
) -> None:
    rng, context = np.random.default_rng(seed), queries + before
    q, keys, weights = (
        rng.normal(size=(queries, heads, dim)),
        rng.normal(size=(context, dim)),
        rng.random((queries, heads)),
    )
    scores = index_scores(q, keys, weights)
    products = torch.relu(torch.from_numpy(q) @ torch.from_numpy(keys).T)  # [queries, heads, context]
    expected = torch.bmm(torch.from_numpy(weights)[:, None], products)[:, 0]
    magnitude = heads * weights.max() * np.abs(q).sum(axis=-1).max() * np.abs(keys).max()
    np.testing.assert_allclose(scores, expected.numpy(), rtol=0, atol=2 * (dim + heads + 2) * EPS * magnitude)

    distinct = rng.permuted(np.tile(np.arange(context, dtype=float), (queries, 1)), axis=1)
    chosen = select(distinct, top_k)
    hidden = torch.from_numpy(distinct).masked_fill(~seen(queries, context), -torch.inf)
    order = hidden.topk(min(top_k, context), dim=1)
    mask = torch.zeros(queries, context, dtype=torch.bool).scatter_(1, order.indices, order.values > -torch.inf)
    assert [found.tolist() for found in chosen] == [row.nonzero()[:, 0].tolist() for row in mask]

    query, key = heads_first(q, torch.float64), torch.from_numpy(keys).expand(1, heads, -1, -1)
    value_dim = max(1, dim // 2)
    out = sdpa(query, key, key[..., :value_dim], attn_mask=mask, scale=0.5)[0].transpose(0, 1)
    found = sparse_mla(q, keys, chosen, value_dim, 0.5)
    np.testing.assert_allclose(found, out.numpy(), rtol=0, atol=allowed(q, keys, keys, 0.5))
    grouped = sparse_gqa(q, keys[:, None], keys[:, None], chosen, 0.5)
    np.testing.assert_allclose(grouped[..., :value_dim], out.numpy(), rtol=0, atol=allowed(q, keys, keys, 0.5))


@given(sequences(), st.integers(1, 4), st.integers(0, 4), st.booleans(), seeds)
def test_windows_entries_and_a_sink_are_one_masked_attention(
    sequence: tuple[Array, Array, Array], window: int, ratio: int, choose: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    q, tokens = sequence[0], sequence[1][:, 0]
    (queries, heads, dim), context = q.shape, len(tokens)
    entries, sinks = rng.normal(size=(context // ratio if ratio else 0, dim)), rng.normal(0, 3, heads)
    last = torch.arange(context - queries, context)[:, None]  # the position of a query
    whole = (torch.arange(len(entries)) + 1) * ratio - 1 <= last  # an entry's last token is not after it
    if choose:
        whole &= torch.from_numpy(rng.random((queries, len(entries))) < 0.5)
    chosen = [row.nonzero()[:, 0].numpy() for row in whole] if choose else None
    found = compressed_attention(q, tokens, entries, window, ratio, chosen, sinks, 0.5)
    mask = torch.cat([seen(queries, context, window), whole, torch.ones(queries, 1, dtype=torch.bool)], dim=1)
    bias = torch.zeros(heads, *mask.shape, dtype=torch.float64).masked_fill_(~mask, -torch.inf)
    bias[:, :, -1] = torch.from_numpy(sinks)[:, None]
    keys = np.concatenate([tokens, entries, np.zeros((1, dim))])
    shared = torch.from_numpy(keys).expand(1, heads, -1, -1)
    expected = sdpa(heads_first(q, torch.float64), shared, shared, attn_mask=bias, scale=0.5)[0].transpose(0, 1)
    slack = 2 * EPS * np.abs(sinks).max() * np.abs(keys).max()
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=allowed(q, keys, keys, 0.5) + slack)


@given(st.integers(1, 12), sizes, sizes, st.booleans(), st.integers(1, 12), seeds)
def test_the_delta_rule_is_a_step_down_the_gradient_of_the_error(
    tokens: int, key_dim: int, value_dim: int, by_channel: bool, chunk: int, seed: int
) -> None:
    """S - b dL/dS with L = |S^T k - v|^2 / 2 (Yang et al. 2024, arXiv:2406.06484), by automatic differentiation.

    Keys are of length one and strengths below one, so that a step makes no error larger; in chunks the decays are taken
    back by exp(-fade), by which the errors of the products grow.
    """
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(tokens, dim)) for dim in (key_dim, key_dim, value_dim))
    k /= np.linalg.norm(k, axis=1, keepdims=True)
    log_decay = -rng.exponential(0.3, (tokens, key_dim if by_channel else 1))
    strength, state = rng.random(tokens), rng.normal(size=(key_dim, value_dim))
    memory, outs = torch.from_numpy(state), []
    for t in range(tokens):
        faded = (torch.from_numpy(np.exp(log_decay[t]))[:, None] * memory).requires_grad_()
        loss = (torch.from_numpy(k[t]) @ faded - torch.from_numpy(v[t])).square().sum() / 2
        (slope,) = torch.autograd.grad(loss, faded)
        memory = faded.detach() - strength[t] * slope
        outs.append(0.5 * torch.from_numpy(q[t]) @ memory)
    expected = torch.stack(outs).numpy(), memory.numpy()
    size = (np.abs(state).sum() + np.abs(v).sum()) * max(1.0, float(np.abs(q).sum(axis=1).max()))
    bound = 8 * EPS * tokens * (key_dim + 2) * size
    undone = float(np.exp(-log_decay.sum(axis=0).min()))
    operands = (q, k, v, log_decay, strength, state, 0.5)
    for found, growth in ((recurrent(*operands), 1.0), (chunked(*operands, chunk), tokens * undone)):
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=growth * bound)
