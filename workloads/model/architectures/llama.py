"""Llama and those that build on it: softmax attention and a gated MLP or routed experts, alike in (nearly) every layer.

Llama, Mistral, Qwen2 and Qwen3 (dense); Mixtral, Qwen3-MoE, MiniMax-M2 (experts). Differences: biases, norms of
queries and keys, windows, which layers have experts.
"""

from __future__ import annotations

from dataclasses import replace

from workloads.model.architectures.stack import (
    FULL,
    SLIDING,
    Stack,
    dense,
    depth,
    experts,
    kinds,
    softmax,
    stack,
    window,
)
from workloads.model.attention import QkNorm, SoftmaxAttention
from workloads.model.feed_forward import Dense, Experts
from workloads.model.fields import MAX_LAYERS, Fields
from workloads.model.model import Layer


def llama(fields: Fields) -> Stack:
    """Return the stack of a Llama (1 to 3.3)."""
    bias = fields.flag("attention_bias", False)
    attention = softmax(fields, bias_qkv=bias, bias_out=bias)
    return stack(fields, [Layer(attention, dense(fields, bias=fields.flag("mlp_bias", False)))] * depth(fields))


def mistral(fields: Fields) -> Stack:
    """Return the stack of a dense Mistral; a file without a window means 4096, null none."""
    attention = softmax(fields, window=window(fields, "sliding_window", 4096))
    return stack(fields, [Layer(attention, dense(fields))] * depth(fields))


def mixtral(fields: Fields) -> Stack:
    """Return the stack of a Mixtral."""
    attention = softmax(fields, window=window(fields, "sliding_window", None))
    routed = experts(fields, "num_local_experts", "num_experts_per_tok", "intermediate_size")
    return stack(fields, [Layer(attention, routed)] * depth(fields))


def qwen2(fields: Fields) -> Stack:
    """Return the stack of a dense Qwen2 or Qwen2.5: biases on queries, keys and values."""
    attentions = _windowed_later(fields, softmax(fields, bias_qkv=True))
    return stack(fields, [Layer(attention, dense(fields)) for attention in attentions])


def qwen3(fields: Fields) -> Stack:
    """Return the stack of a dense Qwen3: norms on the heads of queries and keys."""
    bias = fields.flag("attention_bias", False)
    attentions = _windowed_later(fields, softmax(fields, 128, qk_norm="head", bias_qkv=bias, bias_out=bias))
    return stack(fields, [Layer(attention, dense(fields)) for attention in attentions])


def qwen3_moe(fields: Fields) -> Stack:
    """Return the stack of a Qwen3 with experts in every `decoder_sparse_step`-th layer but the `mlp_only_layers`."""
    bias = fields.flag("attention_bias", False)
    attentions = _windowed_later(fields, softmax(fields, qk_norm="head", bias_qkv=bias, bias_out=bias))
    routed = experts(fields, "num_experts", "num_experts_per_tok", "moe_intermediate_size")
    layers = zip(attentions, sparse_steps(fields, routed), strict=True)
    return stack(fields, [Layer(attention, feed_forward) for attention, feed_forward in layers])


def minimax_m2(fields: Fields) -> Stack:
    """Return the stack of a MiniMax-M2: norms over all heads of queries and of keys, experts with a score bias."""
    fields.choice("qk_norm_type", ("per_layer",), "per_layer")
    norm: QkNorm = "layer" if fields.flag("use_qk_norm", True) else "none"
    fields.only("shared_intermediate_size", 0)
    layers = depth(fields)
    if fields.has("attn_type_list"):  # 1 for softmax attention, as in all models of this name
        fields.per_layer("attn_type_list", layers, (1,))
    bias = fields.flag("use_routing_bias", True)
    routed = experts(fields, "num_local_experts", "num_experts_per_tok", "intermediate_size", router_bias=bias)
    return stack(fields, [Layer(softmax(fields, 128, qk_norm=norm), routed)] * layers)


def sparse_steps(fields: Fields, routed: Experts) -> list[Dense | Experts]:
    """Return the feed-forward part of every layer after Qwen's fields: one MLP where there are no experts."""
    layers, step = depth(fields), fields.size("decoder_sparse_step", 1, most=MAX_LAYERS)
    plain = fields.positions("mlp_only_layers", layers)
    has_experts = [(at + 1) % step == 0 and at not in plain for at in range(layers)]
    if all(has_experts):
        fields.has("intermediate_size")  # of layers without experts, of which there are none
        return [routed] * layers
    mlp = dense(fields)
    return [routed if has else mlp for has in has_experts]


def _windowed_later(fields: Fields, attention: SoftmaxAttention) -> list[SoftmaxAttention]:
    """Return the attention of every layer: with `use_sliding_window`, those from `max_window_layers` have a window."""
    layers = depth(fields)
    width, first = fields.size_or_none("sliding_window"), fields.size("max_window_layers", 28, least=0)
    if not fields.flag("use_sliding_window", False) or width is None:
        return [attention for _ in kinds(fields, layers, (FULL,), [FULL] * layers)]
    of = {FULL: attention, SLIDING: replace(attention, window=width)}
    default = [FULL if at < first else SLIDING for at in range(layers)]
    return [of[kind] for kind in kinds(fields, layers, (FULL, SLIDING), default)]
