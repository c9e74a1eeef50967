"""Decode attention: one query token per sequence against its KV cache, grouped-query heads, paged, split-KV.

A work item is one KV head of one sequence, or one part of at most `split_tokens` of it. It loads its group of query
rows and streams K and V tiles through `stages` buffers: scores on the matrix unit, online softmax on the vector unit,
the weighted sum of V on the matrix unit, which computes the scores of the next tile while the softmax of this one runs.
With split-KV the items store fp32 partial results with their log-sum-exp, and a second phase merges them.

The KV cache of one layer is one tensor with axes page, kv, head, token, dim; its layout is a knob in the notation of
`layouts.catalog`. Queries, results and partial results reside in the shared cache where a machine has one and they fit:
the kernels before and after have just touched them. Page-table entries cost issue cycles but no traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.assembler import Affine, PhaseAssembler, Region, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import NONE, Cause, Phase, Program, Schedule, Tensor
from layouts.notation import NamedLayout, named
from workloads import paging
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS, allocate, contiguous_axis, operand
from workloads.kernels.base import check_knobs, knob, knob_layout, require_16_bit, require_options
from workloads.model import Model
from workloads.placement import place
from workloads.schedule import SCHEDULES, schedule

PAGE_ORDERS = ("contiguous", "shuffled")
Q, KV, TABLE, OUT, PARTIAL = range(5)


@dataclass(frozen=True)
class Problem:
    """One layer's decode attention: `contexts` are the KV tokens of every sequence."""

    heads_q: int
    heads_kv: int
    head_dim: int
    dtype: str
    contexts: tuple[int, ...]

    @property
    def group(self) -> int:
        return self.heads_q // self.heads_kv


