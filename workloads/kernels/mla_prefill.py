"""MLA prefill: latents are expanded to keys and values of every head, then causal attention over whole sequences.

Phase one projects: a work item is a tile of tokens of one head. It streams the tokens' latents and the head's two
weights along the rank; both products share the loaded latents, and keys and values are stored in 16 bits. Phase two
attends: a work item is `tile_q` query tokens of one head; it streams keys and values up to its last token with an
online softmax. A key is the head's projected part and the rotary part that all heads share, which stay two tensors, so
a score is the sum of two products. Every tile is masked, though only the last ones of an item need it.

Expanded heads have nope + rope (192) columns of keys and `value_dim` (128) of values, and the weights as a model ships
them; decode over the same cache is absorbed instead (`mla_decode`). Where only the last tokens of a sequence are
queries, as in a chunk of a longer prefill, the latents of all its tokens are projected, as if those of earlier chunks
lay beside the new ones.

Not modelled: how latents come out of the paged cache; the projection of queries; tiles of keys kept for several heads
or query tiles, other than in a shared cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from hwmodel.assembler import Affine, PhaseAssembler, Region, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import NONE, Cause, Phase, Program, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS, allocate, contiguous_axis, operand
from workloads.kernels.attention_problem import require_context
from workloads.kernels.base import check_knobs, knob, knob_layout, require_16_bit, require_options
from workloads.kernels.model_sizes import expanded
from workloads.kernels.writer import PhaseWriter
from workloads.model import Model
from workloads.numbering import within_owners
from workloads.placement import place
from workloads.schedule import SCHEDULES, schedule

Q, LATENT, ROTARY, W_UK, W_UV, K, V, OUT = range(8)
OPTIONS = ("heads",)
OPTIONAL = {"rank": 512, "rope": 64, "nope": 128, "value": 128}  # DeepSeek V3

Array = np.ndarray[Any, Any]
Axes: TypeAlias = dict[str, tuple[Affine | int, Affine | int]]


@dataclass(frozen=True)
class Problem:
    """One layer's prefill: `tokens` of every sequence, `heads` with keys of nope + rope and values of value_dim.

    `new`: how many tokens of every sequence, its last ones, are queries; (): all. Raises ValueError for more than all.
    """

    heads: int
    rank: int
    rope: int
    nope: int
    value_dim: int
    dtype: str
    tokens: tuple[int, ...]
    new: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require_context(self.tokens, self.queries)

    @property
    def queries(self) -> tuple[int, ...]:
        """The tokens of every sequence that attend."""
        return self.new or self.tokens

    @property
    def scale(self) -> float:
        return float((self.nope + self.rope) ** -0.5)


@dataclass(frozen=True)
class Knobs:
    """What the search may choose."""

    layout: str = knob("token head dim", "where keys and values of all heads lie", axes="token, head, dim")
    tile_m: int = knob(128, "tokens of an item of the projection", least=1)
    tile_k: int = knob(64, "elements of the rank in one load of the projection", least=1)
    tile_q: int = knob(128, "query tokens of an item of the attention", least=1)
    tile: int = knob(64, "tokens of keys and values in one load", least=1)
    stages: int = knob(3, "tiles in flight", least=1)
    schedule: str = knob("balanced", "items dealt round, to the least loaded core, or to a free one", choices=SCHEDULES)
    sram_layout: str = knob("swizzled", "where operands lie in the scratchpad", choices=OPERAND_LAYOUTS)


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of one layer over the contexts of `batch`, which is required; a model gives sizes and dtype.

    Sizes: heads; rank of a latent (512), rope and nope columns of a key (64, 128), value columns (128).
    """
    sizes = require_options("mla-prefill", options, OPTIONS, OPTIONAL, expanded(model) if model else {})
    if batch is None:
        raise ValueError("batch: kernel mla-prefill needs one, with a context or a trace")
    dtype = require_16_bit("mla-prefill", model.dtype if model else "bf16")
    dims = sizes["rank"], sizes["rope"], sizes["nope"], sizes["value"]
    return Problem(sizes["heads"], *dims, dtype, batch.contexts)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, tiles by what they hold."""
    tensors = _tensors(problem, knobs)
    return (
        repr(tensors[K].layout.key),
        repr(tensors[V].layout.key),
        min(knobs.tile_m, sum(problem.tokens)),
        min(knobs.tile_k, problem.rank),
        min(knobs.tile_q, max(problem.queries)),
        min(knobs.tile, max(problem.tokens)),
        knobs.stages,
        knobs.sram_layout,
        knobs.schedule,
    )


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    tensors = place(_tensors(problem, knobs), machine)
    project = _project(problem, knobs, machine, tensors)
    machine.require_fit(project, {"tile_m": knobs.tile_m, "tile_k": knobs.tile_k, "stages": knobs.stages})
    tasks = _tasks(problem, knobs)
    order = schedule(knobs.schedule, tasks["tiles"] * tasks["rows"], machine.spec.cores.count)
    attend = _Attend(problem, knobs, machine, tensors, tasks).finish(order)
    machine.require_fit(attend, {"tile_q": knobs.tile_q, "tile": knobs.tile, "stages": knobs.stages})
    return Program("mla-prefill", tensors, (project, attend))


def _tensors(problem: Problem, knobs: Knobs) -> list[Tensor]:
    """Return the tensors; tokens are those of all sequences, one after another."""
    count, heads, dtype = sum(problem.tokens), problem.heads, problem.dtype

    def per_head(dim: int, tokens: int = count) -> dict[str, int]:
        return {"token": tokens, "head": heads, "dim": dim}

    def weight(dim: int) -> dict[str, int]:
        return {"head": heads, "dim": dim, "rank": problem.rank}

    new = sum(problem.queries)
    return [
        Tensor("q", named("token head dim", per_head(problem.nope + problem.rope, new)), dtype, NONE),
        Tensor("latent", named("token rank", {"token": count, "rank": problem.rank}), dtype, NONE),
        Tensor("rotary", named("token dim", {"token": count, "dim": problem.rope}), dtype, NONE),
        Tensor("w_uk", named("head dim rank", weight(problem.nope)), dtype, NONE),
        Tensor("w_uv", named("head dim rank", weight(problem.value_dim)), dtype, NONE),
        Tensor("k", knob_layout(knobs, "layout", per_head(problem.nope)), dtype, NONE),
        Tensor("v", knob_layout(knobs, "layout", per_head(problem.value_dim)), dtype, NONE),
        Tensor("out", named("token head dim", per_head(problem.value_dim, new)), dtype, NONE),
    ]


def _project(problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...]) -> Phase:
    """Multiply the latents of a tile of tokens with both weights of a head."""
    count = sum(problem.tokens)
    tm, tk, stages = min(knobs.tile_m, count), min(knobs.tile_k, problem.rank), knobs.stages
    token, head = np.indices((-(-count // tm), problem.heads)).reshape(2, -1)
    tasks = {"token": token * tm, "head": head}
    p = PhaseAssembler("project", tensors, tuple(tasks))
    dims, dtype = {"k": problem.nope, "v": problem.value_dim}, problem.dtype
    weights = [block(f"w {name}", dim, tk, dtype, stages) for name, dim in dims.items()]
    requested = (
        operand(block("latent", tm, tk, dtype, stages), machine, knobs.sram_layout, side="a", axis_of_k=1),
        *(operand(weight, machine, knobs.sram_layout, side="b", axis_of_k=1) for weight in weights),
        *(block(f"sum {name}", tm, dim, "fp32") for name, dim in dims.items()),
        *(block(name, tm, dim, dtype, 2) for name, dim in dims.items()),
    )
    buffers = dict(zip((b.name for b in requested), p.add_buffers(allocate(requested, machine)), strict=True))
    loaded, tile_free = p.counter("tiles loaded", "memory"), p.counter("tiles free", "buffer")
    summed, ready = p.counter("sums", "dependency"), p.counter("keys and values", "dependency")
    sums_free, out_free = p.counter("sums free", "buffer"), p.counter("keys and values free", "buffer")
    rows, tiles = (count - p.column("token")).clip(tm), -(-problem.rank // tk)
    tokens, one_head = (p.column("token"), rows), (p.column("head"), 1)

    with p.loop("load", tiles) as i:
        rank = (i.index * tk, (problem.rank - i.index * tk).clip(tk))
        wait = [(tile_free, i.running - stages + 1)]
        p.load(Slot(buffers["latent"], i.running), Region(LATENT, {"token": tokens, "rank": rank}), wait=wait)
        for name, tensor in (("k", W_UK), ("v", W_UV)):
            region = Region(tensor, {"head": one_head, "rank": rank})
            p.load(Slot(buffers[f"w {name}"], i.running), region, signal=[loaded] if name == "v" else [])

    def multiply(number: Affine, index: Affine | int, *signal: int) -> None:
        depth = (problem.rank - Affine.of(index) * tk).clip(tk)
        wait = [(loaded, number + 1), (sums_free, p.begun)]
        for name, dim in dims.items():
            p.matmul(
                Slot(buffers[f"sum {name}"], p.begun),
                Slot(buffers["latent"], number),
                Slot(buffers[f"w {name}"], number),
                (rows, dim, depth),
                transpose_b=True,
                accumulate=index,
                wait=wait if name == "k" else [],
                signal=[tile_free, *signal] if name == "v" else [],
            )

    before = p.begun + p.running(0)
    with p.loop("matrix", tiles - 1) as i:
        multiply(before, i.index)
    multiply(before, tiles - 1, summed)
    for name, dim in dims.items():
        blocks = Slot(buffers[name], p.begun), Slot(buffers[f"sum {name}"], p.begun)
        wait = [(summed, p.begun + 1), (out_free, p.begun - 1)]
        p.vector("convert", blocks, (rows, dim), wait=wait, signal=[ready, sums_free] if name == "v" else [])
    for name, tensor in (("k", K), ("v", V)):
        there = Region(tensor, {"token": tokens, "head": one_head})
        wait = [(ready, p.begun + 1)]
        p.store(Slot(buffers[name], p.begun), there, wait=wait, signal=[out_free] if name == "v" else [])
    order = schedule("static", np.ones(len(token), np.int64), machine.spec.cores.count)
    return p.finish(np.stack(list(tasks.values()), axis=1), order)


def _tasks(problem: Problem, knobs: Knobs) -> dict[str, Array]:
    """Return the columns of the items of the attention, ordered by sequence, head and tile of queries."""
    lengths, new = np.array(problem.tokens, np.int64), np.array(problem.queries, np.int64)
    tile_q, tile = min(knobs.tile_q, max(problem.queries)), min(knobs.tile, max(problem.tokens))
    per_head = -(-new // tile_q)
    items = per_head * problem.heads
    sequence, within = within_owners(items)
    head, skipped = within // per_head[sequence], within % per_head[sequence] * tile_q
    rows, query = np.minimum(new[sequence] - skipped, tile_q), (lengths - new)[sequence] + skipped
    return {
        "first": (np.cumsum(lengths) - lengths)[sequence],
        "head": head,
        "row": (np.cumsum(new) - new)[sequence] + skipped,
        "query": query,
        "rows": rows,
        "tokens": query + rows,
        "tiles": -(-(query + rows) // tile),
    }


class _Attend(PhaseWriter):
    """Writes the attention, one method per queue."""

    def __init__(
        self, problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...], tasks: dict[str, Array]
    ) -> None:
        self._problem, self._stages = problem, knobs.stages
        tq, self._tile = min(knobs.tile_q, max(problem.queries)), min(knobs.tile, max(problem.tokens))
        tile, dtype, kind, stages = self._tile, problem.dtype, knobs.sram_layout, knobs.stages
        along = [contiguous_axis(tensors[number], ("token", "dim")) for number in (K, V)]
        k, v = block("k", tile, problem.nope, dtype, stages), block("v", tile, problem.value_dim, dtype, stages)
        requested = (
            operand(block("q nope", tq, problem.nope, dtype, 2), machine, kind, side="a", axis_of_k=1),
            operand(block("q rope", tq, problem.rope, dtype, 2), machine, kind, side="a", axis_of_k=1),
            operand(k, machine, kind, side="b", axis_of_k=1, filled_along=along[0]),
            operand(block("rotary", tile, problem.rope, dtype, stages), machine, kind, side="b", axis_of_k=1),
            operand(v, machine, kind, side="b", axis_of_k=0, filled_along=along[1]),
            block("scores", tq, tile, "fp32", 2),
            operand(block("probabilities", tq, tile, dtype, 2), machine, kind, side="a", axis_of_k=1),
            block("maximum", tq, 1, "fp32"),
            block("sum", tq, 1, "fp32"),
            block("accumulator", tq, problem.value_dim, "fp32"),
            block("out", tq, problem.value_dim, dtype, 2),
        )
        causes: dict[Cause, tuple[str, ...]] = {
            "memory": ("q loaded", "k loaded", "v loaded"),
            "buffer": ("q free", "k free", "v free", "scores free", "probabilities free", "out free"),
            "dependency": ("scores", "probabilities", "tile summed", "out"),
        }
        super().__init__("attend", tensors, tasks, requested, causes, machine)
        self._tiles, self._rows, self._head = (self._p.column(name) for name in ("tiles", "rows", "head"))

    def _tile_tokens(self, index: Affine | int) -> Affine:
        return (self._p.column("tokens") - index * self._tile).clip(self._tile)

    def _queries(self) -> Axes:
        return {"token": (self._p.column("row"), self._rows), "head": (self._head, 1)}

    def load(self) -> None:
        """Both parts of the queries once per item, then tiles of both parts of the keys, and of the values."""
        p, nope, rope = self._p, self._problem.nope, self._problem.rope
        parts = (("q nope", (0, nope)), ("q rope", (nope, rope)))
        for name, columns in parts:
            (q,) = self._item(name)
            region = Region(Q, self._queries() | {"dim": columns})
            first = name == parts[0][0]
            wait = self._waits(q_free=p.begun - 1) if first else []
            p.load(q, region, wait=wait, signal=[] if first else self._signals("q loaded"))
        with p.loop("load", self._tiles) as i:
            tokens = (p.column("first") + i.index * self._tile, self._tile_tokens(i.index))
            of_head: Axes = {"token": tokens, "head": (self._head, 1)}
            free = i.running - self._stages + 1
            p.load(self._slot("k", i.running), Region(K, of_head), wait=self._waits(k_free=free))
            rotary = Region(ROTARY, {"token": tokens})
            p.load(self._slot("rotary", i.running), rotary, signal=self._signals("k loaded"))
            wait, signal = self._waits(v_free=free), self._signals("v loaded")
            p.load(self._slot("v", i.running), Region(V, of_head), wait=wait, signal=signal)

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
        p, tokens, scores = self._p, self._tile_tokens(index), self._slot("scores", number)
        wait = self._waits(q_loaded=p.begun + 1, k_loaded=number + 1, scores_free=number - 1)
        q_nope, q_rope = self._item("q nope", "q rope")
        nope, rope = (self._rows, tokens, self._problem.nope), (self._rows, tokens, self._problem.rope)
        p.matmul(scores, q_nope, self._slot("k", number), nope, transpose_b=True, wait=wait)
        signal, rotary = self._signals("scores", "k free"), self._slot("rotary", number)
        p.matmul(scores, q_rope, rotary, rope, transpose_b=True, accumulate=1, signal=signal)

    def _weigh(self, number: Affine, index: Affine | int, *also: str) -> None:
        (accumulator,) = self._item("accumulator")
        self._p.matmul(
            accumulator,
            self._slot("probabilities", number),
            self._slot("v", number),
            (self._rows, self._problem.value_dim, self._tile_tokens(index)),
            accumulate=1,
            wait=self._waits(v_loaded=number + 1, probabilities=number + 1),
            signal=self._signals("tile summed", "v free", "probabilities free", *also),
        )

    def vector(self) -> None:
        """Masked online softmax per tile, then the result of the item."""
        p = self._p
        with p.loop("vector", self._tiles) as i:
            visible = p.column("query") + 1 - i.index * self._tile
            tile = (self._slot("probabilities", i.running), self._slot("scores", i.running))
            p.vector(
                "causal_softmax_step",
                (*tile, *self._item("maximum", "sum", "accumulator")),
                (self._rows, self._tile_tokens(i.index), 1 - i.index, 0, visible, 1),
                scalar=self._problem.scale,
                wait=self._waits(scores=i.running + 1, probabilities_free=i.running - 1, tile_summed=i.running),
                signal=self._signals("probabilities", "scores free"),
            )
        p.vector(
            "normalise",
            self._item("out", "accumulator", "sum"),
            (self._rows, self._problem.value_dim),
            wait=self._waits(tile_summed=p.running(0), out_free=p.begun - 1),
            signal=self._signals("out"),
        )

    def store(self) -> None:
        (out,) = self._item("out")
        wait, signal = self._waits(out=self._p.begun + 1), self._signals("out free")
        self._p.store(out, Region(OUT, self._queries()), wait=wait, signal=signal)
