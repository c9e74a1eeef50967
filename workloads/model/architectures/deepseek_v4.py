"""DeepSeek V4: attention over a window and compressed entries, hash-routed experts first, hyper-connections.

Sources: configuration_deepseek_v4.py and modular_deepseek_v4.py in src/transformers/models/deepseek_v4 of
huggingface/transformers. `compress_ratios` has an entry per layer and one per module of multi-token prediction: 0 the
window alone, 4 compressed sparse (overlapping windows and an indexer), 128 heavily compressed.
"""

from __future__ import annotations

from dataclasses import replace

from workloads.model.architectures.deepseek import indexer, mtp_layers, routed_and_shared
from workloads.model.architectures.stack import Stack, depth, stack
from workloads.model.compressed import CompressedAttention, Compressor
from workloads.model.fields import Fields
from workloads.model.model import Layer

SPARSE_RATIO, HEAVY_RATIO = 4, 128
RATIOS = (0, SPARSE_RATIO, HEAVY_RATIO)


def deepseek_v4(fields: Fields) -> Stack:
    """Return the stack of a DeepSeek V4."""
    layers, streams = depth(fields), fields.size("hc_mult", 4)
    modules = fields.size("num_nextn_predict_layers", 0, least=0, most=layers)
    ratios = fields.per_layer("compress_ratios", layers, RATIOS, spare=modules)
    attentions = {ratio: _attention(fields, ratio) for ratio in RATIOS}
    fields.choice("topk_method", ("noaux_tc",), "noaux_tc")
    scored = routed_and_shared(fields, 1, router_bias=True)
    hashed = replace(scored, router_bias=False, hash_routed=True)
    first = fields.size("num_hash_layers", 3, least=0)
    found = [
        Layer(attentions[ratio], hashed if at < first else scored, streams=streams) for at, ratio in enumerate(ratios)
    ]
    draft = Layer(attentions[0], scored, streams=streams)
    return stack(fields, found, streams=streams, mtp=mtp_layers(fields, draft))


def _attention(fields: Fields, ratio: int) -> CompressedAttention:
    fields.only("attention_bias", False)
    fields.only("num_key_value_heads", 1)
    hidden, head_dim = fields.size("hidden_size"), fields.size("head_dim")
    attention = CompressedAttention(
        hidden,
        fields.size("num_attention_heads"),
        head_dim,
        fields.size("qk_rope_head_dim"),
        fields.size("q_lora_rank"),
        fields.size("o_groups"),
        fields.size("o_lora_rank"),
        fields.size("sliding_window"),
    )
    if ratio == 0:
        return attention
    if ratio == HEAVY_RATIO:
        return replace(attention, compressor=Compressor(hidden, head_dim, ratio, overlap=False))
    chooser = indexer(fields)
    return replace(
        attention,
        compressor=Compressor(hidden, head_dim, ratio, overlap=True),
        indexer=chooser,
        index_compressor=Compressor(hidden, chooser.head_dim, ratio, overlap=True),
    )
