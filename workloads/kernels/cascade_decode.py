"""Cascade decode: sequences that begin with the same tokens attend to those once, together, then each to its own.

`sharing` sequences in a row have the first `prefix` tokens in common, in the same pages of the KV cache. The first
phase attends all of their queries to the prefix: its tiles of queries have the query heads of a group for several
sequences as rows, so that K and V of the prefix are loaded once for all of them. The second attends every sequence to
its own tokens as `decode_attention` does, and the third merges all parts by their log-sum-exps (Ye et al. 2024,
"Cascade Inference"; Juravsky et al. 2024, arXiv:2402.05099). Both of the first can split their tokens over cores.

Sequences have one new token each. Not modelled: windows, prefixes of prefixes, and a prefix whose sequences do not
stand in a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.assembler import PhaseAssembler, Region
from hwmodel.machine import Machine
from hwmodel.program import NONE, Phase, Program, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.buffers import contiguous_axis
from workloads.kernels import decode_attention
from workloads.kernels.attention_parts import (
    Attention,
    Columns,
    Places,
    cache_numbers,
    cache_tensors,
    combine_phase,
    edges,
    extra_tensors,
    first_pages,
    in_pages,
    split,
    table_tensor,
)
from workloads.kernels.attention_phase import AttendPhase
from workloads.kernels.attention_problem import (
    MODEL_SIZES,
    problem_sizes,
    require_flags,
    require_products,
    require_types,
    types_of,
)
from workloads.kernels.base import check_knobs, knob
from workloads.kernels.gemm_grid import number_of
from workloads.model import Model
from workloads.numbering import within_owners
from workloads.placement import place
from workloads.schedule import schedule

Q, KV, TABLE, OUT, PARTIAL = range(5)
REQUIRED = ("prefix",)
OPTIONAL = {"sharing": 0, "soft_cap": 0, "q_fp8": 0} | {name: 0 for name in MODEL_SIZES if name != "window"}


@dataclass(frozen=True)
class Problem:
    """One layer's decode attention over `contexts` tokens per sequence, the first `prefix` of them shared.

    `sharing`: how many sequences in a row share a prefix, 0 for all; the last of them may be fewer. The others as for
    decode attention. Raises ValueError for a sequence without a token of its own, a flag beyond 1, or types that do
    not go together.
    """

    heads_q: int
    heads_kv: int
    head_dim: int
    dtype: str
    contexts: tuple[int, ...]
    prefix: int
    sharing: int = 0
    sinks: int = 0
    soft_cap: int = 0
    head_dim_v: int = 0
    kv_dtype: str = ""
    q_fp8: int = 0

    def __post_init__(self) -> None:
        require_flags(sinks=self.sinks)
        require_types(self)
        for sequence, context in enumerate(self.contexts):
            if context <= self.prefix:
                allowed = f"more than the prefix ({self.prefix})"
                raise ValueError(f"batch: sequence {sequence}: context is {context}; allowed: {allowed}")

    @property
    def group(self) -> int:
        return self.heads_q // self.heads_kv

    @property
    def dim_v(self) -> int:
        return self.head_dim_v or self.head_dim

    @property
    def together(self) -> int:
        """How many sequences share a prefix."""
        return min(self.sharing or len(self.contexts), len(self.contexts))

    @property
    def prefixes(self) -> int:
        return -(-len(self.contexts) // self.together)

    @property
    def runs(self) -> tuple[int, ...]:
        """The tokens of what lies in pages of its own: the prefixes, then what each sequence has for itself."""
        return (self.prefix,) * self.prefixes + tuple(context - self.prefix for context in self.contexts)


@dataclass(frozen=True)
class Knobs(decode_attention.Knobs):
    """What the search may choose: as for decode attention, `split_tokens` for what a sequence has for itself."""

    tile_q: int = knob(64, "rows of a tile of queries of the prefix: sequences times heads of a group", least=1)
    split_prefix: int = knob(0, "longest piece of a prefix that one core takes; 0: the whole prefix", least=0)


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of one attention layer of `model` over `batch`, both required; `options` has `prefix`."""
    return Problem(**problem_sizes("cascade-decode", model, batch, options, REQUIRED, OPTIONAL))


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, splits that split nothing."""
    longest = max(problem.contexts) - problem.prefix
    return (
        *(repr(cache.layout.key) for cache in _caches(problem, knobs)),
        knobs.page_size,
        knobs.page_order,
        knobs.tile,
        knobs.stages,
        knobs.split_tokens if 0 < knobs.split_tokens < longest else 0,
        knobs.split_prefix if 0 < knobs.split_prefix < problem.prefix else 0,
        _sequences(problem, knobs),
        knobs.sram_layout,
        knobs.schedule,
        knobs.epilogue,
        types_of(problem, knobs.products),
    )


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` draws the page order.
    """
    check_knobs(knobs)
    require_products(types_of(problem, knobs.products), machine)
    _sequences(problem, knobs)
    shared, own = _prefix_tasks(problem, knobs), _own_tasks(problem, knobs)
    parts = int(own["part"].max()) + 1
    tensors = place(_tensors(problem, knobs, seed, parts), machine)
    phases = (
        _attend("attend to prefixes", problem, knobs, machine, tensors, shared),
        _attend("attend", problem, knobs, machine, tensors, own),
        _combine(problem, machine, tensors, own),
    )
    machine.require_fit(phases[0], {"tile_q": knobs.tile_q, "tile": knobs.tile, "stages": knobs.stages})
    machine.require_fit(phases[1], {"tile": knobs.tile, "stages": knobs.stages})
    machine.require_fit(phases[2], {"split_tokens": knobs.split_tokens, "split_prefix": knobs.split_prefix})
    return Program("cascade-decode", tensors, phases)


