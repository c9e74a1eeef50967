"""Attention over a window of tokens and compressed entries (DeepSeek V4): tokens gathered as for `sparse_attention`.

The cache of a sequence is one, paged: first the tokens that a query still sees, then the entries, one per `ratio`
tokens; a key is also the value, for all heads. A query attends to the last `window` tokens and to entries whose tokens
all lie at or before it: all of them, or `top_k` that an indexer chose. A logit per head joins the denominator. That
window and entries are gathered through one list of positions, also where all entries are read, is how the published
code calls its one kernel (`sparse_attn` in inference/model.py of deepseek-ai/DeepSeek-V4-Flash).

Which entries are chosen decides the time, so they are known when a program is compiled: `compile` draws them,
`program` takes them as they come from an indexer. Not modelled: as for `sparse_attention`, and that the tokens of a
window go round in their places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.machine import Machine
from hwmodel.program import Deferred, Program, Values
from workloads.batch import Batch
from workloads.kernels.base import check_knobs, require_16_bit, require_options
from workloads.kernels.latent import Heads
from workloads.kernels.latent_cache import place_with
from workloads.kernels.queries import Queries, last_tokens
from workloads.kernels.sparse_attention import (
    Gathering,
    GatherKnobs,
    draw_positions,
    gather,
    gather_key,
    gather_pool,
    lengths,
    slots_of,
)
from workloads.model import Model

OPTIONS = ("heads",)
OPTIONAL = {"head_dim": 512, "rope": 64, "window": 128, "ratio": 0, "top_k": 0, "q_len": 0}  # DeepSeek V4

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Problem:
    """One layer's attention: `contexts` are the tokens of every sequence, of which the last `q_len` (0: all) are new.

    `ratio` tokens are one entry, 0: there are none; a query attends to `top_k` entries, 0: to all that it sees.
    """

    heads: Heads
    window: int
    ratio: int
    top_k: int
    q_len: int | tuple[int, ...]
    contexts: tuple[int, ...]

    @property
    def queries(self) -> Queries:
        """The new tokens."""
        return last_tokens(self.contexts, self.q_len)

    @property
    def kept(self) -> Array:
        """The tokens of every sequence that a query sees."""
        kept: Array = np.minimum(np.array(self.contexts), self.window - 1 + self.queries.lengths)
        return kept

    def entries(self, tokens: Array) -> Array:
        """Return how many entries stand for whole windows of so many tokens."""
        return tokens // self.ratio if self.ratio else np.zeros_like(tokens)

    @property
    def stored(self) -> tuple[int, ...]:
        """The tokens and entries in the cache of every sequence."""
        return tuple((self.kept + self.entries(np.array(self.contexts))).tolist())

    def seen(self) -> Array:
        """Return how many entries every query sees."""
        return self.entries(self.queries.position + 1)

    def attended(self) -> Array:
        """Return how many tokens and entries every query attends to."""
        seen = self.seen()
        tokens = np.minimum(self.queries.position + 1, self.window)
        attended: Array = tokens + (np.minimum(seen, self.top_k) if self.top_k else seen)
        return attended


@dataclass(frozen=True)
class Knobs(GatherKnobs):
    """What the search may choose."""


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of one layer over `batch`, which is required; a model gives the dtype only.

    Options: heads; head_dim (512) of which `rope` (64) are rotated, window (128), ratio of tokens to an entry (0: no
    entries), top_k entries per query (0: all), q_len new tokens per sequence (0: all).
    """
    sizes = require_options("compressed-attention", options, OPTIONS, OPTIONAL)
    if batch is None:
        raise ValueError("batch: kernel compressed-attention needs one, with a context or a trace")
    dim, rope = sizes["head_dim"], sizes["rope"]
    if rope > dim:
        raise ValueError(f"options: size rope is {rope}; allowed: up to head_dim, {dim}")
    dtype = require_16_bit("compressed-attention", model.dtype if model else "bf16")
    heads = heads_of(sizes["heads"], dim, rope, dtype)
    return Problem(heads, sizes["window"], sizes["ratio"], sizes["top_k"], sizes["q_len"], batch.contexts)


def heads_of(count: int, dim: int, rope: int, dtype: str) -> Heads:
    """Return `count` heads over keys of `dim` columns that are their own values, the last `rope` rotated."""
    return Heads(count, dim - rope, rope, dim, dim**-0.5, dtype)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, splits that split nothing."""
    return gather_key(problem.heads, problem.stored, int(problem.attended().max()), knobs)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program over entries that are drawn, where not all are attended to, when their slots are read.

    Raises ValueError as `program`. `seed` draws the page order and the entries.
    """
    check_knobs(knobs)
    place_with([], gather_pool(problem.heads, problem.stored, knobs), machine)  # before a hopeless size is listed
    slots = Deferred(_drawn_slots, (problem, knobs, seed))
    what = Gathering(problem.heads, problem.stored, problem.attended(), slots, sinks=True)
    return gather("compressed-attention", what, knobs, machine)


def program(problem: Problem, knobs: Knobs, machine: Machine, seed: int, entries: Sequence[Array]) -> Program:
    """Return the program over `entries`, the numbers of those that each query attends to, by sequence and query.

    Raises ValueError naming a knob that is out of range, entries that a query does not see, or what does not fit and by
    how much. `seed` draws the page order.
    """
    check_knobs(knobs)
    check_chosen(entries, problem.seen())
    positions = _positions(problem, entries)
    slots = slots_of(problem.stored, problem.queries.sequence, positions, knobs, seed)
    what = Gathering(problem.heads, problem.stored, lengths(positions), slots, sinks=True)
    return gather("compressed-attention", what, knobs, machine)


def _drawn_slots(problem: Problem, knobs: Knobs, seed: int) -> Values:
    """Return the slots of the tokens of the windows and of the entries that the knob `selection` draws."""
    rng = np.random.default_rng([seed, 1])  # apart from the stream of the page order
    seen = problem.seen()
    entries = draw_positions(seen, problem.top_k or seen, knobs.selection, rng)
    return slots_of(problem.stored, problem.queries.sequence, _positions(problem, entries), knobs, seed)


def _positions(problem: Problem, entries: Sequence[Array]) -> list[Array]:
    """Return where in its cache every query finds the tokens of its window, then its entries."""
    sequence, last = problem.queries.sequence, problem.queries.position
    kept = problem.kept[sequence]
    begin = np.array(problem.contexts)[sequence] - kept  # the first token that is still in the cache
    first = np.maximum(last - problem.window + 1, 0) - begin
    tokens = zip(first.tolist(), (last - begin + 1).tolist(), strict=True)
    return [
        np.concatenate([np.arange(*here), behind + chosen])
        for here, behind, chosen in zip(tokens, kept.tolist(), entries, strict=True)
    ]


def check_chosen(entries: Sequence[Array], seen: Array) -> None:
    """Raise ValueError unless there are entries for every query, each among those that it sees; there may be none."""
    if len(entries) != len(seen):
        raise ValueError(f"entries: {len(entries)} arrays; allowed: one for each of {len(seen)} queries")
    for query, (chosen, limit) in enumerate(zip(entries, seen.tolist(), strict=True)):
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= limit):
            ends = int(chosen.min()), int(chosen.max())
            raise ValueError(f"entries: query {query} has ends {ends}; allowed: from 0 to below {limit}")
