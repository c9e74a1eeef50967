"""Decode attention: the newest tokens of every sequence against its KV cache, grouped-query heads, paged, split-KV.

A work item is one KV head of one sequence, or one part of at most `split_tokens` of it. Its rows are the query heads of
the group, for each of the `q_len` newest tokens: one, or as many as a draft proposes that are verified together. It
loads them and streams K and V tiles through `stages` buffers (`attention_phase`). With split-KV the items store fp32
partial results with their log-sum-exp, and a second phase merges them. With a window its tokens alone are loaded, tile
by tile from the first of them, wherever in a page that lies. The cache may be e4m3 (`attention_problem`), and values
longer or shorter than keys.

The layout of the KV cache is a knob in the notation of `layouts.catalog`; where SRAM lies beside the cores, so is its
place (`attention_placement`). Queries, results and partial results reside in the shared cache where a machine has one
and they fit: the kernels before and after have just touched them. Page-table entries cost issue cycles but no traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.assembler import PhaseAssembler, Region
from hwmodel.machine import Machine
from hwmodel.program import NONE, Phase, Program, Schedule, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS, contiguous_axis
from workloads.kernels.attention_parts import (
    CACHE_AXES,
    EPILOGUES,
    Attention,
    Columns,
    Extent,
    Places,
    cache_numbers,
    cache_tensors,
    combine_phase,
    edges,
    extra_tensors,
    first_pages,
    in_pages,
    seen,
    split,
    table_tensor,
)
from workloads.kernels.attention_phase import AttendPhase
from workloads.kernels.attention_placement import DEALT, PLACEMENTS, Homes
from workloads.kernels.attention_problem import (
    MODEL_SIZES,
    problem_sizes,
    products_knob,
    require_context,
    require_flags,
    require_products,
    require_types,
    types_of,
)
from workloads.kernels.base import check_knobs, knob
from workloads.kernels.gemm_grid import number_of
from workloads.model import Model
from workloads.page_orders import DRAWN_ORDERS
from workloads.placement import place
from workloads.schedule import beside, schedule

Q, KV, TABLE, OUT = range(4)
OPTIONAL = {"q_len": 1, "soft_cap": 0, "q_fp8": 0, **MODEL_SIZES}


@dataclass(frozen=True)
class Problem:
    """One layer's decode attention: `contexts` are the KV tokens of every sequence, the new ones among them.

    Every sequence has `q_len` new tokens, each of which sees itself and what comes before it: all of that, or the last
    `window` tokens. `sinks`: 1 where every query head has a logit that joins the denominator. `soft_cap`: scores
    stay within it; 0 for none. `head_dim_v`: the length of values, 0 for `head_dim`. `kv_dtype`: the type of the
    cache, "" for `dtype`; `q_fp8`: 1 where queries come quantised. Raises ValueError for a context shorter than
    `q_len`, a flag beyond 1, or types that do not go together.
    """

    heads_q: int
    heads_kv: int
    head_dim: int
    dtype: str
    contexts: tuple[int, ...]
    q_len: int = 1
    window: int = 0
    sinks: int = 0
    soft_cap: int = 0
    head_dim_v: int = 0
    kv_dtype: str = ""
    q_fp8: int = 0

    def __post_init__(self) -> None:
        require_context(self.contexts, self.q_len)
        require_flags(sinks=self.sinks)
        require_types(self)

    @property
    def group(self) -> int:
        return self.heads_q // self.heads_kv

    @property
    def dim_v(self) -> int:
        return self.head_dim_v or self.head_dim


@dataclass(frozen=True)
class Knobs:
    """What the search may choose."""

    layout: str = knob(
        "page kv token head dim",
        "where the KV cache of a layer lies, outermost first; kv: K or V, token: in its page",
        axes=CACHE_AXES,
    )
    page_size: int = knob(16, "tokens in a page", least=1)
    page_order: str = knob("shuffled", "how an allocator has dealt the pages", choices=DRAWN_ORDERS)
    tile: int = knob(64, "tokens of K and V in one load", least=1)
    stages: int = knob(4, "tiles of K and of V in flight", least=1)
    split_tokens: int = knob(0, "longest piece of a sequence that one core takes; 0: the whole sequence", least=0)
    schedule: str = knob(
        "static", "items dealt round, to the least loaded core, to a free one, or beside their cache", choices=DEALT
    )
    sram_layout: str = knob("swizzled", "where q, K, V, probabilities lie in the scratchpad", choices=OPERAND_LAYOUTS)
    epilogue: str = knob("overlapped", "the next item's loads run during an item's end, or wait", choices=EPILOGUES)
    products: str = products_knob()
    placement: str = knob(
        "interleaved", "where the cache lies: over all of memory, or beside cores", choices=PLACEMENTS
    )


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of one attention layer of `model` over `batch`, both required; `options` as in OPTIONAL.

    `window`, `sinks`, `head_dim_v` and the type of the cache are the model's where `options` do not give them.
    """
    return Problem(**problem_sizes("decode-attention", model, batch, options, (), OPTIONAL))


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, splits that split nothing."""
    check_knobs(knobs)
    longest = int(loaded_keys(problem)[1].max())
    return (
        *(repr(cache.layout.key) for cache in _caches(problem, knobs)),
        knobs.page_size,
        knobs.page_order,
        knobs.tile,
        knobs.stages,
        knobs.split_tokens if 0 < knobs.split_tokens < longest else 0,
        knobs.sram_layout,
        knobs.schedule,
        knobs.placement,
        knobs.epilogue,
        types_of(problem, knobs.products),
    )


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` draws the page order.
    """
    check_knobs(knobs)
    require_products(types_of(problem, knobs.products), machine)
    tasks = _tasks(problem, knobs)
    parts = len(tasks["owner"])
    is_split = parts > len(problem.contexts) * problem.heads_kv
    homes = Homes(problem.heads_kv, machine.spec.cores.count) if knobs.placement == "cores" else None
    wanted = _tensors(problem, knobs, seed, parts if is_split else 0, homes)
    tensors = homes.place(wanted, machine) if homes else place(wanted, machine)
    phases = [_attend(problem, knobs, machine, tensors, tasks, is_split)]
    machine.require_fit(phases[0], {"tile": knobs.tile, "stages": knobs.stages})
    if is_split:
        phases.append(_combine(problem, machine, tensors, tasks))
        machine.require_fit(phases[1], {"split_tokens": knobs.split_tokens})
    return Program("decode-attention", tensors, tuple(phases))


