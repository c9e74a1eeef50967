"""The indexer of sparse attention: scores of all keys for `q_len` queries per sequence, then the top-k positions.

A key stands for a token, or for `ratio` tokens that were compressed to one entry. Phase one scores: a work item is up
to `query_tile` queries of one sequence over all keys that the last of them sees, or a part of at most `split_tokens` of
these. It streams tiles of index keys, multiplies them with the rows of all index heads of its queries, and the vector
unit sums the weighted positive products over the heads; scores go to memory in fp32, one row per query. Phase two
selects: a work item is one query; it streams its scores in pieces of `select_tile` and keeps the best. Queries are the
last tokens of their sequence, or all of them, and see the keys whose tokens lie before them or are themselves.
Positions are written in ascending order; a query that sees fewer than `top_k` keys writes all of them.

Keys are plain, with a layout as a knob, or e4m3 with a scale per token (`layouts.catalog.mla.indexer_fp8`), which then
meet e4m3 queries whose scales are in the weights. Queries, weights, scores and positions reside in the shared cache
where a machine has one and they fit. Not modelled: writing new keys, and selecting one query's tokens on several cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.assembler import Affine, PhaseAssembler, Region, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import NONE, Cause, Phase, Program, Tensor
from layouts.catalog.mla import indexer_fp8
from layouts.notation import named
from workloads import paging
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS, allocate, contiguous_axis, operand
from workloads.kernels.attention_parts import first_pages, table_tensor
from workloads.kernels.base import check_knobs, knob, knob_layout, require_16_bit, require_options
from workloads.kernels.latent_cache import Pool, field_tensor, place_with, plain_pool
from workloads.kernels.mla_decode import check_queries
from workloads.kernels.model_sizes import indexer_sizes
from workloads.kernels.queries import Queries, last_tokens
from workloads.kernels.writer import PhaseWriter
from workloads.model import Model
from workloads.numbering import within_owners
from workloads.page_orders import DRAWN_ORDERS
from workloads.schedule import SCHEDULES, schedule

RECORDS = ("plain", "indexer_fp8")
Q, WEIGHTS, TABLE, SCORES, POSITIONS, KEYS, SCALES = range(7)
OPTIONAL = {"heads": 64, "dim": 128, "top_k": 2048, "q_len": 1, "ratio": 1}  # DeepSeek V3.2

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Problem:
    """One layer's indexer: `contexts` are the tokens of every sequence, of which the last `q_len` (0: all) are queries.

    A key stands for `ratio` tokens. Raises ValueError for a sequence without a key.
    """

    heads: int
    dim: int
    top_k: int
    q_len: int | tuple[int, ...]
    dtype: str
    contexts: tuple[int, ...]
    ratio: int = 1

    def __post_init__(self) -> None:
        if min(self.contexts) < self.ratio:
            raise ValueError(f"batch: a context is {min(self.contexts)}; allowed: the ratio ({self.ratio}) or more")

    @property
    def keys(self) -> tuple[int, ...]:
        """The keys of every sequence."""
        return tuple(context // self.ratio for context in self.contexts)

    @property
    def queries(self) -> Queries:
        """The tokens that are scored for."""
        return last_tokens(self.contexts, self.q_len)

    def seen(self) -> Array:
        """Return how many keys every query sees."""
        seen: Array = (self.queries.position + 1) // self.ratio
        return seen

    @property
    def kept(self) -> int:
        """The most positions that a query can have."""
        return min(self.top_k, max(self.keys))


@dataclass(frozen=True)
class Knobs:
    """What the search may choose."""

    record: str = knob("plain", "keys in the model's type, or e4m3 with a scale per token", choices=RECORDS)
    layout: str = knob(
        "page token dim", "where plain keys lie, outermost first; token: in its page", axes="page, token, dim"
    )
    page_size: int = knob(64, "tokens in a page", least=1)
    page_order: str = knob("shuffled", "how an allocator has dealt the pages", choices=DRAWN_ORDERS)
    query_tile: int = knob(2, "queries that an item scores together", least=1)
    tile: int = knob(128, "keys in one load", least=1)
    stages: int = knob(3, "tiles of keys in flight", least=1)
    split_tokens: int = knob(0, "most keys that one core scores for an item; 0: all", least=0)
    select_tile: int = knob(2048, "scores in one step of the selection", least=1)
    schedule: str = knob("static", "items dealt round, to the least loaded core, or to a free one", choices=SCHEDULES)
    sram_layout: str = knob("swizzled", "where queries and keys lie in the scratchpad", choices=OPERAND_LAYOUTS)


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of one layer over `batch`, which is required; a model gives sizes and dtype.

    Options: index heads (64) of `dim` (128) elements, top_k (2048), q_len tokens per sequence (1), ratio of tokens
    to a key (1).
    """
    sizes = require_options("indexer", options, (), OPTIONAL, indexer_sizes(model) if model else {})
    if batch is None:
        raise ValueError("batch: kernel indexer needs one, with a context or a trace")
    check_queries(sizes["q_len"], batch.contexts)
    dtype = require_16_bit("indexer", model.dtype if model else "bf16")
    dims = sizes["heads"], sizes["dim"], sizes["top_k"]
    return Problem(*dims, sizes["q_len"], dtype, batch.contexts, sizes["ratio"])


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, splits that split nothing."""
    check_knobs(knobs)
    longest = max(problem.keys)
    return (
        *(repr(tensor.layout.key) for tensor in _pool(problem, knobs).tensors),
        knobs.record,
        knobs.page_size,
        knobs.page_order,
        min(knobs.query_tile, int(problem.queries.lengths.max())),
        knobs.tile,
        knobs.stages,
        knobs.split_tokens if 0 < knobs.split_tokens < longest else 0,
        min(knobs.select_tile, longest),
        knobs.sram_layout,
        knobs.schedule,
    )


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` draws the page order.
    """
    check_knobs(knobs)
    pool = _pool(problem, knobs)
    place_with([], pool, machine)  # before queries of a hopeless size are listed
    tensors = place_with(_tensors(problem, knobs, seed), pool, machine)
    tasks = _score_tasks(problem, knobs)
    order = schedule(knobs.schedule, tasks["tokens"] * tasks["queries"], machine.spec.cores.count)
    phases = (_Score(problem, knobs, machine, tensors, tasks).finish(order), _select(problem, knobs, machine, tensors))
    machine.require_fit(phases[0], {"query_tile": knobs.query_tile, "tile": knobs.tile, "stages": knobs.stages})
    machine.require_fit(phases[1], {"select_tile": knobs.select_tile})
    return Program("indexer", tensors, phases)


