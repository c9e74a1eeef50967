"""What a step leaves out of the model at hand: parts that no kernel of `workloads.layers` computes, and their weights.

Weights are those of the whole model, whatever a device of a group has of them. Not listed, as no model says whether it
has them: norms without weights (Llama 4), caps of logits, and whatever follows the head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from workloads.model import Model
from workloads.model.attention import LatentAttention, SoftmaxAttention
from workloads.model.compressed import CompressedAttention
from workloads.model.feed_forward import Dense, Experts
from workloads.model.linear import LinearAttention
from workloads.model.model import Layer
from workloads.scheduled import Scheduled

Parts: TypeAlias = Iterator[tuple[str, int]]  # what is left out, and its weights in a layer


def left_out(model: Model, work: Scheduled) -> dict[str, tuple[int, int]]:
    """Return the parts of a model's layers that a step leaves out: of how many layers, and the weights in all."""
    found: dict[str, tuple[int, int]] = {}
    for group in model.groups:
        for part, weights in _of_layer(group.layer, work):
            layers, before = found.get(part, (0, 0))
            found[part] = layers + group.count, before + group.count * weights
    return found


def left_out_notes(model: Model, work: Scheduled, parallel: int) -> tuple[str, ...]:
    """Return a line for every part that a step leaves out; `parallel`: devices of the tensor-parallel group."""
    lines = []
    for part, (layers, weights) in left_out(model, work).items():
        what = f", {weights:,} weights" if weights else ""
        lines.append(f"not in the sum: {part} ({layers} layer{'s' if layers > 1 else ''}{what})")
    if model.streams > 1:
        lines.append("not in the sum: the copies of the embedding to all residual streams")
    if parallel > 1:
        lines.append(f"not in the sum: the exchange between the {parallel} devices")
    return tuple(lines)


def _of_layer(layer: Layer, work: Scheduled) -> Parts:
    a, f = layer.attention, layer.feed_forward
    if isinstance(a, SoftmaxAttention):
        yield from _softmax(a)
    elif isinstance(a, LatentAttention):
        yield from _latent(a, work)
    elif isinstance(a, LinearAttention):
        yield from _linear(a)
    elif isinstance(a, CompressedAttention):
        yield from _compressed(a, work)
    if layer.norms > 2:
        yield "norms beyond one before attention and one before the feed forward", (layer.norms - 2) * a.hidden
    if layer.scalars:
        yield "scales of the residual stream", layer.scalars
    if isinstance(f, Dense) and f.bias:
        yield "biases of the MLP", _biases(f)
    elif isinstance(f, Experts):
        yield from _experts(f)


def _softmax(a: SoftmaxAttention) -> Parts:
    if a.qk_norm != "none":
        which = (
            "of single heads of queries and keys" if a.qk_norm == "head" else "over all heads of queries and of keys"
        )
        yield f"norms {which}", a.norm_parameters
    if a.bias_qkv:
        yield "biases of queries, keys and values", a.projected
    if a.bias_out:
        yield "biases of what leaves attention", a.hidden
    if a.gate:
        yield "the multiplication of what attention gives by its gates", 0
    if a.head_dim_v != a.head_dim_qk:
        yield "the append of values at their own width, for which that of keys is taken", 0


def _latent(a: LatentAttention, work: Scheduled) -> Parts:
    yield "the append of latents", 0
    if a.rope_dim:
        yield "the rotary embedding of queries and keys", 0
    if a.indexer is None:
        return
    yield "the append of index keys", 0
    yield "the norm of index keys", 2 * a.indexer.head_dim
    if any(not part.decodes and max(part.contexts) <= a.indexer.top_k for part in work.parts()):
        yield f"the selection in prompts of which the indexer keeps all (up to {a.indexer.top_k} tokens)", 0


def _linear(a: LinearAttention) -> Parts:
    decays = 2 * a.heads_v if a.decay == "head" else a.heads_k * (1 + a.dim_k)
    yield "the convolution of linear attention", a.conv_channels * a.conv_kernel
    yield "the making of decays and strengths from what is projected", decays
    yield "the gated norm of single heads of what linear attention gives", a.dim_v


def _compressed(a: CompressedAttention, work: Scheduled) -> Parts:
    yield "the append of keys", 0
    yield "the rotary embedding of queries and keys", 0
    if a.compressor:
        yield "the append of compressed entries", 0
    if a.indexer:
        yield "the append of index keys", 0
    if a.compressor and any(not part.decodes and not part.is_whole for part in work.parts()):
        yield "the part of a chunk's first entry that waits in fp32", 0


def _experts(f: Experts) -> Parts:
    if f.bias:
        shared = _biases(Dense(f.hidden, f.shared_intermediate, True)) if f.shared_intermediate else 0
        yield "biases of experts", f.routed * _biases(f.expert) + shared
    if f.router_bias:
        yield "biases of the router", f.routed
    if f.router_scale:
        yield "scales of the router", f.hidden + f.routed
    if f.shared_gate:
        yield "the gate of the shared expert", f.hidden
    if f.hash_routed:
        yield "the table by which tokens choose experts, for which the router's choice is taken", 0


def _biases(f: Dense) -> int:
    return 2 * f.intermediate + f.hidden
