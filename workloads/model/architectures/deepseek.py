"""DeepSeek V2, V3, V3.2 and Kimi K2: latent attention, dense layers first, then routed and shared experts.

Sources: inference/model.py of deepseek-ai/DeepSeek-V3 and -V3.2-Exp; which layers have experts:
modeling_deepseek.py of deepseek-ai/DeepSeek-V3 (from `first_k_dense_replace`, every `moe_layer_freq`-th).
"""

from __future__ import annotations

from typing import Any

from workloads.model.architectures.stack import Stack, dense, depth, experts, stack
from workloads.model.attention import Indexer, LatentAttention
from workloads.model.feed_forward import Dense, Experts
from workloads.model.fields import MAX_LAYERS, Fields
from workloads.model.model import Layer


def deepseek_v2(fields: Fields) -> Stack:
    """Return the stack of a DeepSeek V2, whose two configuration classes differ: there are no defaults to rely on."""
    return _latent(fields, latent(fields), feed_forwards(fields, first_dense=None, shared=None, method="greedy"))


def deepseek_v3(fields: Fields) -> Stack:
    """Return the stack of a DeepSeek V3 or a Kimi K2."""
    return _latent(fields, latent(fields), feed_forwards(fields, first_dense=3, shared=1, method="noaux_tc"))


def deepseek_v32(fields: Fields) -> Stack:
    """Return the stack of a DeepSeek V3.2: V3 with an indexer in every layer."""
    parts = feed_forwards(fields, first_dense=3, shared=1, method="noaux_tc")
    return _latent(fields, latent(fields, indexer(fields)), parts)


def latent(fields: Fields, chooser: Indexer | None = None) -> LatentAttention:
    """Return the latent attention that a file says; queries without `q_lora_rank` are projected directly."""
    fields.only("attention_bias", False)
    fields.has("num_key_value_heads")  # repeats the heads: the cache has one latent for all
    return LatentAttention(
        fields.size("hidden_size"),
        fields.size("num_attention_heads"),
        fields.size_or_none("q_lora_rank"),
        fields.size("kv_lora_rank"),
        fields.size("qk_nope_head_dim"),
        fields.size("qk_rope_head_dim", least=0),
        fields.size("v_head_dim"),
        chooser,
    )


def indexer(fields: Fields) -> Indexer:
    """Return the indexer that a file says."""
    keys = ("hidden_size", "q_lora_rank", "index_n_heads", "index_head_dim", "index_topk")
    return Indexer(*(fields.size(key) for key in keys))


def routed_and_shared(fields: Fields, shared: int | None, **more: Any) -> Experts:
    """Return the experts with those that every token uses, each as wide as a routed one; `shared`: by default."""
    width = fields.size("n_shared_experts", shared, least=0) * fields.size("moe_intermediate_size")
    names = ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size")
    return experts(fields, *names, shared_intermediate=width, **more)


def feed_forwards(fields: Fields, first_dense: int | None, shared: int | None, method: str) -> list[Dense | Experts]:
    """Return the feed-forward part of every layer.

    Defaults: the dense layers that come first, the shared experts (None: there is none, the field is needed), and how
    experts are chosen, "noaux_tc" with a number per expert that corrects its scores for an even load.
    """
    layers = depth(fields)
    first = fields.size("first_k_dense_replace", first_dense, least=0)
    every = fields.size("moe_layer_freq", 1, most=MAX_LAYERS)
    bias = fields.choice("topk_method", ("noaux_tc", "group_limited_greedy", "greedy"), method) == "noaux_tc"
    routed = routed_and_shared(fields, shared, router_bias=bias)
    plain = dense(fields)
    return [routed if at >= first and at % every == 0 else plain for at in range(layers)]


def mtp_layers(fields: Fields, layer: Layer) -> tuple[Layer, ...]:
    """Return the layers of multi-token prediction, each like the last layer."""
    return (layer,) * fields.size("num_nextn_predict_layers", 0, least=0, most=MAX_LAYERS)


def _latent(fields: Fields, attention: LatentAttention, parts: list[Dense | Experts]) -> Stack:
    layers = [Layer(attention, feed_forward) for feed_forward in parts]
    return stack(fields, layers, mtp=mtp_layers(fields, layers[-1]))
