"""Attention over compressed entries and a window (DeepSeek V4), and what its compressors keep.

A token's key is also its value, one head of `head_dim` for all query heads. Every layer attends the newest `window`
of them; most attend also entries that a compressor pools from `ratio` tokens each: all entries (heavily compressed),
or those that an indexer chose by keys pooled alike (compressed sparse attention).
Source: src/transformers/models/deepseek_v4/modular_deepseek_v4.py of huggingface/transformers.

Not modelled: the reference's fp8 cache with bf16 rotary channels, which takes 584 bytes an entry of 512.
"""

from __future__ import annotations

from dataclasses import dataclass

from workloads.model.attention import FP32_BYTES, Indexer
from workloads.model.fields import check_part


@dataclass(frozen=True)
class Compressor:
    """Pools `ratio` tokens into one entry of `head_dim`; `overlap`: over the `ratio` tokens before, too."""

    hidden: int
    head_dim: int
    ratio: int
    overlap: bool

    def __post_init__(self) -> None:
        check_part(self)
        if self.head_dim % self.ratio:
            raise ValueError(f"compress ratio is {self.ratio}; allowed: a divisor of the width ({self.head_dim})")

    @property
    def width(self) -> int:
        """The channels projected per token: those of its own window, and with overlap those of the next."""
        return self.head_dim * (2 if self.overlap else 1)

    @property
    def parameters(self) -> int:
        """The projections of entries and their gates, the bias per position in a window, the norm."""
        return 2 * self.hidden * self.width + self.ratio * self.width + self.head_dim

    @property
    def kv_elements_per_token(self) -> int:
        """The elements of an entry, spread over the tokens that it stands for."""
        return self.head_dim // self.ratio

    @property
    def state_bytes(self) -> int:
        """The projected tokens and gates that wait for a full window, in fp32 as DeepSeek's inference code has them."""
        tokens = self.ratio * (2 if self.overlap else 1)
        return 2 * tokens * self.width * FP32_BYTES


@dataclass(frozen=True)
class CompressedAttention:
    """Multi-query attention over a window and over compressed entries, with a grouped low-rank output projection.

    The output of the heads is projected in `out_groups` groups to `out_rank` channels each, those together to
    `hidden`. `compressor` None: the window alone. `index_compressor` pools the keys of the `indexer`.
    """

    hidden: int
    heads: int
    head_dim: int
    rope_dim: int
    q_rank: int
    out_groups: int
    out_rank: int
    window: int
    compressor: Compressor | None = None
    indexer: Indexer | None = None
    index_compressor: Compressor | None = None

    def __post_init__(self) -> None:
        check_part(self)
        if self.heads % self.out_groups:
            raise ValueError(f"o_groups is {self.out_groups}; allowed: a divisor of the heads ({self.heads})")

    @property
    def kind(self) -> str:
        """Return the name of the kind."""
        if self.compressor is None:
            return "sliding_shared_kv_attention"
        return "heavily_compressed_attention" if self.indexer is None else "compressed_sparse_attention"

    @property
    def compressors(self) -> tuple[Compressor, ...]:
        """The compressors there are."""
        return tuple(part for part in (self.compressor, self.index_compressor) if part is not None)

    @property
    def parameters(self) -> int:
        """The weights of the projections, their two norms, a sink per head, the compressors and the indexer."""
        q = self.q_rank * (self.hidden + 1 + self.heads * self.head_dim)
        kv = self.head_dim * (self.hidden + 1)
        out = self.heads * self.head_dim * self.out_rank + self.out_groups * self.out_rank * self.hidden
        index = self.indexer.query_parameters if self.indexer else 0
        return q + kv + out + self.heads + index + sum(part.parameters for part in self.compressors)

    @property
    def kv_elements_per_token(self) -> int:
        """The share of a compressed entry and of a compressed index key; the window grows no further."""
        return sum(part.kv_elements_per_token for part in self.compressors)

    @property
    def window_kv_elements(self) -> int:
        """The elements of a full window; key and value are one tensor."""
        return self.window * self.head_dim

    def kv_elements(self, context: int) -> int:
        """Return the cached elements of a sequence of `context` tokens: of the window, and of entries complete."""
        entries = sum(context // part.ratio * part.head_dim for part in self.compressors)
        return min(context, self.window) * self.head_dim + entries

    @property
    def state_bytes(self) -> int:
        """The bytes that wait in the compressors."""
        return sum(part.state_bytes for part in self.compressors)

    @property
    def beyond_plain(self) -> tuple[str, ...]:
        """The window, the sinks, keys that are values, the compressed entries and their choice."""
        found = [f"a sliding window of {self.window} tokens", "attention sinks", "keys that are also the values"]
        if self.compressor is not None:
            found.append(f"entries compressed from {self.compressor.ratio} tokens")
        if self.indexer is not None:
            found.append(f"an indexer that chooses {self.indexer.top_k} entries")
        return tuple(found)
