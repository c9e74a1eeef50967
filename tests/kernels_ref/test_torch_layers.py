"""Products, norms, activations, rotations, caches, experts and selection beside those of PyTorch.

Tolerances are bounds of the rounding errors of the type that PyTorch computes in (Higham 2002, section 3.1: a sum of n
products is off by n eps of the sum of their magnitudes, at most); what does not round is compared exactly.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels_ref.activation import gelu, swiglu
from kernels_ref.compressed import collapse, compress, expand, stream_weights
from kernels_ref.gemm import gemm
from kernels_ref.kv_append import kv_append
from kernels_ref.moe import moe, route
from kernels_ref.norm import layer_norm, rms_norm, softmax
from kernels_ref.rope import rope, rotation_angles
from kernels_ref.sampling import top_k

torch = pytest.importorskip("torch", reason="pip install -e '.[oracle]' installs PyTorch")
from torch.nn import functional  # noqa: E402

pytestmark = pytest.mark.oracle

Array = np.ndarray[Any, Any]
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 9)
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
both = pytest.mark.parametrize("dtype", ["float64", "float32"])


def drawn(seed: int, *shape: int, dtype: str = "float64", scale: float = 1.0) -> Any:
    """Return random numbers as a tensor of `dtype`."""
    return torch.from_numpy(np.random.default_rng(seed).normal(0, scale, shape)).to(getattr(torch, dtype))


def numpy_of(tensor: Any) -> Array:
    """Return the same numbers in the same type, bf16 by its bits in the type that the formulas take."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


@pytest.mark.parametrize("dtype", EPS)
@given(sizes, sizes, st.integers(1, 300), seeds)
def test_a_product_is_a_linear_layer_of_pytorch(dtype: str, m: int, n: int, k: int, seed: int) -> None:
    """Narrow types add up in float32 and round once, at the end."""
    a, weight = drawn(seed, m, k, dtype=dtype), drawn(seed + 1, n, k, dtype=dtype)
    found = gemm(numpy_of(a), numpy_of(weight).T)
    expected = functional.linear(a, weight).double().numpy()
    sums = min(EPS[dtype], EPS["float32"])
    magnitudes = (a.double().abs() @ weight.double().abs().T).numpy()
    tiny = float(torch.finfo(a.dtype).tiny)  # below it numbers are tiny · eps apart
    bound = 2 * k * sums * magnitudes + EPS[dtype] / 2 * (np.abs(found) * (1 + k * sums) + tiny)
    assert (np.abs(found - expected) <= bound).all()


@both
@given(sizes, st.integers(1, 300), seeds)
def test_a_norm_is_rms_norm_of_pytorch(dtype: str, rows: int, columns: int, seed: int) -> None:
    x, weight = drawn(seed, rows, columns, dtype=dtype, scale=3.0), drawn(seed + 1, columns, dtype=dtype)
    expected = functional.rms_norm(x, (columns,), weight, eps=1e-6)
    found = rms_norm(x.numpy(), weight.numpy(), 1e-6)
    np.testing.assert_allclose(found, expected.numpy(), rtol=(columns + 8) * EPS[dtype], atol=0)


@both
@given(sizes, st.integers(1, 300), seeds)
def test_a_centred_norm_is_layer_norm_of_pytorch(dtype: str, rows: int, columns: int, seed: int) -> None:
    """A mean is off by columns eps of the largest number, at most, a centred number and its deviation by as much."""
    x = drawn(seed, rows, columns, dtype=dtype, scale=3.0) + 2
    weight, bias = drawn(seed + 1, columns, dtype=dtype), drawn(seed + 2, columns, dtype=dtype)
    expected = functional.layer_norm(x, (columns,), weight, bias, eps=1e-6).numpy()
    found = layer_norm(x.numpy(), weight.numpy(), bias.numpy(), 1e-6)
    deviation = np.sqrt(x.double().numpy().var(axis=1, keepdims=True) + 1e-6)
    normed = np.abs(found - bias.numpy())
    largest = x.abs().amax(dim=1, keepdim=True).numpy() / deviation
    off = 2 * (columns + 8) * EPS[dtype] * (largest * (np.abs(weight.numpy()) + normed) + np.abs(bias.numpy()))
    assert (np.abs(found - expected) <= off).all()