def _pool(problem: Problem, knobs: Knobs) -> Pool:
    pages = paging.pool_pages(knobs.page_order, problem.keys, knobs.page_size)
    if knobs.record == "plain":
        sizes = {"page": pages, "token": knobs.page_size, "dim": problem.dim}
        return plain_pool(knob_layout(knobs, "layout", sizes), problem.dtype)
    record = indexer_fp8(pages, knobs.page_size, problem.dim)
    fields = (("key", "cache", "fp8_e4m3"), ("scale", "cache scale", "fp32"))
    return Pool(tuple(field_tensor(record, *field) for field in fields), record.size)


def _tensors(problem: Problem, knobs: Knobs, seed: int) -> list[Tensor]:
    """Return all tensors but the keys'; a row is an index head of a query, queries are those of all sequences."""
    queries = len(problem.queries.sequence)
    q = named("row dim", {"row": queries * problem.heads, "dim": problem.dim})
    weights = named("query head", {"query": queries, "head": problem.heads})
    scores = named("query position", {"query": queries, "position": max(problem.keys)})
    positions = named("query rank", {"query": queries, "rank": problem.kept})
    return [
        Tensor("q", q, problem.dtype if knobs.record == "plain" else "fp8_e4m3", NONE, "cache"),
        Tensor("weights", weights, "fp32", NONE, "cache"),
        table_tensor(knobs, problem.keys, seed),
        Tensor("scores", scores, "fp32", NONE, "cache"),
        Tensor("positions", positions, "int32", NONE, "cache"),
    ]


