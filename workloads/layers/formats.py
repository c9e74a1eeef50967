"""In which formats a step has the weights of its modules and its caches: what the checkpoint says, or a study instead.

Between the model's quantisation block and the products: a `Formats` says of every kind of product, by its title, how
its weights are stored; `products` and `feed_forward` choose kernels by that, and by what the machine multiplies. A
kind stands for modules of the names that published checkpoints use (`modules`), so that the names and patterns of
modules that a quantisation block excludes, or has alone, decide what stays in 16 bits, layer by layer. Whatever the
block says, embeddings, the output head, routers, weights of index heads, projections before compressors, logits of
residual streams and all norms are in 16 bits: no published method converts them. Scales of 128 x 128 blocks are read in
fp32, as most checkpoints have them, also where one stores only their exponents.

The weights of a step other than the model's ("fp8" and so on) are an online conversion: all other products and experts
have the format, and nothing more is excluded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from layouts.notation import nearest_first
from workloads.layers.modules import MODULES, Modules
from workloads.model import Model
from workloads.model.fields import shown
from workloads.model.model import Quantisation


@dataclass(frozen=True)
class Weights:
    """How the weights of a module are stored: a format by its name, and how many elements of k share a scale.

    `alone`: activations stay in 16 bits, also where the machine multiplies the type.
    """

    name: str
    group: int = 0
    alone: bool = False

    @property
    def text(self) -> str:
        """The format in words."""
        return _WORDS[self.name].format(group=self.group) + (", activations in 16 bits" if self.alone else "")


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
    excluded, targets = _modules(model.quantisation, len(positions))
    for position in positions:
        wide = excluded.titles(position)
        if targets:
            wide |= MODULES.keys() - targets.titles(position)
        found.setdefault(Formats(linear, experts, wide, stored), []).append(position)
    return {formats: tuple(of) for formats, of in found.items()}


def stored_formats(q: Quantisation) -> tuple[Weights, Weights]:
    """Return the formats of linear layers and of routed experts; 16 bits for those that no kernel knows."""
    linear = _known(q.dtype, q.block) or SIXTEEN
    if q.weights_only and linear.name not in (SIXTEEN.name, "int4"):  # which have activations of 16 bits anyway
        linear = replace(linear, alone=True)
    return linear, linear if q.experts_dtype is None else _known(q.experts_dtype, (32,)) or SIXTEEN


def _modules(q: Quantisation, layers: int) -> tuple[Modules, Modules | None]:
    """Return the modules that a block excludes, and those that it has alone; None for all."""
    return Modules(q.excluded, layers), Modules(q.targets, layers) if q.targets else None


def format_notes(model: Model) -> tuple[str, ...]:
    """Return lines about stored weights that no kernel knows, and about modules that are not told from others."""
    q = model.quantisation
    if q is None:
        return ()
    notes = []
    if not _known(q.dtype, q.block):
        block = " x ".join(map(str, q.block)) or "a matrix"
        notes.append(f"weights: {q.dtype} with a scale per {block} has no kernel; they are read in 16 bits")
    excluded, targets = _modules(q, len(model.layers))
    for what, modules in (("excluded", excluded), ("quantised", targets)):
        if modules and modules.unread:
            more = f" and {len(modules.unread) - 1} more" if len(modules.unread) > 1 else ""
            pattern = shown(modules.unread[0])
            notes.append(f"weights: patterns of {what} modules are not understood and name none: {pattern}{more}")
    if targets and targets.is_empty:
        notes.append(f"weights: targets such as {shown(q.targets[0])} name no module; all are read in 16 bits")
    return tuple(notes)


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


def by_formats(
    positions: tuple[int, ...], formats: dict[Formats, tuple[int, ...]]
) -> Iterator[tuple[Formats, list[int]]]:
    """Yield the formats of some layers, and which of these have them."""
    for each, having in formats.items():
        if common := sorted(set(positions) & set(having)):
            yield each, common
