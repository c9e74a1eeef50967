"""Parts of layers against the tensors a checkpoint has for them, and the laws of what they keep per sequence."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.model import (
    Attention,
    CompressedAttention,
    Compressor,
    Dense,
    Experts,
    Indexer,
    LatentAttention,
    Layer,
    LayerGroup,
    LinearAttention,
    Model,
    SoftmaxAttention,
    grouped,
    load_model,
)

small = st.integers(1, 9)
bools = st.booleans()


def total(tensors: dict[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in tensors.values())


@st.composite
def softmax(draw: st.DrawFn, width: st.SearchStrategy[int] = small) -> SoftmaxAttention:
    heads_kv = draw(st.integers(1, 3))
    return SoftmaxAttention(
        draw(width),
        heads_kv * draw(st.integers(1, 3)),
        heads_kv,
        draw(small),
        draw(small),
        window=draw(st.none() | small),
        chunked=draw(bools),
        qk_norm=draw(st.sampled_from(["none", "head", "layer"])),
        bias_qkv=draw(bools),
        bias_out=draw(bools),
        sinks=draw(bools),
        gate=draw(bools),
        shared_kv=draw(bools),
    )


indexers = st.builds(Indexer, small, small, small, small, small)


def latent(width: st.SearchStrategy[int] = small) -> st.SearchStrategy[LatentAttention]:
    return st.builds(LatentAttention, width, small, st.none() | small, small, small, st.integers(0, 9), small)


@st.composite
def compressed(draw: st.DrawFn, width: st.SearchStrategy[int] = small) -> CompressedAttention:
    hidden, head_dim, ratio, index_dim = draw(width), 12 * draw(st.integers(1, 3)), draw(st.sampled_from([2, 3])), 6
    groups, rank = draw(st.integers(1, 3)), draw(small)
    window = CompressedAttention(hidden, groups * 2, head_dim, 4, rank, groups, draw(small), draw(small))
    kind = draw(st.sampled_from(["window", "heavy", "sparse"]))
    if kind == "window":
        return window
    heavy = replace(window, compressor=Compressor(hidden, head_dim, ratio, overlap=kind == "sparse"))
    if kind == "heavy":
        return heavy
    keys = Compressor(hidden, index_dim, ratio, overlap=True)
    return replace(heavy, indexer=Indexer(hidden, rank, 3, index_dim, 5), index_compressor=keys)


@st.composite
def linear(draw: st.DrawFn, width: st.SearchStrategy[int] = small) -> LinearAttention:
    heads_k, decay = draw(st.integers(1, 3)), draw(st.sampled_from(["head", "channel"]))
    heads_v = heads_k * (draw(st.integers(1, 3)) if decay == "head" else 1)
    return LinearAttention(draw(width), heads_k, heads_v, draw(small), draw(small), draw(small), decay)


def attentions(width: st.SearchStrategy[int] = small) -> st.SearchStrategy[Any]:
    return st.one_of(softmax(width), latent(width), compressed(width), linear(width))


@given(softmax())
def test_softmax_attention_has_the_tensors_of_a_checkpoint(a: SoftmaxAttention) -> None:
    q, k, v, o = (
        a.heads_q * a.head_dim_qk,
        a.heads_kv * a.head_dim_qk,
        a.heads_kv * a.head_dim_v,
        a.heads_q * a.head_dim_v,
    )
    rows = {"q_proj": q + (o if a.gate else 0), "k_proj": k} | ({} if a.shared_kv else {"v_proj": v})
    tensors: dict[str, tuple[int, ...]] = {name: (size, a.hidden) for name, size in rows.items()}
    tensors["o_proj"] = (a.hidden, o)
    if a.bias_qkv:
        tensors |= {f"{name}.bias": (size,) for name, size in rows.items()}
    if a.bias_out:
        tensors["o_proj.bias"] = (a.hidden,)
    if a.sinks:
        tensors["sinks"] = (a.heads_q,)
    if a.qk_norm == "head":
        tensors |= {"q_norm": (a.head_dim_qk,), "k_norm": (a.head_dim_qk,)}
    elif a.qk_norm == "layer":
        tensors |= {"q_norm": (q,), "k_norm": (k,)}
    assert a.parameters == total(tensors)


@given(latent(), indexers | st.none())
def test_latent_attention_has_the_tensors_of_a_checkpoint(a: LatentAttention, chooser: Indexer | None) -> None:
    q = a.heads * (a.nope_dim + a.rope_dim)
    tensors: dict[str, tuple[int, ...]] = {
        "kv_a_proj_with_mqa": (a.kv_rank + a.rope_dim, a.hidden),
        "kv_a_layernorm": (a.kv_rank,),
        "kv_b_proj": (a.heads * (a.nope_dim + a.v_dim), a.kv_rank),
        "o_proj": (a.hidden, a.heads * a.v_dim),
    }
    if a.q_rank is None:
        tensors["q_proj"] = (q, a.hidden)
    else:
        tensors |= {"q_a_proj": (a.q_rank, a.hidden), "q_a_layernorm": (a.q_rank,), "q_b_proj": (q, a.q_rank)}
    assert a.parameters == total(tensors)
    if chooser is not None:
        tensors |= {
            "indexer.wq_b": (chooser.heads * chooser.head_dim, chooser.rank),
            "indexer.wk": (chooser.head_dim, chooser.hidden),
            "indexer.k_norm.weight": (chooser.head_dim,),
            "indexer.k_norm.bias": (chooser.head_dim,),
            "indexer.weights_proj": (chooser.heads, chooser.hidden),
        }
        assert replace(a, indexer=chooser).parameters == total(tensors)


@given(compressed())
def test_compressed_attention_has_the_tensors_of_a_checkpoint(a: CompressedAttention) -> None:
    tensors: dict[str, tuple[int, ...]] = {
        "wq_a": (a.q_rank, a.hidden),
        "q_norm": (a.q_rank,),
        "wq_b": (a.heads * a.head_dim, a.q_rank),
        "wkv": (a.head_dim, a.hidden),
        "kv_norm": (a.head_dim,),
        "wo_a": (a.out_groups, a.out_rank, a.heads // a.out_groups * a.head_dim),
        "wo_b": (a.hidden, a.out_groups * a.out_rank),
        "attn_sink": (a.heads,),
    }
    for name, part in (("compressor", a.compressor), ("indexer.compressor", a.index_compressor)):
        if part is not None:
            wide = part.head_dim * (2 if part.overlap else 1)
            tensors |= {f"{name}.wkv": (wide, a.hidden), f"{name}.wgate": (wide, a.hidden)}
            tensors |= {f"{name}.ape": (part.ratio, wide), f"{name}.norm": (part.head_dim,)}
    if a.indexer is not None:
        tensors["indexer.wq_b"] = (a.indexer.heads * a.indexer.head_dim, a.q_rank)
        tensors["indexer.weights_proj"] = (a.indexer.heads, a.hidden)
    assert a.parameters == total(tensors)


@given(linear())
def test_linear_attention_has_the_tensors_of_a_checkpoint(a: LinearAttention) -> None:
    keys, values = a.heads_k * a.dim_k, a.heads_v * a.dim_v
    tensors: dict[str, tuple[int, ...]] = {
        "q_proj": (keys, a.hidden),
        "k_proj": (keys, a.hidden),
        "v_proj": (values, a.hidden),
        "conv1d": (2 * keys + values, 1, a.conv_kernel),
        "b_proj": (a.heads_v, a.hidden),
        "A_log": (a.heads_v,),
        "o_norm": (a.dim_v,),
        "o_proj": (a.hidden, values),
    }
    if a.decay == "head":
        tensors |= {"a_proj": (a.heads_v, a.hidden), "dt_bias": (a.heads_v,), "z_proj": (values, a.hidden)}
    else:
        tensors |= {"f_a_proj": (a.dim_k, a.hidden), "f_b_proj": (keys, a.dim_k), "dt_bias": (keys,)}
        tensors |= {"g_a_proj": (a.dim_v, a.hidden), "g_b_proj": (values, a.dim_v)}
    assert a.parameters == total(tensors)


@given(small, small, small, small, st.integers(0, 9), st.lists(bools, min_size=5, max_size=5))
def test_experts_have_the_tensors_of_a_checkpoint(
    hidden: int, routed: int, top_k: int, width: int, shared: int, flags: list[bool]
) -> None:
    chosen = min(top_k, routed)
    bias, router_bias, scale, gate, hashed = flags
    part = Experts(hidden, routed, chosen, width, shared, bias, router_bias, scale, gate, hashed)
    one = 3 * width * hidden + (2 * width + hidden if bias else 0)
    router = routed * hidden + (routed if router_bias else 0) + (hidden + routed if scale else 0)
    always = 3 * shared * hidden + (2 * shared + hidden if bias and shared else 0) + (hidden if gate else 0)
    assert part.parameters == router + always + routed * one
    assert part.active_parameters == router + always + chosen * one
    assert part.parameters - part.active_parameters == (routed - chosen) * Dense(hidden, width, bias).parameters


@given(attentions(), st.integers(0, 200))
def test_a_cache_grows_by_its_bytes_per_token_beyond_its_window(a: Attention, context: int) -> None:
    ratios = [part.ratio for part in a.compressors] if isinstance(a, CompressedAttention) else []
    assert a.kv_elements(0) == 0
    assert a.kv_elements(context) <= a.kv_elements(context + 1)
    assert a.kv_elements(context) <= a.kv_elements_per_token * context + a.window_kv_elements
    whole = math.lcm(*ratios) * (10 + context)  # beyond every window here, and no entry begun
    assert a.kv_elements(whole) == a.kv_elements_per_token * whole + a.window_kv_elements


@given(st.lists(st.tuples(attentions(st.just(8)), small), min_size=1, max_size=4))
def test_a_model_is_the_sum_of_its_layers(parts: list[tuple[Any, int]]) -> None:
    layers = [Layer(a, Dense(a.hidden, 5)) for a, count in parts for _ in range(count)]
    model = Model("any", grouped(layers), 8, 11, "bf16")
    assert model.layers == tuple(layers)
    assert sum(group.count for group in model.groups) == len(layers)
    assert model.parameters == 2 * 11 * 8 + 8 + sum(layer.parameters for layer in layers)
    assert model.kv_bytes(77) == 2 * sum(layer.attention.kv_elements(77) for layer in layers)
    assert model.state_bytes == sum(layer.attention.state_bytes for layer in layers)


def test_hyper_connections_mix_the_streams_before_and_after_both_mixers() -> None:
    attention, mlp = SoftmaxAttention(16, 2, 1, 8, 8), Dense(16, 4)
    plain, mixed = Layer(attention, mlp), Layer(attention, mlp, streams=4)
    one = (2 + 4) * 4 * (4 * 16) + (2 + 4) * 4 + 3  # fn, base, scale of DeepseekV4HyperConnection
    assert mixed.parameters - plain.parameters == 2 * one
    model = Model("any", (LayerGroup(mixed, (0,)),), 16, 9, "bf16", streams=4)
    assert model.parameters == 2 * 9 * 16 + 16 + mixed.parameters + 4 * 4 * 16 + 4 + 1  # and of DeepseekV4HyperHead


@pytest.mark.parametrize(
    ("file", "kilobytes"),
    [("deepseek-ai--DeepSeek-V3", 70.272), ("meta-llama--Meta-Llama-3.1-405B", 516.096)],
)
def test_a_token_takes_the_published_bytes_of_cache(data_dir: Path, file: str, kilobytes: float) -> None:
    """Table 1 of "Insights into DeepSeek-V3" (arXiv 2505.09343), in bf16."""
    assert load_model(data_dir / "models" / f"{file}.json").kv_bytes_per_token == round(kilobytes * 1000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoftmaxAttention(8, 3, 2, 4, 4), r"heads_kv is 2; allowed: a divisor of heads_q \(3\)"),
        (lambda: SoftmaxAttention(8, 2, 2, 0, 4), "SoftmaxAttention: head_dim_qk is 0; allowed: an integer from 1 to"),
        (lambda: SoftmaxAttention(8, 2, 2, 4, 4, window=0), "SoftmaxAttention: window is 0; allowed: "),
        (lambda: LatentAttention(8, 2, 0, 4, 4, 4, 4), "LatentAttention: q_rank is 0; allowed: "),
        (lambda: Compressor(8, 6, 4, overlap=True), r"compress ratio is 4; allowed: a divisor of the width \(6\)"),
        (lambda: CompressedAttention(8, 3, 4, 2, 4, 2, 4, 4), r"o_groups is 2; allowed: a divisor of the heads \(3\)"),
        (lambda: LinearAttention(8, 2, 3, 4, 4, 4), r"key heads are 2; allowed: a divisor of the value heads \(3\)"),
        (lambda: LinearAttention(8, 2, 4, 4, 4, 4, "channel"), "key heads are 2; allowed: as many as value heads"),
        (lambda: Experts(8, 4, 5, 4), r"experts per token are 5; allowed: at most the experts \(4\)"),
        (lambda: Dense(8, 0), "Dense: intermediate is 0; allowed: "),
        (lambda: Layer(SoftmaxAttention(8, 2, 2, 4, 4), Dense(9, 4)), r"hidden is 9; allowed: as in attention \(8\)"),
    ],
)
def test_parts_that_cannot_be_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


PLAIN = {"Meta-Llama-3.1-8B", "Meta-Llama-3.1-70B", "Meta-Llama-3.1-405B", "Mixtral-8x7B-v0.1", "MiniMax-M2.5"}
PLAIN |= {"Qwen3-8B", "Qwen3-32B", "Qwen3-30B-A3B", "Qwen3-235B-A22B-FP8"}


def test_plain_softmax_attention_is_told_from_all_other(data_dir: Path) -> None:
    refusals = {}
    for path in (data_dir / "models").glob("*.json"):
        model = load_model(path)
        name = model.name.partition("--")[2]
        try:
            assert model.heads_q % model.softmax_attention("a kernel").heads_kv == 0
        except ValueError as error:
            refusals[name] = str(error).partition(" has ")[2]
        else:
            refusals[name] = "plain"
    assert {name for name, text in refusals.items() if text == "plain"} == PLAIN
    assert refusals["gpt-oss-20b"] == "a sliding window of 128 tokens, attention sinks"
    assert refusals["MiMo-V2-Flash"].startswith(
        "a sliding window of 128 tokens, attention sinks, keys of 192 and values"
    )
    assert refusals["Llama-4-Scout-17B-16E-Instruct"] == "chunks of 8192 tokens"
    assert refusals["Qwen3.5-35B-A3B"] == "linear attention"
    assert refusals["Kimi-K2-Instruct"] == "latent attention"
    assert "entries compressed from 128 tokens, entries compressed from 4 tokens" in refusals["DeepSeek-V4-Flash"]


def test_layers_with_other_heads_are_refused_by_a_kernel_for_one() -> None:
    layers = [Layer(SoftmaxAttention(8, 4, heads_kv, 2, 2), Dense(8, 4)) for heads_kv in (2, 4)]
    model = Model("two", grouped(layers), 8, 9, "bf16")
    with pytest.raises(
        ValueError, match=r"^a kernel knows one attention for all layers; two has 4 query and 2 key-value"
    ):
        model.softmax_attention("a kernel")
    with pytest.raises(ValueError, match=r"^heads_q knows one attention"):
        _ = model.heads_q


def test_biases_and_norms_are_no_obstacle_to_plain_attention() -> None:
    plain = SoftmaxAttention(8, 4, 2, 2, 2)
    normed = replace(plain, qk_norm="head", bias_qkv=True, gate=True)
    model = Model("mixed", grouped([Layer(plain, Dense(8, 4)), Layer(normed, Experts(8, 2, 1, 4))]), 8, 9, "bf16")
    assert (model.heads_q, model.heads_kv, model.head_dim) == (4, 2, 2)
    with pytest.raises(ValueError, match="intermediate knows one gated MLP for all layers; mixed has others"):
        _ = model.intermediate