def _sequences(problem: Problem, knobs: Knobs) -> int:
    """Return of how many sequences a tile has queries. Raises ValueError where it has no room for one."""
    if knobs.tile_q < problem.group:
        raise ValueError(f"tile_q: {knobs.tile_q}; allowed: at least the {problem.group} query heads of a group")
    return min(knobs.tile_q // problem.group, problem.together)


def _caches(problem: Problem, knobs: Knobs) -> tuple[Tensor, ...]:
    dtype = types_of(problem, knobs.products).kv
    return cache_tensors(knobs, problem.heads_kv, (problem.head_dim, problem.dim_v), dtype, problem.runs)


def _tensors(problem: Problem, knobs: Knobs, seed: int, parts: int) -> list[Tensor]:
    types, (cache, *more) = types_of(problem, knobs.products), _caches(problem, knobs)
    sequences, kv, g = len(problem.contexts), problem.heads_kv, problem.group
    rows = {"token": sequences, "head": problem.heads_q}
    q, out = (named("token head dim", rows | {"dim": dim}) for dim in (problem.head_dim, problem.dim_v))
    sizes = {"token": sequences, "head": kv, "part": parts, "row": g, "column": problem.dim_v + 1}
    return [
        Tensor("q", q, types.q, NONE, "cache"),
        cache,
        table_tensor(knobs, problem.runs, seed),
        Tensor("out", out, types.out, NONE, "cache"),
        Tensor("partial", named("token head part row column", sizes), "fp32", NONE, "cache"),
        *more,
        *extra_tensors(problem, types),
    ]


def _prefix_tasks(problem: Problem, knobs: Knobs) -> Columns:
    """Return the columns of the first phase, ordered by prefix, tile of sequences, head and part."""
    starts = np.arange(problem.prefixes) * problem.together
    sequences, most = np.minimum(len(problem.contexts) - starts, problem.together), _sequences(problem, knobs)
    tiles, limit = -(-sequences // most), knobs.split_prefix or problem.prefix
    owner, number = within_owners(tiles)
    skipped = number * most
    pieces = -(-problem.prefix // limit)
    tile, head, piece = np.indices((len(owner), problem.heads_kv, pieces)).reshape(3, -1)
    owner, skipped = owner[tile], skipped[tile]
    columns = {
        "token": starts[owner] + skipped,
        "q_tokens": np.minimum(sequences[owner] - skipped, most),
        "head": head,
        "first_page": first_pages(problem.runs, knobs.page_size)[owner],
        "begin": piece * limit,
        "tokens": np.minimum(problem.prefix - piece * limit, limit),
        "part": piece,
        "sink": np.where(piece == 0, 1, 0),
    }
    return columns | _unmasked(columns, knobs)


def _own_tasks(problem: Problem, knobs: Knobs) -> Columns:
    """Return the columns of the second phase, ordered by sequence, head and part."""
    tokens = np.array(problem.runs[problem.prefixes :], np.int64)
    before = -(-problem.prefix // (knobs.split_prefix or problem.prefix))
    sequence = np.repeat(np.arange(len(tokens)), problem.heads_kv)
    owner, piece, begin = split(tokens, knobs.split_tokens, sequence)
    sequence = sequence[owner]
    left = tokens[sequence] - begin
    columns = {
        "token": sequence,
        "q_tokens": np.ones_like(sequence),
        "head": owner % problem.heads_kv,
        "first_page": first_pages(problem.runs, knobs.page_size)[problem.prefixes + sequence],
        "begin": begin,
        "tokens": np.minimum(left, knobs.split_tokens) if knobs.split_tokens else left,
        "part": before + piece,
        "sink": np.zeros_like(sequence),
    }
    return columns | _unmasked(columns, knobs)


def _unmasked(columns: Columns, knobs: Knobs) -> Columns:
    begin, tokens = columns["begin"], columns["tokens"]
    return edges(begin, begin, begin, tokens, knobs.tile, 0, False)


def _attend(
    name: str, problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...], tasks: Columns
) -> Phase:
    p, g = PhaseAssembler(name, tensors, tuple(tasks)), problem.group
    attention = Attention(
        heads=g,
        positions=int(tasks["q_tokens"].max()),
        dim=problem.head_dim,
        dim_v=problem.dim_v,
        types=types_of(problem, knobs.products),
        tile=knobs.tile,
        stages=knobs.stages,
        sram_layout=knobs.sram_layout,
        soft_cap=problem.soft_cap,
        sinks=bool(problem.sinks and tasks["sink"].any()),
        partial=True,
        overlap=knobs.epilogue == "overlapped",
    )
    token, head = (p.column("token"), p.column("q_tokens")), p.column("head")
    caches = cache_numbers(tensors)
    k, v = in_pages(p, caches, TABLE)
    partial = Region(PARTIAL, {"token": token, "head": (head, 1), "part": (p.column("part"), 1)})
    places = Places(
        q=lambda lane: Region(Q, {"token": token, "head": (head * g, g)}),
        out=lambda lane: partial,
        k=k,
        v=v,
        sinks=Region(number_of(tensors, "sinks"), {"head": (head * g, g)}),
        scales=Region(number_of(tensors, "scales"), {}),
        k_along=contiguous_axis(tensors[caches[0]], ("token", "dim")),
        v_along=contiguous_axis(tensors[caches[-1]], ("token", "dim")),
    )
    costs = tasks["tokens"] * tasks["q_tokens"]
    order = schedule(knobs.schedule, costs, machine.spec.cores.count)
    return AttendPhase(attention, p, tasks, places).write(machine, order)


def _combine(problem: Problem, machine: Machine, tensors: tuple[Tensor, ...], own: Columns) -> Phase:
    """Merge the parts of every (sequence, head): those of its prefix and its own."""
    last = np.flatnonzero(np.append(np.diff(own["part"]) <= 0, True))  # of each sequence and head
    columns = {"token": own["token"][last], "head": own["head"][last], "parts": own["part"][last] + 1}
    p, g = PhaseAssembler("combine", tensors, tuple(columns)), problem.group
    token, head = (p.column("token"), 1), p.column("head")
    partials = Region(PARTIAL, {"token": token, "head": (head, 1), "part": (0, p.column("parts"))})
    places = partials, Region(OUT, {"token": token, "head": (head * g, g)})
    parts = columns["parts"]
    order = schedule("static", parts, machine.spec.cores.count)
    return combine_phase(p, columns, int(parts.max()), (g, problem.dim_v, problem.dtype), places, machine, order)
