"""MLA decode: `q_len` query tokens per sequence against its paged latent cache, absorbed, split-KV.

All heads share one key of rank + rope columns per token, whose first columns are its value, so a row of the matrix unit
is a head of a query token, and a work item a tile of `head_tile` of the q_len x heads rows of one sequence, over the
whole sequence or a part of at most `split_tokens` of it. Each item reads its tokens for itself: sequences of more rows
than `head_tile` are read several times. Query tokens are the last of their sequence; an item walks the tokens that its
last query sees: what comes later is masked for the others, and belongs to the last part. Parts are merged in a second
phase.

The absorbed queries come in and the weighted sums of latents go out; the two projections are matrix products of their
own. The cache of one layer is plain, with a layout for the axes page, token, dim as a knob, or one of the records
of `latent_cache`. Queries, results and partial results reside in the shared cache where a machine has one and they fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.machine import Machine
from hwmodel.program import NONE, Program, Tensor
from layouts.notation import named
from workloads import paging
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS
from workloads.kernels.attention_parts import first_pages, table_tensor
from workloads.kernels.base import check_knobs, knob, knob_layout, require_16_bit, require_options
from workloads.kernels.latent import Attend, Heads, Plan, combine
from workloads.kernels.latent_cache import RECORDS, Pool, check_record, place_with, plain_pool, record_pool
from workloads.kernels.model_sizes import absorbed
from workloads.model import Model
from workloads.numbering import within_owners
from workloads.page_orders import DRAWN_ORDERS
from workloads.schedule import SCHEDULES, schedule

Array = np.ndarray[Any, Any]

OPTIONS = ("heads",)
OPTIONAL = {"q_len": 1, "rank": 512, "rope": 64, "nope": 128, "value": 0}  # DeepSeek V3; value 0: rank


@dataclass(frozen=True)
class Problem:
    """One layer's decode attention: `contexts` are the KV tokens of every sequence, the `q_len` queries included."""

    heads: Heads
    q_len: int
    contexts: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Query rows of a sequence, query by query."""
        return self.q_len * self.heads.count


@dataclass(frozen=True)
class Knobs:
    """What the search may choose."""

    record: str = knob("plain", "the cache in the queries' type, or a record with eight-bit values", choices=RECORDS)
    layout: str = knob(
        "page token dim", "where a plain cache lies, outermost first; token: in its page", axes="page, token, dim"
    )
    page_size: int = knob(64, "tokens in a page", least=1)
    page_order: str = knob("shuffled", "how an allocator has dealt the pages", choices=DRAWN_ORDERS)
    head_tile: int = knob(64, "rows (heads of query tokens) that one core takes", least=1)
    tile: int = knob(64, "tokens in one load", least=1)
    stages: int = knob(3, "tiles of the cache in flight: scores of one, weighted sum of the one before", least=2)
    split_tokens: int = knob(0, "longest piece of a sequence that one core takes; 0: the whole sequence", least=0)
    strip: int = knob(0, "rows of a result that are stored at a time; 0: all of an item", least=0)
    queries: int = knob(2, "blocks of queries in flight", least=1)
    schedule: str = knob("static", "items dealt round, to the least loaded core, or to a free one", choices=SCHEDULES)
    sram_layout: str = knob("swizzled", "where operands lie in the scratchpad", choices=OPERAND_LAYOUTS)


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of one layer over `batch`, which is required; a model gives sizes and dtype.

    Options: heads; q_len tokens per sequence (1), rank and rope columns of a key (512, 64), columns of a value (those
    of rank), and nope, what the expanded heads have beside rope (128), for the scale 1/√(nope + rope).
    """
    sizes = require_options("mla-decode", options, OPTIONS, OPTIONAL, absorbed(model) if model else {})
    heads = heads_of("mla-decode", sizes, model)
    if batch is None:
        raise ValueError("batch: kernel mla-decode needs one, with a context or a trace")
    check_queries(sizes["q_len"], batch.contexts)
    return Problem(heads, sizes["q_len"], batch.contexts)


def heads_of(kernel: str, sizes: Mapping[str, int], model: Model | None) -> Heads:
    """Return the heads of sizes heads, rank, rope, nope and value. Raises ValueError for a value beyond the key."""
    rank, rope, value = sizes["rank"], sizes["rope"], sizes["value"] or sizes["rank"]
    if value > rank + rope:
        raise ValueError(f"options: size value is {value}; allowed: up to rank + rope, {rank + rope}")
    dtype = require_16_bit(kernel, model.dtype if model else "bf16")
    return Heads(sizes["heads"], rank, rope, value, (sizes["nope"] + rope) ** -0.5, dtype)