def _score_tasks(problem: Problem, knobs: Knobs) -> dict[str, Array]:
    """Return the columns of the work items, by sequence, tile of queries and part; none without keys."""
    queries, keys = problem.queries, np.array(problem.keys, np.int64)
    sequence, number = within_owners(-(-queries.lengths // knobs.query_tile))
    first = (np.cumsum(queries.lengths) - queries.lengths)[sequence] + number * knobs.query_tile
    count = np.minimum(queries.lengths[sequence] - number * knobs.query_tile, knobs.query_tile)
    seen = problem.seen()[first + count - 1]
    limit = knobs.split_tokens or int(keys.max())
    owner, part = within_owners(-(-seen // limit))
    begin = part * limit
    tokens = np.minimum(seen[owner] - begin, limit)
    return {
        "query": first[owner],
        "queries": count[owner],
        "first_page": first_pages(problem.keys, knobs.page_size)[sequence[owner]],
        "begin": begin,
        "tokens": tokens,
        "tiles": -(-tokens // knobs.tile),
    }


class _Score(PhaseWriter):
    """Writes the scoring phase, one method per queue; buffers and counters go by their names."""

    def __init__(
        self, problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...], tasks: dict[str, Array]
    ) -> None:
        self._problem, self._knobs = problem, knobs
        self._scaled = len(tensors) > SCALES
        most = min(knobs.query_tile, int(problem.queries.lengths.max()))
        rows, tile, stages, kind = most * problem.heads, knobs.tile, knobs.stages, knobs.sram_layout
        along = contiguous_axis(tensors[KEYS], ("token", "dim"))
        key = block("key", tile, problem.dim, tensors[KEYS].dtype, stages)
        requested = (
            operand(block("q", rows, problem.dim, tensors[Q].dtype, 2), machine, kind, side="a", axis_of_k=1),
            block("weights", most, problem.heads, "fp32", 2),
            operand(key, machine, kind, side="b", axis_of_k=1, filled_along=along),
            block("products", rows, tile, "fp32", 2),
            block("scores", most, tile, "fp32", 2),
            *([block("scale", 1, tile, "fp32", stages)] if self._scaled else []),
        )
        causes: dict[Cause, tuple[str, ...]] = {
            "memory": ("q loaded", "key loaded"),
            "buffer": ("q free", "key free", "scale free", "products free", "scores free"),
            "dependency": ("products", "scores"),
        }
        super().__init__("score", tensors, tasks, requested, causes, machine)
        self._tiles, self._queries = self._p.column("tiles"), (self._p.column("query"), self._p.column("queries"))
        self._rows = self._p.column("queries") * problem.heads

    def _size(self, index: Affine | int) -> Affine:
        return (self._p.column("tokens") - index * self._knobs.tile).clip(self._knobs.tile)

    def _here(self, index: Affine) -> tuple[Affine, Affine]:
        return self._p.column("begin") + index * self._knobs.tile, self._size(index)

    def load(self) -> None:
        """Queries and weights once per item, then tiles of keys and of their scales."""
        p, heads = self._p, self._problem.heads
        rows = Region(Q, {"row": (p.column("query") * heads, self._rows)})
        p.load(self._slot("q", p.begun), rows, wait=self._waits(q_free=p.begun - 1))
        weights = Region(WEIGHTS, {"query": self._queries})
        p.load(self._slot("weights", p.begun), weights, signal=self._signals("q loaded"))
        with p.loop("load", self._tiles) as i:
            free = i.running - self._knobs.stages + 1
            fields = (("key", KEYS), ("scale", SCALES)) if self._scaled else (("key", KEYS),)
            for name, tensor in fields:
                region = Region(tensor, {"token": self._here(i.index)}, TABLE, p.column("first_page"), "page", "token")
                signal = self._signals("key loaded") if name == fields[-1][0] else []
                p.load(self._slot(name, i.running), region, wait=self._waits(**{f"{name}_free": free}), signal=signal)

    def matrix(self) -> None:
        """The products of every index head of every query with a tile of keys."""
        p = self._p
        with p.loop("matrix", self._tiles) as i:
            p.matmul(
                self._slot("products", i.running),
                self._slot("q", p.begun),
                self._slot("key", i.running),
                (self._rows, self._size(i.index), self._problem.dim),
                transpose_b=True,
                wait=self._waits(q_loaded=p.begun + 1, key_loaded=i.running + 1, products_free=i.running - 1),
                signal=self._signals("products", "key free"),
            )

    def vector(self) -> None:
        """The sums over heads; the last tile of an item frees its queries and weights."""
        before = self._p.begun + self._p.running(0)
        with self._p.loop("vector", self._tiles - 1) as i:
            self._sum(before, i.index)
        self._sum(before, self._tiles - 1, "q free")

    def _sum(self, number: Affine, index: Affine, *also: str) -> None:
        operands = [self._slot("scores", number), self._slot("products", number), self._slot("weights", self._p.begun)]
        self._p.vector(
            "scaled_index_scores" if self._scaled else "index_scores",
            [*operands, *([self._slot("scale", number)] if self._scaled else [])],
            (self._p.column("queries"), self._size(index), self._problem.heads),
            wait=self._waits(products=number + 1, scores_free=number - 1),
            signal=self._signals("scores", "products free", "scale free", *also),
        )

    def store(self) -> None:
        p = self._p
        with p.loop("store", self._tiles) as i:
            there = Region(SCORES, {"query": self._queries, "position": self._here(i.index)})
            wait = self._waits(scores=i.running + 1)
            p.store(self._slot("scores", i.running), there, wait=wait, signal=self._signals("scores free"))


def _select(problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...]) -> Phase:
    """Keep the best of the scores of every query that sees a key, piece by piece."""
    seen, top_k = problem.seen(), problem.kept
    query = np.flatnonzero(seen)
    seen, tile = seen[query], min(knobs.select_tile, max(problem.keys))
    tasks = {"query": query, "seen": seen, "kept": np.minimum(seen, top_k), "tiles": -(-seen // tile)}
    p = PhaseAssembler("select", tensors, tuple(tasks))
    requested = (
        block("positions", 1, top_k, "int32", 2),
        block("kept", 1, top_k, "fp32"),
        block("scores", 1, tile, "fp32", 2),
    )
    positions, kept, scores = p.add_buffers(allocate(requested, machine))
    loaded = p.counter("scores loaded", "memory")
    free, positions_free = p.counter("scores free", "buffer"), p.counter("positions free", "buffer")
    selected = p.counter("selected", "dependency")
    row, tiles = (p.column("query"), 1), p.column("tiles")

    def size(index: Affine) -> Affine:
        return (p.column("seen") - index * tile).clip(tile)

    with p.loop("load", tiles) as i:
        piece = Region(SCORES, {"query": row, "position": (i.index * tile, size(i.index))})
        p.load(Slot(scores, i.running), piece, wait=[(free, i.running - 1)], signal=[loaded])

    def step(number: Affine, index: Affine, *signal: int) -> None:
        p.vector(
            "select_step",
            (Slot(positions, p.begun), Slot(kept, p.begun), Slot(scores, number)),
            (size(index), index * tile, top_k),
            wait=[(loaded, number + 1), (positions_free, p.begun - 1)],
            signal=[free, *signal],
        )

    before = p.begun + p.running(0)
    with p.loop("vector", tiles - 1) as i:
        step(before, i.index)
    step(before, tiles - 1, selected)
    to = Region(POSITIONS, {"query": row, "rank": (0, p.column("kept"))})
    p.store(Slot(positions, p.begun), to, wait=[(selected, p.begun + 1)], signal=[positions_free])
    order = schedule(knobs.schedule, seen, machine.spec.cores.count)
    return p.finish(np.stack(list(tasks.values()), axis=1), order)
