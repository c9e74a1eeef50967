"""What an architecture makes of a file: the stack of layers and what stands around it, and readings many share.

Where a file is silent, the default of the architecture's configuration class in the `transformers` library holds
(src/transformers/models/NAME/configuration_NAME.py of huggingface/transformers), because that is what a checkpoint
with this file means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from workloads.model.attention import SoftmaxAttention
from workloads.model.feed_forward import Dense, Experts
from workloads.model.fields import MAX_LAYERS, Fields
from workloads.model.model import Layer

FULL, SLIDING = "full_attention", "sliding_attention"  # names in `layer_types`


@dataclass(frozen=True)
class Stack:
    """The layers of a text model in order, its widths, and whether the output head is the embedding."""

    hidden: int
    vocabulary: int
    layers: tuple[Layer, ...]
    tied_embeddings: bool
    streams: int = 1
    mtp: tuple[Layer, ...] = ()
    notes: tuple[str, ...] = ()


def stack(fields: Fields, layers: Iterable[Layer], tied: bool = False, **more: Any) -> Stack:
    """Return the stack of these layers; `tied`: the default of `tie_word_embeddings`."""
    hidden, vocabulary = fields.size("hidden_size"), fields.size("vocab_size")
    return Stack(hidden, vocabulary, tuple(layers), fields.flag("tie_word_embeddings", tied), **more)


def depth(fields: Fields) -> int:
    """Return the number of layers."""
    return fields.size("num_hidden_layers", most=MAX_LAYERS)


def softmax(fields: Fields, head_dim: int | None = None, **more: Any) -> SoftmaxAttention:
    """Return softmax attention over the whole context, keys as wide as values.

    `head_dim`: where the file has none; None: hidden_size / num_attention_heads. `more`: fields of the attention.
    """
    hidden, heads_q, heads_kv = heads(fields, "num_attention_heads", "num_key_value_heads")
    if fields.has("head_dim"):
        head_dim = fields.size("head_dim")
    elif head_dim is None:
        if hidden % heads_q:
            allowed = f"a multiple of num_attention_heads ({heads_q}) where head_dim is absent"
            raise fields.refuse("hidden_size", hidden, allowed)
        head_dim = hidden // heads_q
    return SoftmaxAttention(hidden, heads_q, heads_kv, head_dim, head_dim, **more)


def heads(fields: Fields, key_q: str, key_kv: str) -> tuple[int, int, int]:
    """Return the width, query heads and key-value heads, the last a divisor of the second."""
    hidden, heads_q, heads_kv = fields.size("hidden_size"), fields.size(key_q), fields.size(key_kv)
    if heads_q % heads_kv:
        raise fields.refuse(key_kv, heads_kv, f"a divisor of {key_q} ({heads_q})")
    return hidden, heads_q, heads_kv


def window(fields: Fields, key: str, default: int | None) -> int | None:
    """Return the tokens of a window, None where the file says null, and `default` where it says nothing."""
    return fields.size_or_none(key) if fields.present(key) else default


def dense(fields: Fields, key: str = "intermediate_size", bias: bool = False) -> Dense:
    """Return the gated MLP of the size that a field says."""
    return Dense(fields.size("hidden_size"), fields.size(key), bias)


def experts(fields: Fields, routed: str, top_k: str, intermediate: str, **more: Any) -> Experts:
    """Return the experts of the sizes that three fields say; `more`: fields of the experts."""
    hidden, count, chosen = fields.size("hidden_size"), fields.size(routed), fields.size(top_k)
    if chosen > count:
        raise fields.refuse(top_k, chosen, f"at most {routed} ({count})")
    return Experts(hidden, count, chosen, fields.size(intermediate), **more)


def kinds(fields: Fields, layers: int, allowed: Sequence[str], default: Sequence[str]) -> list[str]:
    """Return the kind of every layer from `layer_types`, `default` where it is absent."""
    return fields.per_layer("layer_types", layers, allowed) if fields.has("layer_types") else list(default)
