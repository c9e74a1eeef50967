"""What attention problems have in common: the types of their operands, and the sizes that a model gives.

Keys and values are cached in the type of activations or in e4m3 with a scale for all keys and one for all values. An
e4m3 cache is multiplied in one of two ways. With `products` fp8 both matmuls multiply e4m3 operands: queries are
quantised before the kernel or on their way, probabilities when they are computed, as FlashAttention-3 does (Shah et
al. 2024, arXiv:2407.08608). With 16-bit the vector unit widens tiles of keys and values, exactly, to the type of the
queries, as on units without fp8. It is a knob, because both ways read the same cache.

Not modelled: scales per head, per token or per block, scales that are computed from the data, and the turning of tiles
of values where a matrix unit reads 8 bits along tokens only: their banks' conflicts are counted instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hwmodel.machine import Machine
from workloads.batch import Batch
from workloads.kernels.base import knob, require_16_bit, require_options
from workloads.model import Model
from workloads.model.attention import Attention, SoftmaxAttention
from workloads.model.model import Layer

FP8 = "fp8_e4m3"
PRODUCTS = ("fp8", "16-bit")
MODEL_SIZES = {"window": 0, "sinks": 0, "head_dim_v": 0, "kv_fp8": 0, "layer": 0}  # which a model gives, too


@dataclass(frozen=True)
class Types:
    """In which types an attention has its results, its queries and cache in memory, and what the matmuls multiply."""

    out: str
    q: str
    kv: str
    product: str

    @property
    def scaled(self) -> bool:
        """Whether there are scales: of queries, keys and values."""
        return self.kv == FP8

    @property
    def quantises(self) -> bool:
        """Whether queries are quantised on their way."""
        return self.q != self.product

    @property
    def widens(self) -> bool:
        """Whether tiles of keys and values are widened before they are multiplied."""
        return self.kv != self.product


class Typed(Protocol):
    """A problem of which `types_of` reads the types; `kv_dtype` "" stands for `dtype`."""

    @property
    def dtype(self) -> str: ...
    @property
    def kv_dtype(self) -> str: ...
    @property
    def q_fp8(self) -> int: ...


def products_knob() -> Any:
    """Return the knob that says what multiplies an e4m3 cache; it has no effect on others."""
    return knob("fp8", "how an fp8 cache is multiplied: with fp8 queries and weights, or widened", choices=PRODUCTS)


def require_types(problem: Typed) -> None:
    """Raise ValueError for a cache of an unknown type, or quantised queries of another cache than e4m3."""
    if problem.kv_dtype not in ("", problem.dtype, FP8):
        raise ValueError(f"model: kv_dtype {problem.kv_dtype!r} is not modelled; allowed: {problem.dtype}, {FP8}")
    require_flags(q_fp8=problem.q_fp8)
    if problem.q_fp8 and problem.kv_dtype != FP8:
        raise ValueError(f"options: size q_fp8 is 1; allowed where the cache is {problem.kv_dtype or problem.dtype}: 0")


def require_context(contexts: Sequence[int], q_len: int | Sequence[int]) -> None:
    """Raise ValueError for a sequence that is shorter than its newest tokens, `q_len` of all or one number for each."""
    lengths = [q_len] * len(contexts) if isinstance(q_len, int) else q_len
    for sequence, (context, new) in enumerate(zip(contexts, lengths, strict=True)):
        if context < new:
            raise ValueError(f"batch: sequence {sequence}: context is {context}; allowed: q_len ({new}) or more")


def require_flags(**flags: int) -> None:
    """Raise ValueError for a size that means yes or no and is neither 1 nor 0."""
    for name, value in flags.items():
        if value not in (0, 1):
            raise ValueError(f"options: size {name} is {value}; allowed: 0 or 1")


def types_of(problem: Typed, products: str) -> Types:
    """Return the types under the knob `products`. Raises ValueError for quantised queries of 16-bit products."""
    if problem.kv_dtype != FP8:
        return Types(problem.dtype, problem.dtype, problem.dtype, problem.dtype)
    if products == "16-bit" and problem.q_fp8:
        raise ValueError("products: 16-bit; allowed where queries come quantised (q_fp8): fp8")
    queries = FP8 if problem.q_fp8 else problem.dtype
    return Types(problem.dtype, queries, FP8, FP8 if products == "fp8" else problem.dtype)


def require_products(types: Types, machine: Machine) -> None:
    """Raise ValueError naming the knob where products are e4m3 and the machine describes no rate of them."""
    if types.product == FP8 and machine.spec.cores.matrix.fp8 is None:
        why = f"{machine.spec.name} describes no fp8 rate (cores.matrix.fp8)"
        raise ValueError(f"products: fp8; allowed: 16-bit (--set products=16-bit), as {why}")


def problem_sizes(
    kernel: str,
    model: Model | None,
    batch: Batch | None,
    options: Mapping[str, int],
    required: Sequence[str],
    optional: Mapping[str, int],
) -> dict[str, Any]:
    """Return the fields of an attention problem: heads, head_dim, types and contexts, and the sizes by their names.

    Of `options`, `layer` says which layer's attention it is, counted from 0; without it there must be one for all
    layers, or one with the `window` in `options`. `window`, `sinks` and `head_dim_v` are the model's unless they are
    given, and so is the type of the cache unless `kv_fp8` is 1. Raises ValueError for a model that leaves open which
    attention is meant, or has another than softmax there.
    """
    sizes: dict[str, Any] = require_options(kernel, options, required, optional)
    if model is None:
        raise ValueError(f"model: kernel {kernel} needs one")
    if batch is None:
        raise ValueError(f"batch: kernel {kernel} needs one, with a context or a trace")
    attention = _attention(f"model: kernel {kernel}", model, options)
    if attention.window and "window" not in sizes:
        raise ValueError(f"model: kernel {kernel} knows no windows; {model.name} has {_words(attention)}")
    own_width = attention.head_dim_v if attention.head_dim_v != attention.head_dim_qk else 0
    given = {"window": attention.window or 0, "sinks": int(attention.sinks), "head_dim_v": own_width}
    sizes |= {name: value for name, value in given.items() if name in sizes and name not in options}
    del sizes["layer"]
    flag = sizes.pop("kv_fp8")
    require_flags(kv_fp8=flag)
    dtype = require_16_bit(kernel, model.dtype)
    cached = FP8 if flag else model.kv_dtype or dtype
    return sizes | {
        "heads_q": attention.heads_q,
        "heads_kv": attention.heads_kv,
        "head_dim": attention.head_dim_qk,
        "dtype": dtype,
        "contexts": batch.contexts,
        "kv_dtype": "" if cached == dtype else cached,
    }


def _attention(user: str, model: Model, options: Mapping[str, int]) -> SoftmaxAttention:
    """Return the attention that is meant, biases, norms and gates aside. Raises ValueError as `problem_sizes` does."""
    layers = model.layers
    positions: Sequence[int] = range(len(layers))
    if "layer" in options:
        if options["layer"] not in positions:
            allowed = f"a layer of {model.name}, 0 to {len(layers) - 1}"
            raise ValueError(f"options: size layer is {options['layer']}; allowed: {allowed}")
        positions = [options["layer"]]
    kinds = {_kind(layers[position].attention): position for position in reversed(positions)}
    if len(kinds) > 1 and "window" in options:
        kinds = {kind: at for kind, at in kinds.items() if _window(layers[at].attention) == options["window"]}
    if len(kinds) != 1:
        raise ValueError(f"{user} needs one attention; {model.name} has {_listed(layers)}: size layer says which")
    (position,) = kinds.values()
    attention = layers[position].attention
    if not isinstance(attention, SoftmaxAttention) or attention.chunked:
        known = "knows softmax attention over all tokens or a window only"
        raise ValueError(f"{user} {known}; {model.name} has {_words(attention)}")
    return attention


def _kind(attention: Attention) -> Any:
    """Return what is equal for attentions that are one to a kernel."""
    if not isinstance(attention, SoftmaxAttention):
        return attention
    widths = attention.head_dim_qk, attention.head_dim_v
    return attention.heads_q, attention.heads_kv, *widths, attention.window, attention.chunked, attention.sinks


def _window(attention: Attention) -> int | None:
    return attention.window or 0 if isinstance(attention, SoftmaxAttention) else None


def _words(attention: Attention) -> str:
    return ", ".join(sorted(attention.beyond_plain)) or "attention over the whole context"


def _listed(layers: Sequence[Layer]) -> str:
    first = {_kind(layer.attention): at for at, layer in reversed(list(enumerate(layers)))}
    return "; ".join(f"{_words(layers[at].attention)} (layer {at})" for at in sorted(first.values()))
