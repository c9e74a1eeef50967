"""A model as the shapes of its layers: parameters, cache and state are sums over the parts.

First step of the data's path: a hub `config.json` (or a shipped list of facts with the same keys) becomes a `Model`,
from which batches, page tables and kernels take their shapes.
Not modelled: positions, activation functions, norms' epsilons and everything else that leaves sizes unchanged;
vision and audio encoders; the bytes that quantised weights and their scales take.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from layouts.notation import nearest_first
from workloads.model.attention import Attention, SoftmaxAttention
from workloads.model.feed_forward import Dense, FeedForward
from workloads.model.fields import MAX_SIZE, check_part, check_size, refusal

DTYPE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
KV_DTYPE_BYTES = DTYPE_BYTES | {"fp8_e4m3": 1, "fp8_e5m2": 1}


@dataclass(frozen=True)
class Layer:
    """One layer: a token mixer, a channel mixer, and the norms of `hidden` weights around them.

    `scalars`: single weights that scale the residual. `streams` above 1: hyper-connections, which before and after
    both mixers mix that many residual streams.  Source of their size: DeepseekV4HyperConnection
    (src/transformers/models/deepseek_v4/modular_deepseek_v4.py of huggingface/transformers).
    """

    attention: Attention
    feed_forward: FeedForward
    norms: int = 2
    scalars: int = 0
    streams: int = 1

    def __post_init__(self) -> None:
        check_part(self, "norms", "scalars")
        if self.attention.hidden != self.feed_forward.hidden:
            raise ValueError(
                f"hidden is {self.feed_forward.hidden}; allowed: as in attention ({self.attention.hidden})"
            )

    @property
    def kind(self) -> str:
        """Return the names of both mixers."""
        return f"{self.attention.kind} + {self.feed_forward.kind}"

    @property
    def _beside_experts(self) -> int:
        n = self.streams
        mixed = (2 + n) * n  # what goes in, what comes out, and from stream to stream
        connections = 2 * (mixed * (n * self.attention.hidden + 1) + 3) if n > 1 else 0
        return self.attention.parameters + self.norms * self.attention.hidden + self.scalars + connections

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return self._beside_experts + self.feed_forward.parameters

    @property
    def active_parameters(self) -> int:
        """The number of weights one token uses."""
        return self._beside_experts + self.feed_forward.active_parameters


@dataclass(frozen=True)
class LayerGroup:
    """The layers of a model that are alike, and where they stand (counted from 0)."""

    layer: Layer
    positions: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.positions)


@dataclass(frozen=True)
class Quantisation:
    """How a checkpoint stores most of its matrices: type, elements per scale (rows, columns, or a run), scale type.

    `experts_dtype`: the type of the routed experts where it is another one (in runs of 32 with e8m0 scales).
    `excluded`: names of modules, or patterns of names, whose matrices stay in the type of activations. `targets`: those
    of the only ones that do not; none for all. `weights_only`: activations are not quantised in any product.
    """

    dtype: str
    block: tuple[int, ...]
    scale: str
    experts_dtype: str | None = None
    excluded: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    weights_only: bool = False


@dataclass(frozen=True)
class Model:
    """The sizes of one decoder-only transformer.

    `groups` hold every layer once. `dtype` (activations, and weights unless quantised) is one of `DTYPE_BYTES`,
    `kv_dtype` (the cache; None: `dtype`) one of `KV_DTYPE_BYTES`. `streams`: residual streams. `mtp`: the layers of
    multi-token prediction, which are drafts of further tokens and counted nowhere but in `mtp_parameters`. `notes`
    say what of a file is left out or supposed, `warnings` which fields are not known. Raises ValueError otherwise.
    """

    name: str
    groups: tuple[LayerGroup, ...]
    hidden: int
    vocabulary: int
    dtype: str
    tied_embeddings: bool = False
    kv_dtype: str | None = None
    quantisation: Quantisation | None = None
    streams: int = 1
    mtp: tuple[Layer, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        where = f"model {self.name}"
        for name, value in (("hidden", self.hidden), ("vocabulary", self.vocabulary)):
            check_size(value, where, name, MAX_SIZE)
        if self.dtype not in DTYPE_BYTES:
            raise ValueError(refusal(where, "dtype", self.dtype, nearest_first(self.dtype, DTYPE_BYTES)))
        if self.kv_dtype is not None and self.kv_dtype not in KV_DTYPE_BYTES:
            raise ValueError(refusal(where, "kv_dtype", self.kv_dtype, nearest_first(self.kv_dtype, KV_DTYPE_BYTES)))
        for group in self.groups:
            if group.layer.attention.hidden != self.hidden:
                allowed = f"as of every layer ({group.layer.attention.hidden})"
                raise ValueError(refusal(where, "hidden", self.hidden, allowed))
        positions = sorted(position for group in self.groups for position in group.positions)
        if not positions or positions != list(range(len(positions))):
            raise ValueError(f"{where}: the groups hold the layers {positions[:8]}; allowed: every layer from 0 once")

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in order."""
        found = {position: group.layer for group in self.groups for position in group.positions}
        return tuple(found[position] for position in range(len(found)))

    @property
    def parameters(self) -> int:
        """The number of weights: embedding, layers, last norm, and the output head unless it is the embedding."""
        return self._outside + sum(group.count * group.layer.parameters for group in self.groups)

    @property
    def active_parameters(self) -> int:
        """The number of weights one token uses: all but the experts it is not sent to, embeddings included."""
        return self._outside + sum(group.count * group.layer.active_parameters for group in self.groups)

    @property
    def lookup_parameters(self) -> int:
        """The weights of an embedding that serves as a table only, of which a token reads one row; 0 where it is tied.

        Some publish active parameters without them: `active_parameters - lookup_parameters`.
        """
        return 0 if self.tied_embeddings else self.vocabulary * self.hidden

    @property
    def mtp_parameters(self) -> int:
        """The weights of multi-token prediction, embedding and output head, which it shares, not counted again.

        A module has, beside its layer, a projection of two hidden states to one and three norms.
        Source: README_WEIGHTS.md of deepseek-ai/DeepSeek-V3.
        """
        return sum(layer.parameters + (2 * self.hidden + 3) * self.hidden for layer in self.mtp)

    @property
    def _outside(self) -> int:
        head = self.streams * (self.streams * self.hidden + 1) + 1 if self.streams > 1 else 0  # joins the streams
        return self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2) + self.hidden + head

    @property
    def kv_dtype_bytes(self) -> int:
        """The bytes of an element of the cache."""
        return KV_DTYPE_BYTES[self.kv_dtype or self.dtype]

    @property
    def kv_bytes_per_token(self) -> int:
        """The bytes each further token of a long sequence adds to its cache, over all layers.

        Full attention: keys and values; latent attention: latent, rotary key and indexer key; compressed entries:
        their share. Windows, once full, and linear attention add none. Scales of a quantised cache are not counted.
        """
        return self.kv_dtype_bytes * sum(g.count * g.layer.attention.kv_elements_per_token for g in self.groups)

    @property
    def window_bytes(self) -> int:
        """The bytes of all full windows of one sequence, over all layers; they are part of no other number here."""
        return self.kv_dtype_bytes * sum(g.count * g.layer.attention.window_kv_elements for g in self.groups)

    def kv_bytes(self, context: int) -> int:
        """Return the bytes of the cache of a sequence of `context` tokens, windows as far as they are filled."""
        return self.kv_dtype_bytes * sum(g.count * g.layer.attention.kv_elements(context) for g in self.groups)

    @property
    def state_bytes(self) -> int:
        """The bytes of recurrent state of one sequence, whatever its length: of linear layers and of compressors.

        Windows hold keys and values and are not in it.
        """
        return sum(group.count * group.layer.attention.state_bytes for group in self.groups)

    def softmax_attention(self, user: str) -> SoftmaxAttention:
        """Return the softmax attention over the whole context that every layer has.

        Raises ValueError with one line, which begins with `user`, about what other attention there is.
        """
        found = {group.layer.attention for group in self.groups}
        beyond = sorted({text for attention in found for text in attention.beyond_plain})
        if beyond:
            raise ValueError(f"{user} knows plain softmax attention only; {self.name} has {', '.join(beyond)}")
        shapes = {(a.heads_q, a.heads_kv, a.head_dim_qk) for a in found if isinstance(a, SoftmaxAttention)}
        if len(shapes) > 1:
            heads = "; ".join(f"{q} query and {kv} key-value heads of {dim}" for q, kv, dim in sorted(shapes))
            raise ValueError(f"{user} knows one attention for all layers; {self.name} has {heads}")
        return next(a for a in found if isinstance(a, SoftmaxAttention))

    @property
    def heads_q(self) -> int:
        """The query heads of a model of plain softmax attention; ValueError for others."""
        return self.softmax_attention("heads_q").heads_q

    @property
    def heads_kv(self) -> int:
        """The key-value heads of a model of plain softmax attention; ValueError for others."""
        return self.softmax_attention("heads_kv").heads_kv

    @property
    def head_dim(self) -> int:
        """The elements of a head of a model of plain softmax attention; ValueError for others."""
        return self.softmax_attention("head_dim").head_dim_qk

    @property
    def intermediate(self) -> int:
        """The intermediate size of a model whose layers all have one gated MLP; ValueError for others."""
        found = {group.layer.feed_forward for group in self.groups}
        dense = [part for part in found if isinstance(part, Dense)]
        if len(found) != 1 or not dense:
            raise ValueError(f"intermediate knows one gated MLP for all layers; {self.name} has others")
        return dense[0].intermediate


def grouped(layers: Iterable[Layer]) -> tuple[LayerGroup, ...]:
    """Return equal layers together, the groups in the order of their first layer."""
    found: dict[Layer, list[int]] = {}
    for position, layer in enumerate(layers):
        found.setdefault(layer, []).append(position)
    return tuple(LayerGroup(layer, tuple(positions)) for layer, positions in found.items())
