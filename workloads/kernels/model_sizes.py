"""The sizes that a model gives a kernel, by their names: a function per kind of layer, empty where it has none such.

Raises ValueError for a model with several of a kind, because a kernel works on one.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import TypeVar

from workloads.model import Dense, Experts, LatentAttention, LinearAttention, Model

Part = TypeVar("Part", LatentAttention, LinearAttention, Experts)
Sizes = dict[str, int]


def _one(model: Model, kind: type[Part]) -> Part | None:
    """Return the part of a kind that the model's layers have, None where they have none."""
    parts = [part for group in model.groups for part in (group.layer.attention, group.layer.feed_forward)]
    found = {tuple(v for v in astuple(part) if type(v) is not bool): part for part in parts if isinstance(part, kind)}
    if len(found) > 1:
        name = next(iter(found.values())).kind
        raise ValueError(f"model: {model.name} has several sizes of {name}; give the sizes without a model")
    return next(iter(found.values()), None)


def absorbed(model: Model) -> Sizes:
    """Return heads, rank, rope and nope of latent attention."""
    latent = _one(model, LatentAttention)
    if latent is None:
        return {}
    return {"heads": latent.heads, "rank": latent.kv_rank, "rope": latent.rope_dim, "nope": latent.nope_dim}


def expanded(model: Model) -> Sizes:
    """Return the sizes of latent attention with the length of the values of a head."""
    latent = _one(model, LatentAttention)
    return absorbed(model) | ({"value": latent.v_dim} if latent else {})


def selected(model: Model) -> Sizes:
    """Return the sizes of latent attention with how many tokens its indexer selects."""
    return absorbed(model) | {name: size for name, size in indexer_sizes(model).items() if name == "top_k"}


def indexer_sizes(model: Model) -> Sizes:
    """Return heads, dim and top_k of the indexer of latent attention."""
    latent = _one(model, LatentAttention)
    index = latent.indexer if latent else None
    return {"heads": index.heads, "dim": index.head_dim, "top_k": index.top_k} if index else {}


def linear(model: Model) -> Sizes:
    """Return heads, key_heads, their dims, and per_channel of linear attention."""
    found = _one(model, LinearAttention)
    if found is None:
        return {}
    dims = {"key_dim": found.dim_k, "value_dim": found.dim_v, "per_channel": int(found.decay == "channel")}
    return {"heads": found.heads_v, "key_heads": found.heads_k} | dims


def experts(model: Model) -> Sizes:
    """Return experts and topk."""
    found = _one(model, Experts)
    return {"experts": found.routed, "topk": found.top_k} if found else {}


def expert_rows(model: Model) -> Sizes:
    """Return experts and topk, and the hidden size as columns."""
    return experts(model) | hidden(model)


def expert_layer(model: Model) -> Sizes:
    """Return the sizes of a layer of experts; of a model without experts, the hidden size."""
    found = _one(model, Experts)
    inner = {"inter": found.intermediate, "shared": found.shared_intermediate} if found else {}
    return experts(model) | {"hidden": model.hidden} | inner


def expert_product(model: Model) -> Sizes:
    """Return the sizes of the first product of a layer of experts, of gate and up."""
    found = _one(model, Experts)
    return experts(model) | ({"n": 2 * found.intermediate, "k": found.hidden} if found else {})


def hidden(model: Model) -> Sizes:
    """Return the hidden size as columns."""
    return {"columns": model.hidden}


def vocabulary(model: Model) -> Sizes:
    """Return the vocabulary."""
    return {"vocabulary": model.vocabulary}


def table(model: Model) -> Sizes:
    """Return vocabulary and hidden size of the embedding."""
    return vocabulary(model) | hidden(model)


def intermediate(model: Model) -> Sizes:
    """Return the intermediate size where all layers have one gated MLP."""
    found = {group.layer.feed_forward for group in model.groups}
    return {"inter": model.intermediate} if len(found) == 1 and isinstance(next(iter(found)), Dense) else {}
