"""The token mixer of a layer: the shapes a kernel takes from it, its weights, and what it keeps per sequence.

One frozen class per kind: softmax over cached keys and values (MHA, GQA, MQA, windows, chunks), latent attention
(MLA), its sparse form with an indexer, attention over compressed entries (DeepSeek V4), linear attention with a
recurrent state (gated delta rule, KDA).  Each says

* `parameters`: its weights, all projections included;
* `kv_elements_per_token`: the elements each further token of a long sequence adds to the cache;
* `window_kv_elements`: the elements of a full window, which grow no further;
* `kv_elements(context)`: the elements of a sequence of that length, both together;
* `state_bytes`: what a sequence keeps at any length, in types of its own;
* `beyond_plain`: what it does besides softmax attention over the whole context, in words.

Not modelled: positions, scales of quantised caches, padding of pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from workloads.model.fields import check_part

QkNorm = Literal["none", "head", "layer"]
FP32_BYTES = 4


class Attention(Protocol):
    """What every token mixer says of itself."""

    @property
    def hidden(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def parameters(self) -> int: ...
    @property
    def kv_elements_per_token(self) -> int: ...
    @property
    def window_kv_elements(self) -> int: ...
    def kv_elements(self, context: int) -> int: ...
    @property
    def state_bytes(self) -> int: ...
    @property
    def beyond_plain(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class SoftmaxAttention:
    """Softmax attention; `heads_q // heads_kv` query heads share a key-value head.

    `window`: the newest tokens a query sees; `chunked`: it sees those since the last multiple of `window` instead.
    `qk_norm`: norms with a weight per channel of one head ("head") or of all heads ("layer"). `gate`: a gate per
    channel of the output, projected beside the queries. `shared_kv`: one projection gives keys and values, which are
    cached apart.
    """

    hidden: int
    heads_q: int
    heads_kv: int
    head_dim_qk: int
    head_dim_v: int
    window: int | None = None
    chunked: bool = False
    qk_norm: QkNorm = "none"
    bias_qkv: bool = False
    bias_out: bool = False
    sinks: bool = False
    gate: bool = False
    shared_kv: bool = False

    def __post_init__(self) -> None:
        check_part(self)
        if self.heads_q % self.heads_kv:
            raise ValueError(f"heads_kv is {self.heads_kv}; allowed: a divisor of heads_q ({self.heads_q})")

    @property
    def kind(self) -> str:
        """Return the name of the kind."""
        if self.window is None:
            return "full_attention"
        return "chunked_attention" if self.chunked else "sliding_attention"

    @property
    def projected(self) -> int:
        """The channels that are projected from the hidden state: queries, their gates, keys and values."""
        gate = self.heads_q * self.head_dim_v if self.gate else 0
        v = 0 if self.shared_kv else self.heads_kv * self.head_dim_v
        return (self.heads_q + self.heads_kv) * self.head_dim_qk + gate + v

    @property
    def norm_parameters(self) -> int:
        """The weights of the norms of queries and keys."""
        layer = (self.heads_q + self.heads_kv) * self.head_dim_qk
        return {"none": 0, "head": 2 * self.head_dim_qk, "layer": layer}[self.qk_norm]

    @property
    def parameters(self) -> int:
        """The weights of the projections, biases, norms and sinks."""
        out = self.heads_q * self.head_dim_v
        biases = (self.projected if self.bias_qkv else 0) + (self.hidden if self.bias_out else 0)
        weights = self.hidden * (self.projected + out) + biases + self.norm_parameters
        return weights + (self.heads_q if self.sinks else 0)

    @property
    def kv_elements_per_cached_token(self) -> int:
        """The elements of a key and a value over the key-value heads."""
        return self.heads_kv * (self.head_dim_qk + self.head_dim_v)

    @property
    def kv_elements_per_token(self) -> int:
        """The elements a further token adds; none once the window is full."""
        return self.kv_elements_per_cached_token if self.window is None else 0

    @property
    def window_kv_elements(self) -> int:
        """The elements of a full window."""
        return self.kv_elements_per_cached_token * (self.window or 0)

    def kv_elements(self, context: int) -> int:
        """Return the cached elements of a sequence of `context` tokens."""
        tokens = context if self.window is None else min(context, self.window)
        return self.kv_elements_per_cached_token * tokens

    @property
    def state_bytes(self) -> int:
        """None: all it keeps are keys and values."""
        return 0

    @property
    def beyond_plain(self) -> tuple[str, ...]:
        """Windows, sinks, and keys and values of different widths."""
        found = []
        if self.window is not None:
            found.append(f"{'chunks' if self.chunked else 'a sliding window'} of {self.window} tokens")
        if self.sinks:
            found.append("attention sinks")
        if self.head_dim_qk != self.head_dim_v:
            found.append(f"keys of {self.head_dim_qk} and values of {self.head_dim_v} elements")
        return tuple(found)


@dataclass(frozen=True)
class Indexer:
    """The lightning indexer of sparse attention: scores every cached key, keeps the `top_k` best for a query.

    `rank` is the width its queries are projected from.  Source: Indexer in inference/model.py of
    deepseek-ai/DeepSeek-V3.2-Exp (wq_b, wk, k_norm with a bias, weights_proj).
    """

    hidden: int
    rank: int
    heads: int
    head_dim: int
    top_k: int

    def __post_init__(self) -> None:
        check_part(self)

    @property
    def query_parameters(self) -> int:
        """The weights of its queries and of the heads' weights."""
        return self.rank * self.heads * self.head_dim + self.hidden * self.heads

    @property
    def parameters(self) -> int:
        """All its weights, where its keys are a projection of the hidden state and a LayerNorm."""
        return self.query_parameters + self.hidden * self.head_dim + 2 * self.head_dim


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention: the cache holds one latent and one rotary key per token, for all heads.

    `q_rank` None: queries are projected directly. With an `indexer`, a query attends the tokens it chose, and its
    keys are cached beside the latent, counted here in the type of the cache (DeepSeek's own code keeps them in fp8
    with an fp32 scale per 128).  Source: MLA in inference/model.py of deepseek-ai/DeepSeek-V3.
    """

    hidden: int
    heads: int
    q_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int
    indexer: Indexer | None = None

    def __post_init__(self) -> None:
        check_part(self, "rope_dim")  # 0 where no key has a position

    @property
    def kind(self) -> str:
        """Return the name of the kind."""
        return "latent_attention" if self.indexer is None else "sparse_latent_attention"

    @property
    def parameters(self) -> int:
        """The weights of the down- and up-projections, the two norms between them, and the indexer."""
        q_dim = self.heads * (self.nope_dim + self.rope_dim)
        q = self.hidden * q_dim if self.q_rank is None else self.q_rank * (self.hidden + 1 + q_dim)
        kv = self.hidden * (self.kv_rank + self.rope_dim) + self.kv_rank
        kv += self.kv_rank * self.heads * (self.nope_dim + self.v_dim)
        out = self.heads * self.v_dim * self.hidden
        return q + kv + out + (self.indexer.parameters if self.indexer else 0)

    @property
    def kv_elements_per_token(self) -> int:
        """The latent, the rotary key and the indexer's key."""
        return self.kv_rank + self.rope_dim + (self.indexer.head_dim if self.indexer else 0)

    @property
    def window_kv_elements(self) -> int:
        """None."""
        return 0

    def kv_elements(self, context: int) -> int:
        """Return the cached elements of a sequence of `context` tokens."""
        return self.kv_elements_per_token * context

    @property
    def state_bytes(self) -> int:
        """None."""
        return 0

    @property
    def beyond_plain(self) -> tuple[str, ...]:
        """A latent cache, and with an indexer a choice of tokens."""
        sparse = () if self.indexer is None else (f"an indexer that chooses {self.indexer.top_k} tokens",)
        return ("latent attention", *sparse)