@both
@given(sizes, st.integers(1, 300), seeds, st.sampled_from([1.0, 0.5, 8.0]))
def test_softmax_is_that_of_pytorch(dtype: str, rows: int, columns: int, seed: int, scale: float) -> None:
    """A shifted score is off by eps of its magnitude, and its exponential, relatively, by as much.

    Exponentials below the normal numbers of the type have fewer digits, or none.
    """
    x = drawn(seed, rows, columns, dtype=dtype, scale=2.0)
    expected = torch.softmax(scale * x, dim=-1).numpy()
    off = (columns + 8 + 4 * scale * float(x.abs().max())) * EPS[dtype]
    tiny = float(torch.finfo(x.dtype).tiny)
    np.testing.assert_allclose(softmax(x.numpy(), scale), expected, rtol=off, atol=tiny)


@both
@given(st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=40), seeds)
def test_a_gated_activation_is_silu_of_pytorch_times_the_up(dtype: str, gates: list[float], seed: int) -> None:
    """exp(80) is in the range of float32, and its argument is exact: its own rounding and three more count.

    The formula takes the exponential of a logarithm as large as the gate, rounded to float64.
    """
    gate, up = torch.tensor(gates, dtype=getattr(torch, dtype)), drawn(seed, len(gates), dtype=dtype)
    expected = (functional.silu(gate) * up).numpy()
    tiny = float(torch.finfo(gate.dtype).tiny)  # below it numbers have fewer digits
    off = 8 * EPS[dtype] + EPS["float64"] * np.abs(gate.double().numpy())
    assert (np.abs(swiglu(gate.numpy(), up.numpy()) - expected) <= off * np.abs(expected) + 8 * tiny).all()


@both
@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40))
def test_gelu_is_that_of_pytorch_by_tanh(dtype: str, numbers: list[float]) -> None:
    """tanh(a) moves by a / cosh²(a) < 1/2 of a's relative error, five roundings; 1 + tanh(a) is at most 2."""
    x = torch.tensor(numbers, dtype=getattr(torch, dtype))
    expected = functional.gelu(x, approximate="tanh").numpy()
    wide = x.double().numpy()
    tiny = float(torch.finfo(x.dtype).tiny)  # below it numbers are tiny · eps apart
    assert (np.abs(gelu(x.numpy()) - expected) <= 8 * EPS[dtype] * (np.abs(wide) + tiny)).all()


@given(sizes, st.integers(1, 4), st.integers(1, 8), seeds)
def test_a_rotation_is_a_complex_product_of_pytorch(tokens: int, heads: int, half: int, seed: int) -> None:
    positions = np.random.default_rng(seed).integers(0, 4096, tokens)
    x = drawn(seed, tokens, heads, 2 * half)
    frequencies = 10000.0 ** (-torch.arange(0, 2 * half, 2, dtype=torch.float64) / (2 * half))
    angles = torch.outer(torch.from_numpy(positions).double(), frequencies)
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]
    ours = rotation_angles(positions, 2 * half)
    np.testing.assert_allclose(ours, angles.numpy(), rtol=16 * EPS["float64"])  # a power, with its exponent's rounding
    cosine, sine = np.cos(ours), np.sin(ours)
    bound = (4096 * 16 + 8) * EPS["float64"] * 2 * float(x.abs().max())  # an angle off by 16 eps of up to 4096
    pairs = torch.view_as_real(torch.view_as_complex(x.unflatten(2, (half, 2))) * turn).flatten(2)
    np.testing.assert_allclose(rope(x.numpy(), cosine, sine, "interleaved"), pairs.numpy(), rtol=0, atol=bound)
    apart = torch.complex(x[..., :half], x[..., half:]) * turn
    expected = torch.cat([apart.real, apart.imag], dim=-1).numpy()
    np.testing.assert_allclose(rope(x.numpy(), cosine, sine, "neox"), expected, rtol=0, atol=bound)