def loaded_keys(problem: Problem) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the first key of every sequence that is loaded, and how many are."""
    contexts = np.array(problem.contexts, np.int64)
    return seen(contexts - problem.q_len, contexts - 1, problem.window, 1, True, contexts)


def _caches(problem: Problem, knobs: Knobs, pages: int | None = None) -> tuple[Tensor, ...]:
    dims, dtype = (problem.head_dim, problem.dim_v), types_of(problem, knobs.products).kv
    return cache_tensors(knobs, problem.heads_kv, dims, dtype, problem.contexts, pages)


def _tensors(problem: Problem, knobs: Knobs, seed: int, parts: int, homes: Homes | None) -> list[Tensor]:
    types, contexts = types_of(problem, knobs.products), problem.contexts
    table = table_tensor(knobs, contexts, seed)
    pages = None
    if homes is not None:
        pages = homes.pages(contexts, knobs.page_size)
        table = homes.table(knobs.page_order, contexts, knobs.page_size, seed)
    cache, *more = _caches(problem, knobs, pages)
    sizes = {"token": len(problem.contexts) * problem.q_len, "head": problem.heads_q}
    q, out = (named("token head dim", sizes | {"dim": dim}) for dim in (problem.head_dim, problem.dim_v))
    tensors = [
        Tensor("q", q, types.q, NONE, "cache"),
        cache,
        table,
        Tensor("out", out, types.out, NONE, "cache"),
        *more,
    ]
    if parts:
        partial = {"part": parts, "row": problem.q_len * problem.group, "column": problem.dim_v + 1}
        tensors.append(Tensor("partial", named("part row column", partial), "fp32", NONE, "cache"))
    return tensors + extra_tensors(problem, types)


def _tasks(problem: Problem, knobs: Knobs) -> Columns:
    """Return the columns of the work items, ordered by sequence, head and part."""
    contexts = np.array(problem.contexts, np.int64)
    start, loaded = loaded_keys(problem)
    sequence = np.repeat(np.arange(len(contexts)), problem.heads_kv)
    owner, piece, skipped = split(loaded, knobs.split_tokens, sequence)
    sequence = sequence[owner]
    begin = start[sequence] + skipped
    tokens = loaded[sequence] - skipped
    tokens = np.minimum(tokens, knobs.split_tokens) if knobs.split_tokens else tokens
    last = contexts[sequence] - 1
    return {
        "owner": owner,
        "sequence": sequence,
        "head": owner % problem.heads_kv,
        "first_page": first_pages(problem.contexts, knobs.page_size)[sequence],
        "begin": begin,
        "tokens": tokens,
        "part": np.arange(len(owner)),
        "q_tokens": np.full(len(owner), problem.q_len),
        "sink": np.where(piece == 0, 1, 0),
        **edges(last - problem.q_len + 1, last, begin, tokens, knobs.tile, problem.window, True),
    }


def _rows(p: PhaseAssembler, problem: Problem, tensor: int) -> Region:
    """Return the rows of an item in q or in the result."""
    n, g = problem.q_len, problem.group
    return Region(tensor, {"token": (p.column("sequence") * n, n), "head": (p.column("head") * g, g)})


def _attend(
    problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...], tasks: Columns, is_split: bool
) -> Phase:
    p, g = PhaseAssembler("attend", tensors, tuple(tasks)), problem.group
    attention = Attention(
        heads=g,
        positions=problem.q_len,
        dim=problem.head_dim,
        dim_v=problem.dim_v,
        types=types_of(problem, knobs.products),
        tile=knobs.tile,
        stages=knobs.stages,
        sram_layout=knobs.sram_layout,
        window=problem.window,
        soft_cap=problem.soft_cap,
        sinks=problem.sinks == 1,
        partial=is_split,
        overlap=knobs.epilogue == "overlapped",
    )
    part = Region(number_of(tensors, "partial"), {"part": (p.column("part"), 1)})
    caches = cache_numbers(tensors)
    k, v = in_pages(p, caches, TABLE)
    places = Places(
        q=lambda lane: _rows(p, problem, Q),
        out=lambda lane: part if is_split else _rows(p, problem, OUT),
        k=k,
        v=v,
        sinks=Region(number_of(tensors, "sinks"), {"head": (p.column("head") * g, g)}),
        scales=Region(number_of(tensors, "scales"), {}),
        k_along=contiguous_axis(tensors[caches[0]], ("token", "dim")),
        v_along=contiguous_axis(tensors[caches[-1]], ("token", "dim")),
    )
    return AttendPhase(attention, p, tasks, places).write(machine, _order(problem, knobs, machine, tasks))


def _order(problem: Problem, knobs: Knobs, machine: Machine, tasks: Columns) -> Schedule:
    cores = machine.spec.cores.count
    if knobs.schedule == "beside":
        return beside(Homes(problem.heads_kv, cores).core(tasks["sequence"], tasks["head"]), cores)
    return schedule(knobs.schedule, tasks["tokens"], cores)


def _combine(problem: Problem, machine: Machine, tensors: tuple[Tensor, ...], tasks: Columns) -> Phase:
    """Merge the parts of every (sequence, head), by strips of heads or of positions so that all parts of one fit."""
    parts, n, g = np.bincount(tasks["owner"]), problem.q_len, problem.group
    first, most = np.cumsum(parts) - parts, int(parts.max())
    whole, unit = (g, 1) if n == 1 else (n, g)  # what is cut, and the rows of one
    strip = max(1, whole // most)
    owner, _, begin = split(np.full(len(parts), whole), strip, np.arange(len(parts)))
    columns = {
        "sequence": tasks["sequence"][first][owner],
        "head": tasks["head"][first][owner],
        "begin": begin,
        "strip": np.minimum(whole - begin, strip),
        "first": first[owner],
        "parts": parts[owner],
    }
    p = PhaseAssembler("combine", tensors, tuple(columns))
    here, head, token = (p.column("begin"), p.column("strip")), p.column("head") * g, p.column("sequence") * n
    rows = (here[0] * unit, here[1] * unit)
    there = {"part": (p.column("first"), p.column("parts")), "row": rows}
    if n == 1:
        to: dict[str, Extent] = {"token": (token, 1), "head": (head + here[0], here[1])}
    else:
        to = {"token": (token + here[0], here[1]), "head": (head, g)}
    places = Region(number_of(tensors, "partial"), there), Region(OUT, to)
    order = schedule("static", columns["parts"] * columns["strip"], machine.spec.cores.count)
    shape = strip * unit, problem.dim_v, problem.dtype
    return combine_phase(p, columns, most, shape, places, machine, order, rows[1])