def check_queries(q_len: int, contexts: tuple[int, ...]) -> None:
    """Raise ValueError where a sequence is shorter than its queries."""
    for sequence, context in enumerate(contexts):
        if context < q_len:
            raise ValueError(f"batch: sequence {sequence} has {context} tokens; allowed: at least its q_len, {q_len}")


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, splits that split nothing."""
    check_knobs(knobs)
    longest = int(seen_by_tiles(problem, min(knobs.head_tile, problem.rows))[0].max())
    split = knobs.split_tokens if 0 < knobs.split_tokens < longest else 0
    pool = _pool(problem, knobs)
    return (
        *(repr(tensor.layout.key) for tensor in pool.tensors),
        knobs.record,
        knobs.page_size,
        knobs.page_order,
        min(knobs.head_tile, problem.rows),
        knobs.tile,
        knobs.stages,
        split,
        0 if knobs.strip >= min(knobs.head_tile, problem.rows) else knobs.strip,
        knobs.queries,
        knobs.sram_layout,
        knobs.schedule,
    )


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` draws the page order.
    """
    check_knobs(knobs)
    check_record(knobs.record, problem.heads.dim, problem.heads.dtype)
    pool = _pool(problem, knobs)
    tasks = work_items(problem, knobs)
    rows = min(knobs.head_tile, problem.rows)
    parts = len(tasks["owner"])
    split = parts > len(problem.contexts) * -(-problem.rows // rows)
    tensors = place_with(_tensors(problem, knobs, seed, parts if split else 0, rows), pool, machine)
    causal = problem.q_len > 1
    plan = Plan(
        rows, knobs.tile, knobs.stages, knobs.sram_layout, knobs.record, "page", "token", causal=causal, split=split,
        strip=knobs.strip, queries=knobs.queries,
    )  # fmt: skip
    order = schedule(knobs.schedule, tasks["tokens"], machine.spec.cores.count)
    phases = [Attend(problem.heads, plan, machine, tensors, tasks).finish(order)]
    machine.require_fit(phases[0], {"head_tile": knobs.head_tile, "tile": knobs.tile, "stages": knobs.stages})
    if split:
        phases.append(combine(problem.heads, rows, machine, tensors, tasks))
        machine.require_fit(phases[1], {"split_tokens": knobs.split_tokens, "head_tile": knobs.head_tile})
    return Program("mla-decode", tensors, tuple(phases))


def _pool(problem: Problem, knobs: Knobs) -> Pool:
    pages = paging.pool_pages(knobs.page_order, problem.contexts, knobs.page_size)
    if knobs.record != "plain":
        return record_pool(knobs.record, pages, knobs.page_size)
    sizes = {"page": pages, "token": knobs.page_size, "dim": problem.heads.dim}
    return plain_pool(knob_layout(knobs, "layout", sizes), problem.heads.dtype)


def _tensors(problem: Problem, knobs: Knobs, seed: int, parts: int, rows: int) -> list[Tensor]:
    """Return all tensors but the cache's; rows are those of all sequences, by sequence, query and head."""
    heads, count = problem.heads, len(problem.contexts) * problem.rows
    tensors = [
        Tensor("q", named("row dim", {"row": count, "dim": heads.dim}), heads.dtype, NONE, "cache"),
        table_tensor(knobs, problem.contexts, seed),
        Tensor("out", named("row dim", {"row": count, "dim": heads.value_dim}), heads.dtype, NONE, "cache"),
    ]
    if parts:
        sizes = {"part": parts, "row": rows, "column": heads.value_dim + 1}
        tensors.append(Tensor("partial", named("part row column", sizes), "fp32", NONE, "cache"))
    return tensors


def work_items(problem: Problem, knobs: Knobs) -> dict[str, Array]:
    """Return the columns of the work items, ordered by sequence, tile of rows and part.

    Parts are cut from the tokens that every query of the tile sees, so that no row of a part sees nothing; the last
    part also has those behind them that its last query sees. `visible`: tokens of the part that the first query of the
    sequence sees, less than none where they begin behind it.
    """
    contexts, rows = np.array(problem.contexts, np.int64), min(knobs.head_tile, problem.rows)
    seen, ahead = seen_by_tiles(problem, rows)
    limit, per_sequence = knobs.split_tokens or int(seen.max()), seen.shape[1]
    owner, part = within_owners(-(-seen.reshape(-1) // limit))
    begin = part * limit
    sequence, tile_of_rows = np.divmod(owner, per_sequence)
    first_row, left = tile_of_rows * rows, seen.reshape(-1)[owner] - begin
    tokens = np.where(left > limit, limit, left + ahead[tile_of_rows])
    return {
        "owner": owner,
        "row": sequence * problem.rows + first_row,
        "rows": np.minimum(problem.rows - first_row, rows),
        "first row": first_row,
        "first": first_pages(problem.contexts, knobs.page_size)[sequence],
        "begin": begin,
        "tokens": tokens,
        "visible": contexts[sequence] - problem.q_len + 1 - begin,
        "tiles": -(-tokens // knobs.tile),
        "part": np.arange(len(owner)),
    }


def seen_by_tiles(problem: Problem, rows: int) -> tuple[Array, Array]:
    """Return how many tokens all queries of each tile of rows see, int64[sequence, tile], and how many more its last.

    The latter int64[tile].
    """
    contexts, first = np.array(problem.contexts, np.int64), np.arange(0, problem.rows, rows)
    last = np.minimum(first + rows, problem.rows) - 1
    first_query, last_query = first // problem.heads.count, last // problem.heads.count
    return (contexts - problem.q_len + 1)[:, None] + first_query, last_query - first_query