@given(sizes, st.integers(1, 60), seeds, st.data())
def test_the_largest_logits_are_those_of_a_stable_sort(rows: int, columns: int, seed: int, data: st.DataObject) -> None:
    """topk of PyTorch leaves open which of two equal ones it takes; its values, and a stable sort, do not."""
    k = data.draw(st.integers(1, columns))
    logits = torch.from_numpy(np.random.default_rng(seed).integers(-5, 6, (rows, columns)).astype(np.float32))
    values, indices = top_k(logits.numpy(), k)
    np.testing.assert_array_equal(values, logits.topk(k, dim=1).values.numpy())
    np.testing.assert_array_equal(
        indices, torch.sort(logits, dim=1, descending=True, stable=True).indices[:, :k].numpy()
    )


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.booleans(), seeds)
def test_rows_are_appended_as_pytorch_puts_them_by_index(
    pages: int, heads: int, page_size: int, dim: int, scaled: bool, seed: int
) -> None:
    """Quotients of two float64 are rounded alike; what is stored is compared exactly."""
    rng = np.random.default_rng(seed)
    slots = rng.permutation(pages * page_size)[: int(rng.integers(0, pages * page_size + 1))]
    pool, rows = drawn(seed, pages, 2, heads, page_size, dim), drawn(seed + 1, 2, len(slots), heads, dim, scale=300.0)
    scales = drawn(seed + 2, 2).abs() + 0.5 if scaled else None
    largest = 448.0 if scaled else np.inf
    stored = rows if scales is None else (rows / scales[:, None, None, None]).clamp(-largest, largest)
    slot_major = pool.permute(0, 3, 1, 2, 4).flatten(0, 1).clone()  # [slots, 2, heads, dim]
    slot_major[torch.from_numpy(slots)] = stored.transpose(0, 1)
    expected = slot_major.unflatten(0, (pages, page_size)).permute(0, 2, 3, 1, 4).numpy()
    keys, values = rows.numpy()
    found = kv_append(pool.numpy(), keys, values, slots, None if scales is None else scales.numpy(), largest)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@given(sizes, st.integers(1, 40), seeds, st.data())
def test_experts_are_chosen_as_topk_of_pytorch_chooses(
    scoring: str, renormalise: bool, tokens: int, experts: int, seed: int, data: st.DataObject
) -> None:
    topk = data.draw(st.integers(1, experts))
    logits = drawn(seed, tokens, experts, scale=2.0)
    scores = logits.softmax(dim=1) if scoring == "softmax" else logits.sigmoid()
    expected = scores.topk(topk, dim=1)
    weights = functional.normalize(expected.values, p=1, dim=1) if renormalise else expected.values
    ids, shares = route(logits.numpy(), topk, scoring, renormalise)
    np.testing.assert_array_equal(ids, expected.indices.numpy())
    off = (2 * experts + 16 + 4 * float(logits.abs().max())) * EPS["float64"]
    np.testing.assert_allclose(shares, weights.numpy(), rtol=off)


@both
@given(sizes, st.integers(1, 6), sizes, sizes, seeds, st.data())
def test_a_layer_of_experts_is_a_loop_over_them(
    dtype: str, tokens: int, experts: int, hidden: int, inter: int, seed: int, data: st.DataObject
) -> None:
    """Every expert sees all tokens, and those that did not choose it weigh nothing."""
    topk = data.draw(st.integers(1, experts))
    x, logits = drawn(seed, tokens, hidden, dtype=dtype), drawn(seed + 1, tokens, experts, dtype=dtype)
    w13 = drawn(seed + 2, experts, 2, inter, hidden, dtype=dtype)
    w2 = drawn(seed + 3, experts, hidden, inter, dtype=dtype)
    weights, ids = logits.softmax(dim=1).topk(topk, dim=1)
    share = torch.zeros_like(logits).scatter_(1, ids, weights)
    expected, magnitude = torch.zeros_like(x), torch.zeros_like(x)
    for expert in range(experts):
        gate, up = (functional.linear(x, w13[expert, i]) for i in range(2))
        here = share[:, expert, None]
        expected += here * functional.linear(functional.silu(gate) * up, w2[expert])
        sums = [functional.linear(x.abs(), w13[expert, i].abs()) for i in range(2)]
        magnitude += here * functional.linear(sums[0] * sums[1], w2[expert].abs())
    found = moe(x.numpy(), ids.numpy(), weights.numpy(), w13.numpy(), w2.numpy())
    # a gate is off by hidden eps of its sum, silu (whose slope is below 1.1) by as much, an up likewise, then sums
    off = 2 * (3 * (hidden + 4) + inter + experts + 8) * EPS[dtype]
    assert (np.abs(found - expected.numpy()) <= off * magnitude.numpy()).all()


