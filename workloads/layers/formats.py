"""In which formats a step has the weights of its modules and its caches: what the checkpoint says, or a study instead.

Between the model's quantisation block and the products: a `Formats` says of every kind of product, by its title, how
its weights are stored; `products` and `feed_forward` choose kernels by that, and by what the machine multiplies. A
kind stands for modules of the names that published checkpoints use, so that the names and patterns of modules that a
quantisation block excludes decide what stays in 16 bits, layer by layer. Whatever the block says, embeddings, the
output head, routers, weights of index heads, projections before compressors, logits of residual streams and all norms
are in 16 bits: no published method converts them. Scales of 128 x 128 blocks are read in fp32, as most checkpoints have
them, also where one stores only their exponents.

The weights of a step other than the model's ("fp8" and so on) are an online conversion: all other products and experts
have the format, and nothing more is excluded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from layouts.notation import nearest_first
from workloads.model import Model
from workloads.model.model import Quantisation


@dataclass(frozen=True)
class Weights:
    """How the weights of a module are stored: a format by its name, and how many elements of k share a scale."""

    name: str
    group: int = 0

    @property
    def text(self) -> str:
        """The format in words."""
        return _WORDS[self.name].format(group=self.group)


_WORDS = {
    "16-bit": "16 bits",
    "fp8": "e4m3, a scale per matrix",
    "fp8-block": "e4m3, a scale per 128 x 128",
    "mxfp8": "mxfp8",
    "mxfp4": "mxfp4",
    "nvfp4": "nvfp4",
    "int4": "4-bit integers, a scale per {group}",
}
SIXTEEN = Weights("16-bit")
MODEL = "model"
CHOICES = {  # what a study may ask for instead of the model's
    "16-bit": SIXTEEN,
    "fp8": Weights("fp8-block", 128),
    "mxfp8": Weights("mxfp8", 32),
    "mxfp4": Weights("mxfp4", 32),
    "nvfp4": Weights("nvfp4", 16),
    "w4a16": Weights("int4", 128),
}
WEIGHTS = (MODEL, *CHOICES)
FP8 = "fp8_e4m3"
CACHES = {MODEL: "", "fp8": FP8, FP8: FP8}

_EXPERTS = "mlp.experts", "block_sparse_moe.experts", "feed_forward.experts", "ffn.experts"
_SHARED = "mlp.shared_experts", "mlp.shared_expert", "feed_forward.shared_expert", "ffn.shared_experts"
_LATENT = ("self_attn.kv_b_proj",)
MODULES = {  # by title of a product: modules of a layer, in the names of published checkpoints
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.qkv_proj"),
    "out": ("self_attn.o_proj", "linear_attn.out_proj", "attn.wo_b"),
    "q down": ("self_attn.q_a_proj", "attn.wq_a"),
    "q up": ("self_attn.q_b_proj", "self_attn.q_proj", "attn.wq_b"),
    "kv down": ("self_attn.kv_a_proj_with_mqa",),
    "kv": ("attn.wkv",),
    "index q": ("self_attn.indexer.wq_b", "attn.indexer.wq_b"),
    "index k": ("self_attn.indexer.wk",),
    "kv up": _LATENT,
    "absorb": _LATENT,
    "value up": _LATENT,
    "out groups": ("attn.wo_a",),
    "in": ("linear_attn.in_proj_qkvz", "linear_attn.in_proj_qkv", "self_attn.q_proj"),
    "decay": ("self_attn.f_b_proj",),
    "gate": ("self_attn.g_b_proj",),
    "gate and up": ("mlp.gate_proj", "mlp.up_proj", "feed_forward.gate_proj", "feed_forward.up_proj"),
    "down": ("mlp.down_proj", "feed_forward.down_proj"),
    "experts": tuple(f"{name}.0.gate_proj" for name in _EXPERTS) + _EXPERTS,
    "shared gate and up": tuple(f"{name}.gate_proj" for name in _SHARED),
    "shared down": tuple(f"{name}.down_proj" for name in _SHARED),
}
READ_IN_16_BITS = ("kv up", "absorb", "value up", "out groups")  # whatever they are stored in: products in batches


@dataclass(frozen=True)
class Formats:
    """How the weights of one kind of layer are stored, and its cache ("": in the type of activations).

    `excluded`: titles of products whose weights are in 16 bits all the same.
    """

    linear: Weights = SIXTEEN
    experts: Weights = SIXTEEN
    excluded: frozenset[str] = frozenset()
    cache: str = ""

    def of(self, title: str) -> Weights:
        """Return how the weights of a product are stored, or of the routed "experts"."""
        if title not in MODULES or title in self.excluded:
            return SIXTEEN
        return self.experts if title == "experts" else self.linear


def formats_of(model: Model, weights: str = MODEL, cache: str = MODEL) -> dict[Formats, tuple[int, ...]]:
    """Return the formats of the layers of a model, and which layers have them.

    `weights`: one of WEIGHTS, `cache` one of CACHES. Raises ValueError for others.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights: unknown {weights!r}; known: {nearest_first(weights, WEIGHTS)}")
    if cache not in CACHES:
        raise ValueError(f"kv-dtype: unknown {cache!r}; known: {nearest_first(cache, CACHES)}")
    own = "" if model.kv_dtype == model.dtype else model.kv_dtype or ""
    stored = own if cache == MODEL else CACHES[cache]
    positions = range(len(model.layers))
    if weights != MODEL or model.quantisation is None:
        chosen = CHOICES.get(weights, SIXTEEN)
        return {Formats(chosen, chosen, cache=stored): tuple(positions)}
    found: dict[Formats, list[int]] = {}
    linear, experts = stored_formats(model.quantisation)
    patterns = _Patterns(model.quantisation.excluded)
    for position in positions:
        formats = Formats(linear, experts, patterns.excluded(position), stored)
        found.setdefault(formats, []).append(position)
    return {formats: tuple(of) for formats, of in found.items()}