@dataclass(frozen=True)
class Knobs:
    """What the search may choose."""

    layout: str = knob(
        "page kv token head dim",
        "where the KV cache of a layer lies, outermost first; kv: K or V, token: in its page",
        axes="page, kv, head, token, dim",
    )
    page_size: int = knob(16, "tokens in a page", least=1)
    page_order: str = knob("shuffled", "pages in order, or at random as after long use", choices=PAGE_ORDERS)
    tile: int = knob(64, "tokens of K and V in one load", least=1)
    stages: int = knob(4, "tiles of K and of V in flight", least=1)
    split_tokens: int = knob(0, "longest piece of a sequence that one core takes; 0: the whole sequence", least=0)
    schedule: str = knob("static", "items dealt round, to the least loaded core, or to a free one", choices=SCHEDULES)
    sram_layout: str = knob("swizzled", "where q, K, V, probabilities lie in the scratchpad", choices=OPERAND_LAYOUTS)


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of one attention layer of `model` over `batch`, both required; takes no options."""
    require_options("decode-attention", options, ())
    if model is None:
        raise ValueError("model: kernel decode-attention needs one")
    if batch is None:
        raise ValueError("batch: kernel decode-attention needs one, with a context or a trace")
    attention = model.softmax_attention("model: kernel decode-attention")
    dtype = require_16_bit("decode-attention", model.dtype)
    return Problem(attention.heads_q, attention.heads_kv, attention.head_dim_qk, dtype, batch.contexts)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, splits that split nothing."""
    split = knobs.split_tokens if 0 < knobs.split_tokens < max(problem.contexts) else 0
    layout = _kv_layout(problem, knobs, _pool_pages(problem, knobs))
    return (
        repr(layout.key),
        knobs.page_size,
        knobs.page_order,
        knobs.tile,
        knobs.stages,
        split,
        knobs.sram_layout,
        knobs.schedule,
    )


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` draws the page order.
    """
    check_knobs(knobs)
    tasks = _tasks(problem, knobs)
    parts = len(tasks["owner"])
    split = parts > len(problem.contexts) * problem.heads_kv
    place([_cache_tensor(problem, knobs)], machine)  # before a page table of a hopeless size is made
    tensors = place(_tensors(problem, knobs, seed, parts if split else 0), machine)
    order = schedule(knobs.schedule, tasks["tokens"], machine.spec.cores.count)
    phases = [_Attend(problem, knobs, machine, tensors, tasks, split).finish(order)]
    machine.require_fit(phases[0], {"tile": knobs.tile, "stages": knobs.stages})
    if split:
        phases.append(_combine(problem, machine, tensors, tasks))
        machine.require_fit(phases[1], {"split_tokens": knobs.split_tokens})
    return Program("decode-attention", tensors, tuple(phases))


def _pool_pages(problem: Problem, knobs: Knobs) -> int:
    return sum(-(-context // knobs.page_size) for context in problem.contexts)


def _kv_layout(problem: Problem, knobs: Knobs, pages: int) -> NamedLayout:
    sizes = {
        "page": pages,
        "kv": 2,
        "head": problem.heads_kv,
        "token": knobs.page_size,
        "dim": problem.head_dim,
    }
    return knob_layout(knobs, "layout", sizes)


def _cache_tensor(problem: Problem, knobs: Knobs) -> Tensor:
    return Tensor("kv", _kv_layout(problem, knobs, _pool_pages(problem, knobs)), problem.dtype, NONE)


def _tensors(problem: Problem, knobs: Knobs, seed: int, parts: int) -> list[Tensor]:
    if knobs.page_order == "contiguous":
        table = paging.contiguous(problem.contexts, knobs.page_size)
    else:
        table = paging.shuffled(problem.contexts, knobs.page_size, np.random.default_rng(seed))
    rows = named(
        "sequence head dim",
        {"sequence": len(problem.contexts), "head": problem.heads_q, "dim": problem.head_dim},
    )
    entries = named("entry", {"entry": len(table.pages)})
    tensors = [
        Tensor("q", rows, problem.dtype, NONE, "cache"),
        _cache_tensor(problem, knobs),
        Tensor("page table", entries, "int32", NONE, "cache", table.pages),
        Tensor("out", rows, problem.dtype, NONE, "cache"),
    ]
    if parts:
        sizes = {"part": parts, "row": problem.group, "column": problem.head_dim + 1}
        tensors.append(Tensor("partial", named("part row column", sizes), "fp32", NONE, "cache"))
    return tensors


def _tasks(problem: Problem, knobs: Knobs) -> dict[str, np.ndarray[Any, Any]]:
    """Return the columns of the work items, ordered by sequence, head and part."""
    contexts = np.array(problem.contexts, np.int64)
    limit = knobs.split_tokens or int(contexts.max())
    first_page = np.cumsum(np.append(0, -(-contexts // knobs.page_size)))[:-1]
    owner = np.arange(len(contexts) * problem.heads_kv)
    sequence, head = owner // problem.heads_kv, owner % problem.heads_kv
    parts = -(-contexts[sequence] // limit)
    owner = np.repeat(owner, parts)
    begin = (np.arange(len(owner)) - np.repeat(np.cumsum(parts) - parts, parts)) * limit
    sequence, head = sequence[owner], head[owner]
    tokens = np.minimum(contexts[sequence] - begin, limit)
    return {
        "owner": owner,
        "sequence": sequence,
        "head": head,
        "first_page": first_page[sequence],
        "begin": begin,
        "tokens": tokens,
        "tiles": -(-tokens // knobs.tile),
        "part": np.arange(len(owner)),
    }


class _Attend:
    """Writes the main phase, one method per queue; buffers and counters go by their names."""

    def __init__(
        self,
        problem: Problem,
        knobs: Knobs,
        machine: Machine,
        tensors: tuple[Tensor, ...],
        tasks: dict[str, np.ndarray[Any, Any]],
        split: bool,
    ) -> None:
        self._p = p = PhaseAssembler("attend", tensors, tuple(tasks))
        self._tasks = tasks
        self._group, self._dim = g, d = problem.group, problem.head_dim
        self._tile, self._stages, self._split = tile, stages, split = knobs.tile, knobs.stages, split
        dtype, kind = problem.dtype, knobs.sram_layout
        along = contiguous_axis(tensors[KV], ("token", "dim"))
        requested = (
            operand(block("q", g, d, problem.dtype, 2), machine, kind, side="a", axis_of_k=1),
            operand(block("k", tile, d, dtype, stages), machine, kind, side="b", axis_of_k=1, filled_along=along),
            operand(block("v", tile, d, dtype, stages), machine, kind, side="b", axis_of_k=0, filled_along=along),
            block("scores", g, tile, "fp32", 2),
            operand(block("probabilities", g, tile, dtype, 2), machine, kind, side="a", axis_of_k=1),
            block("maximum", g, 1, "fp32"),
            block("sum", g, 1, "fp32"),
            block("accumulator", g, d, "fp32"),
            block("out", g, d + 1, "fp32", 2) if split else block("out", g, d, problem.dtype, 2),
        )
        numbers = p.add_buffers(allocate(requested, machine))
        self._buffers = dict(zip((b.name for b in requested), numbers, strict=True))
        causes: dict[Cause, tuple[str, ...]] = {
            "memory": ("q loaded", "k loaded", "v loaded"),
            "buffer": ("q free", "k free", "v free", "scores free", "probabilities free", "out free"),
            "dependency": ("scores", "probabilities", "tile summed", "out"),
        }
        self._counters = {name: p.counter(name, cause) for cause, names in causes.items() for name in names}
        self._tokens, self._tiles = p.column("tokens"), p.column("tiles")
        self._rows = {"sequence": (p.column("sequence"), 1), "head": (p.column("head") * g, g)}

    def _slot(self, buffer: str, number: Affine) -> Slot:
        return Slot(self._buffers[buffer], number)

    def _item(self, *buffers: str) -> tuple[Slot, ...]:
        """Return the blocks of buffers that change once per work item."""
        return tuple(self._slot(buffer, self._p.begun) for buffer in buffers)

    def _waits(self, **values: Affine) -> list[tuple[int, Affine | int]]:
        return [(self._counters[name.replace("_", " ")], value) for name, value in values.items()]

    def _signals(self, *names: str) -> list[int]:
        return [self._counters[name] for name in names]

    def _tile_tokens(self, index: Affine | int) -> Affine:
        return (self._tokens - index * self._tile).clip(self._tile)

    def load(self) -> None:
        """One query block per item, then its K and V tiles."""
        p = self._p
        (q,) = self._item("q")
        p.load(q, Region(Q, self._rows), wait=self._waits(q_free=p.begun - 1), signal=self._signals("q loaded"))
        with p.loop("load", self._tiles) as i:
            free = i.running - self._stages + 1
            here = (p.column("begin") + i.index * self._tile, self._tile_tokens(i.index))
            for part, name in enumerate(("k", "v")):
                axes: dict[str, tuple[Affine | int, Affine | int]] = {
                    "kv": (part, 1),
                    "head": (p.column("head"), 1),
                    "token": here,
                }
                region = Region(KV, axes, TABLE, p.column("first_page"), "page", "token")
                to = self._slot(name, i.running)
                p.load(to, region, wait=self._waits(**{f"{name}_free": free}), signal=self._signals(f"{name} loaded"))

    def matrix(self) -> None:
        """Scores of tile 0; then scores of tile i + 1 before the weighted sum of tile i; then the last sum."""
        p = self._p
        before = p.begun + p.running(0)
        self._score(before, 0)
        with p.loop("matrix", self._tiles - 1) as i:
            self._score(before + 1, i.index + 1)
            self._weigh(before, i.index)
        self._weigh(before, self._tiles - 1, "q free")

    def _score(self, number: Affine, index: Affine | int) -> None:
        (q,) = self._item("q")
        self._p.matmul(
            self._slot("scores", number),
            q,
            self._slot("k", number),
            (self._group, self._tile_tokens(index), self._dim),
            transpose_b=True,
            wait=self._waits(q_loaded=self._p.begun + 1, k_loaded=number + 1, scores_free=number - 1),
            signal=self._signals("scores", "k free"),
        )

    def _weigh(self, number: Affine, index: Affine | int, *also: str) -> None:
        (accumulator,) = self._item("accumulator")
        self._p.matmul(
            accumulator,
            self._slot("probabilities", number),
            self._slot("v", number),
            (self._group, self._dim, self._tile_tokens(index)),
            accumulate=1,
            wait=self._waits(v_loaded=number + 1, probabilities=number + 1),
            signal=self._signals("tile summed", "v free", "probabilities free", *also),
        )

    def vector(self) -> None:
        """Online softmax per tile, then the result of the item."""
        p = self._p
        with p.loop("vector", self._tiles) as i:
            tile = (self._slot("probabilities", i.running), self._slot("scores", i.running))
            p.vector(
                "softmax_step",
                (*tile, *self._item("maximum", "sum", "accumulator")),
                (self._group, self._tile_tokens(i.index), 1 - i.index),
                scalar=self._dim**-0.5,
                wait=self._waits(scores=i.running + 1, probabilities_free=i.running - 1, tile_summed=i.running),
                signal=self._signals("probabilities", "scores free"),
            )
        operands = ("out", "accumulator", "maximum", "sum") if self._split else ("out", "accumulator", "sum")
        p.vector(
            "partial" if self._split else "normalise",
            self._item(*operands),
            (self._group, self._dim),
            wait=self._waits(tile_summed=p.running(0), out_free=p.begun - 1),
            signal=self._signals("out"),
        )

    def store(self) -> None:
        p = self._p
        (out,) = self._item("out")
        to = Region(PARTIAL, {"part": (p.column("part"), 1)}) if self._split else Region(OUT, self._rows)
        p.store(out, to, wait=self._waits(out=p.begun + 1), signal=self._signals("out free"))

    def finish(self, order: Schedule) -> Phase:
        self.load()
        self.matrix()
        self.vector()
        self.store()
        return self._p.finish(np.stack(list(self._tasks.values()), axis=1), order)


def _combine(
    problem: Problem, machine: Machine, tensors: tuple[Tensor, ...], tasks: dict[str, np.ndarray[Any, Any]]
) -> Phase:
    """Merge the parts of every (sequence, head)."""
    parts = np.bincount(tasks["owner"])
    first = np.cumsum(parts) - parts
    columns = {
        "sequence": tasks["sequence"][first],
        "head": tasks["head"][first],
        "first": first,
        "parts": parts,
    }
    p = PhaseAssembler("combine", tensors, tuple(columns))
    g, d = problem.group, problem.head_dim
    requested = (
        block("partials", int(parts.max()) * g, d + 1, "fp32", 2),
        block("out", g, d, problem.dtype, 2),
    )
    partials, out = p.add_buffers(allocate(requested, machine))
    loaded = p.counter("partials loaded", "memory")
    free, out_free = p.counter("partials free", "buffer"), p.counter("out free", "buffer")
    ready = p.counter("out", "dependency")
    p.load(
        Slot(partials, p.begun),
        Region(PARTIAL, {"part": (p.column("first"), p.column("parts"))}),
        wait=[(free, p.begun - 1)],
        signal=[loaded],
    )
    p.vector(
        "combine",
        (Slot(out, p.begun), Slot(partials, p.begun)),
        (p.column("parts"), g, d),
        wait=[(loaded, p.begun + 1), (out_free, p.begun - 1)],
        signal=[ready, free],
    )
    rows = {"sequence": (p.column("sequence"), 1), "head": (p.column("head") * g, g)}
    p.store(Slot(out, p.begun), Region(OUT, rows), wait=[(ready, p.begun + 1)], signal=[out_free])
    return p.finish(np.stack(list(columns.values()), axis=1), schedule("static", parts, machine.spec.cores.count))
