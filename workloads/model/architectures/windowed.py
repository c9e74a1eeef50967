"""Stacks that mix full attention with windows or chunks: gpt-oss, MiMo-V2-Flash, Llama 4, Gemma 4.

Sources: configuration_*.py and modeling_*.py in src/transformers/models/{gpt_oss,mimo_v2_flash,llama4,gemma4} of
huggingface/transformers.
"""

from __future__ import annotations

from dataclasses import replace

from workloads.model.architectures.deepseek import routed_and_shared
from workloads.model.architectures.stack import (
    FULL,
    SLIDING,
    Stack,
    dense,
    depth,
    experts,
    heads,
    kinds,
    softmax,
    stack,
    window,
)
from workloads.model.attention import SoftmaxAttention
from workloads.model.feed_forward import Dense, Experts
from workloads.model.fields import MAX_LAYERS, Fields
from workloads.model.model import Layer

CHUNKED = "chunked_attention"


def gpt_oss(fields: Fields) -> Stack:
    """Return the stack of a gpt-oss: windows in every other layer, sinks, biases everywhere, experts throughout."""
    layers, bias = depth(fields), fields.flag("attention_bias", True)
    full = softmax(fields, 64, sinks=True, bias_qkv=bias, bias_out=bias)
    sliding = replace(full, window=fields.size("sliding_window", 128))
    default = [FULL if at % 2 else SLIDING for at in range(layers)]
    key = "num_experts_per_tok"
    routed = experts(fields, "num_local_experts", key, "intermediate_size", bias=True, router_bias=True)
    fields.only("experts_per_token", routed.top_k)
    of = {FULL: full, SLIDING: sliding}
    return stack(fields, [Layer(of[kind], routed) for kind in kinds(fields, layers, (SLIDING, FULL), default)])


def mimo_v2_flash(fields: Fields) -> Stack:
    """Return the stack of a MiMo-V2-Flash: heads of their own for windows (1 in the pattern) and full layers (0)."""
    layers = depth(fields)
    bias = fields.flag("attention_bias", False)
    full = _mimo_attention(fields, "", bias, fields.flag("add_full_attention_sink_bias", False))
    sliding = _mimo_attention(fields, "swa_", bias, fields.flag("add_swa_attention_sink_bias", False))
    sliding = replace(sliding, window=fields.size("sliding_window"))
    for repeated in ("sliding_window_size", "attention_chunk_size"):
        fields.only(repeated, sliding.window)
    sparse, pattern = (fields.per_layer(key, layers, (0, 1)) for key in ("moe_layer_freq", "hybrid_layer_pattern"))
    fields.choice("topk_method", ("noaux_tc",), "noaux_tc")
    routed, plain = routed_and_shared(fields, 0, router_bias=True), dense(fields)
    parts = zip(pattern, sparse, strict=True)
    return stack(fields, [Layer(sliding if w else full, routed if moe else plain) for w, moe in parts])


def _mimo_attention(fields: Fields, prefix: str, bias: bool, sinks: bool) -> SoftmaxAttention:
    hidden, heads_q, heads_kv = heads(fields, f"{prefix}num_attention_heads", f"{prefix}num_key_value_heads")
    keys, values = fields.size(f"{prefix}head_dim"), fields.size(f"{prefix}v_head_dim")
    return SoftmaxAttention(hidden, heads_q, heads_kv, keys, values, bias_qkv=bias, sinks=sinks)


def llama4(fields: Fields) -> Stack:
    """Return the stack of a Llama 4's text model.

    Layers with rotary positions see their chunk, every fourth without sees everything. Every
    `interleave_moe_layer_step`-th layer has routed experts and one shared, the others an MLP of their own width. The
    norm of queries and keys has no weights.
    """
    layers, bias = depth(fields), fields.flag("attention_bias", False)
    full = softmax(fields, 128, bias_qkv=bias, bias_out=bias)
    fields.flag("use_qk_norm", True)
    width = window(fields, "attention_chunk_size", 8192)
    chunked = full if width is None else replace(full, window=width, chunked=True)
    every = fields.size("no_rope_layer_interval", 4, most=MAX_LAYERS)
    rotary = [int((at + 1) % every != 0) for at in range(layers)]
    if fields.filled("no_rope_layers"):  # despite its name, 1 for the layers with rotary positions
        rotary = fields.per_layer("no_rope_layers", layers, (0, 1))
    default = [CHUNKED if has else FULL for has in rotary]
    mixers = kinds(fields, layers, (CHUNKED, FULL), default)
    parts = zip(mixers, _llama4_feed_forwards(fields, layers), strict=True)
    return stack(fields, [Layer(full if kind == FULL else chunked, feed_forward) for kind, feed_forward in parts])


def _llama4_feed_forwards(fields: Fields, layers: int) -> list[Dense | Experts]:
    width, step = fields.size("intermediate_size"), fields.size("interleave_moe_layer_step", 1, most=MAX_LAYERS)
    names = ("num_local_experts", "num_experts_per_tok", "intermediate_size")
    routed, plain = experts(fields, *names, shared_intermediate=width), dense(fields, "intermediate_size_mlp")
    where = fields.positions("moe_layers", layers) if fields.has("moe_layers") else range(step - 1, layers, step)
    return [routed if at in where else plain for at in range(layers)]


def gemma4(fields: Fields) -> Stack:
    """Return the stack of a Gemma 4's text model.

    Full layers have heads of their own width and number, and with `attention_k_eq_v` one projection for keys and
    values. With `enable_moe_block` the MLP stands beside routed experts, as a shared expert does, with three more
    norms. Every layer has four norms and a scalar.
    """
    layers = depth(fields)
    fields.only("hidden_size_per_layer_input", 0, default=256)  # of the E models, as the two that follow
    fields.only("num_kv_shared_layers", 0)
    fields.only("use_double_wide_mlp", False)
    fields.has("vocab_size_per_layer_input")
    bias = fields.flag("attention_bias", False)
    sliding = softmax(fields, 256, qk_norm="head", bias_qkv=bias, bias_out=bias)
    full = _gemma4_full(fields, sliding)
    sliding = replace(sliding, window=fields.size("sliding_window", 512))
    default = [SLIDING if (at + 1) % 6 and at + 1 < layers else FULL for at in range(layers)]
    feed_forward = _gemma4_feed_forward(fields)
    norms = 7 if isinstance(feed_forward, Experts) else 4
    of = {SLIDING: sliding, FULL: full}
    found = kinds(fields, layers, (SLIDING, FULL), default)
    return stack(fields, [Layer(of[kind], feed_forward, norms, scalars=1) for kind in found], tied=True)


def _gemma4_full(fields: Fields, sliding: SoftmaxAttention) -> SoftmaxAttention:
    width, shared = fields.size("global_head_dim", 512), fields.flag("attention_k_eq_v", False)
    full = replace(sliding, head_dim_qk=width, head_dim_v=width, shared_kv=shared)
    if not shared or not fields.has("num_global_key_value_heads"):
        return full
    heads_kv = fields.size("num_global_key_value_heads")
    if full.heads_q % heads_kv:
        allowed = f"a divisor of num_attention_heads ({full.heads_q})"
        raise fields.refuse("num_global_key_value_heads", heads_kv, allowed)
    return replace(full, heads_kv=heads_kv)


def _gemma4_feed_forward(fields: Fields) -> Dense | Experts:
    names = ("num_experts", "top_k_experts", "moe_intermediate_size")
    if not fields.flag("enable_moe_block", False):
        for name in names:
            fields.has(name)
        return dense(fields)
    return experts(fields, *names, shared_intermediate=fields.size("intermediate_size"), router_scale=True)