def stored_formats(q: Quantisation) -> tuple[Weights, Weights]:
    """Return the formats of linear layers and of routed experts; 16 bits for those that no kernel knows."""
    linear = _known(q.dtype, q.block) or SIXTEEN
    return linear, linear if q.experts_dtype is None else _known(q.experts_dtype, (32,)) or SIXTEEN


def unknown_format(q: Quantisation | None) -> str:
    """Return the line about stored weights that no kernel knows, "" where there are none."""
    if q is None or _known(q.dtype, q.block):
        return ""
    block = " x ".join(map(str, q.block)) or "a matrix"
    return f"weights: {q.dtype} with a scale per {block} has no kernel; they are read in 16 bits"


def _known(dtype: str, block: tuple[int, ...]) -> Weights | None:
    """Return the format of a type of elements and of the block that shares a scale."""
    if dtype == "int4" and len(block) == 1 and block[0] % 2 == 0:
        return Weights("int4", block[0])
    known = {
        (FP8, ()): Weights("fp8"),
        (FP8, (128, 128)): Weights("fp8-block", 128),
        (FP8, (32,)): Weights("mxfp8", 32),
        ("fp4_e2m1", (32,)): Weights("mxfp4", 32),
        ("fp4_e2m1", (16,)): Weights("nvfp4", 16),
    }
    return known.get((dtype, block))


def weights_text(formats: Iterable[Formats], titles: Collection[str]) -> str:
    """Return in words which of the products of these titles have weights of fewer than 16 bits, in which formats."""
    found: dict[str, list[str]] = {}
    for title in MODULES:
        if title in titles and title not in READ_IN_16_BITS:
            for weights in dict.fromkeys(each.of(title) for each in formats):
                found.setdefault(weights.text, []).append(title)
    narrow = [f"{text} ({', '.join(of)})" for text, of in found.items() if text != SIXTEEN.text]
    return "; ".join([*narrow, "all else 16 bits"]) if narrow else SIXTEEN.text


class _Patterns:
    """The patterns of excluded modules, those that name a layer by that."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._general: list[str] = []
        self._of_layer: dict[int, list[str]] = {}
        for pattern in patterns:
            layer = re.search(r"(?:^|\.)layers\.(\d{1,9})(?:\.|$)", pattern)
            if layer and not pattern.startswith("re:"):
                self._of_layer.setdefault(int(layer[1]), []).append(pattern)
            else:
                self._general.append(pattern)

    def excluded(self, layer: int) -> frozenset[str]:
        """Return the titles of the products of a layer whose modules are excluded."""
        patterns = tuple(self._general + self._of_layer.get(layer, []))
        return frozenset(
            title
            for title, names in MODULES.items()
            if any(excludes(pattern, f"model.layers.{layer}.{name}") for name in names for pattern in patterns)
        )


def excludes(pattern: str, module: str) -> bool:
    """Return whether a pattern of a quantisation block names a module, or one that it lies in.

    Patterns are names or parts of names, whole between dots, with `*` for any part of what is between two dots, as
    `modelopt` ends them (`layers.0.self_attn*`); after `re:` a regular expression as `compressed-tensors` has them, of
    names, dots, `.*`, `\\d+` and choices in brackets. Others match nothing.
    """
    if pattern.startswith("re:"):
        compiled = _expression(pattern[3:])
        return compiled is not None and compiled.match(module) is not None
    wanted = [part for part in pattern.split(".") if part not in ("language_model", "weight")]
    parts = module.split(".")
    return bool(wanted) and any(
        all(fnmatchcase(part, want) for want, part in zip(wanted, parts[start:], strict=False))
        for start in range(len(parts) - len(wanted) + 1)
    )


@lru_cache
def _expression(text: str) -> re.Pattern[str] | None:
    """Return a regular expression that takes polynomial time at most, None for others: no group is repeated."""
    if not re.fullmatch(r"(?:[\w-]|\\\.|\.\*|\.|\\d\+?|\((?:\?:)?[\w|]+\)|\^|\$)*", text) or text.count("*") > 4:
        return None
    return re.compile(text)


def by_formats(
    positions: tuple[int, ...], formats: dict[Formats, tuple[int, ...]]
) -> Iterator[tuple[Formats, list[int]]]:
    """Yield the formats of some layers, and which of these have them."""
    for each, having in formats.items():
        if common := sorted(set(positions) & set(having)):
            yield each, common