def both_windows(windows: Any, dim: int, outside: float) -> Any:
    """Return the first channels of the window before, `outside` where there is none, and the others of each window."""
    before = functional.pad(windows[:-1, :, :dim], (0, 0, 0, 0, 1, 0), value=outside)[: len(windows)]
    return torch.cat([before, windows[:, :, dim:]], dim=1)


@given(st.integers(1, 4), st.integers(0, 17), st.integers(1, 4), st.booleans(), seeds)
def test_an_entry_is_a_softmax_of_pytorch_over_its_windows(
    ratio: int, tokens: int, dim: int, overlap: bool, seed: int
) -> None:
    """The gates of a window before the first are minus infinity, and its numbers nothing."""
    width = 2 * dim if overlap else dim
    kv, gates, bias = drawn(seed, tokens, width), drawn(seed + 1, tokens, width), drawn(seed + 2, ratio, width)
    windows = tokens // ratio
    values, logits = (a[: windows * ratio].unflatten(0, (windows, ratio)) for a in (kv, gates))
    logits = logits + bias
    if overlap:
        values, logits = (both_windows(a, dim, outside) for a, outside in ((values, 0.0), (logits, -torch.inf)))
    expected = (logits.softmax(dim=1) * values).sum(dim=1)
    largest = [float(a.abs().max()) if windows else 0.0 for a in (kv, gates, bias)]
    bound = (4 * ratio + 16 + 8 * (largest[1] + largest[2])) * EPS["float64"] * largest[0]
    found = compress(kv.numpy(), gates.numpy(), bias.numpy(), overlap)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=bound)


@given(sizes, st.integers(1, 4), st.integers(1, 8), st.integers(1, 8), seeds)
def test_streams_are_weighed_by_sigmoids_and_rounds_of_normalisation(
    tokens: int, n: int, dim: int, iterations: int, seed: int
) -> None:
    """A logit is a sum of n dim products, off by (n dim + 8) eps of their magnitudes; a round adds (n + 2) eps."""
    streams, fn = drawn(seed, tokens, n, dim), drawn(seed + 1, (2 + n) * n, n * dim, scale=0.3)
    base, scales = drawn(seed + 2, (2 + n) * n), drawn(seed + 3, 3)
    x = functional.rms_norm(streams.flatten(1), (n * dim,), eps=1e-6)
    parts = [functional.linear(x, rows) for rows in fn.split([n, n, n * n])]
    logits = [s * part + b for s, part, b in zip(scales, parts, base.split([n, n, n * n]), strict=True)]
    mix = logits[2].unflatten(1, (n, n)).softmax(dim=2) + 1e-6  # the first round's rows
    for number in range(iterations):
        mix = mix if number == 0 else mix / (mix.sum(dim=2, keepdim=True) + 1e-6)
        mix = mix / (mix.sum(dim=1, keepdim=True) + 1e-6)
    expected = logits[0].sigmoid() + 1e-6, 2 * logits[1].sigmoid(), mix
    magnitude = float((x.abs() @ fn.abs().T).max() * scales.abs().max() + base.abs().max())
    bound = 8 * EPS["float64"] * ((n * dim + 8) * magnitude + 2 * iterations * (n + 2))
    found = stream_weights(streams.numpy(), fn.numpy(), base.numpy(), scales.numpy(), iterations, 1e-6)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=bound)


@given(sizes, st.integers(1, 4), st.integers(1, 8), seeds)
def test_a_block_reads_and_writes_streams_by_batched_products(tokens: int, n: int, dim: int, seed: int) -> None:
    streams, out = drawn(seed, tokens, n, dim), drawn(seed + 1, tokens, dim)
    weights, mix = drawn(seed + 2, 2, tokens, n), drawn(seed + 3, tokens, n, n)
    bound = 2 * (n + 2) * EPS["float64"] * float(n * mix.abs().max() + weights.abs().max())
    bound *= float(streams.abs().max() + out.abs().max())
    read = torch.bmm(weights[0][:, None], streams)[:, 0]
    np.testing.assert_allclose(collapse(streams.numpy(), weights[0].numpy()), read.numpy(), rtol=0, atol=n * bound)
    written = torch.baddbmm(weights[1][:, :, None] * out[:, None], mix.mT, streams)
    found = expand(streams.numpy(), out.numpy(), weights[1].numpy(), mix.numpy())
    np.testing.assert_allclose(found, written.numpy(), rtol=0, atol=bound)
