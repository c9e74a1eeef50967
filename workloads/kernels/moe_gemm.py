"""Grouped GEMM: the rows of every expert times its own weights, c[row, n] = a[row, k] b[expert, n, k]^T.

A work item is a tile of c within the rows of one expert, so rows of two experts never share a tile; only the weights of
experts that have tokens are read. It streams tiles of a and b through `stages` buffers into an fp32 accumulator. Rows
lie in contiguous groups (padded to whole tiles) or in masked ones (room for a fixed number), or are gathered from the
tokens as they are loaded, without a permutation before. The matrix unit takes whole tiles where padding is `computed`,
and what lies in padding rows is then loaded and stored as well; `skipped` takes the rows of tokens only.

With two halves (gate and up of a gated MLP) an item computes one half, or both with SwiGLU in its epilogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hwmodel.assembler import Affine, PhaseAssembler, Region, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import NONE, Buffer, Phase, Program, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS, allocate, contiguous_axis, operand
from workloads.kernels.base import knob, knob_layout
from workloads.kernels.model_sizes import expert_product
from workloads.kernels.moe_placement import PLACEMENTS, place_experts
from workloads.kernels.moe_problem import (
    GROUPINGS,
    Routed,
    RoutingKnobs,
    check,
    cut,
    groups_of,
    routed_sizes,
    routing_key,
    routing_of,
    sorted_tokens,
)
from workloads.model import Model
from workloads.placement import place
from workloads.routing import Groups, Routing

A, B, C, TOKENS = range(4)
PADDINGS = ("skipped", "computed")
SOURCES = (*GROUPINGS, "gathered")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Problem(Routed):
    """Routed tokens of `k` elements, experts of `n` outputs."""

    n: int
    k: int


@dataclass(frozen=True, kw_only=True)
class TileKnobs:
    """What the search may choose of a grouped product."""

    tile_m: int = knob(64, "rows of an expert in a tile, to whose multiple contiguous groups are padded", least=1)
    tile_n: int = knob(128, "columns of a tile of c (of each half where both are taken)", least=1)
    tile_k: int = knob(64, "elements of k in one load of a and b", least=1)
    stages: int = knob(3, "tiles of a and of b in flight", least=1)
    padding: str = knob("skipped", "whether rows that pad a tile are taken along", choices=PADDINGS)
    schedule: str = knob("static", "items dealt round, balanced, to a free core, or to owners", choices=PLACEMENTS)
    copies: int = knob(0, "more copies of hot experts, for pinned schedules", least=0)
    sram_layout: str = knob("swizzled", "where tiles of a and b lie in the scratchpad", choices=OPERAND_LAYOUTS)


@dataclass(frozen=True, kw_only=True)
class Knobs(TileKnobs, RoutingKnobs):
    """What the search may choose."""

    rows: str = knob("contiguous", "groups of a: contiguous, masked, or gathered from the tokens", choices=SOURCES)
    layout_b: str = knob("expert n k", "where the weights lie, outermost first", axes="expert, n, k")


@dataclass(frozen=True)
class Product:
    """One grouped product: tensors by number, with axes in the order of the names.

    a: row, k; b: expert, (half,) n, k; c: row, (half,) n. `halves`: whether b has two. `fused`: whether an item takes
    both and c has none. `table`: sorted tokens by which a is gathered, NONE where its rows are permuted.
    """

    name: str
    a: int
    b: int
    c: int
    halves: bool = False
    fused: bool = False
    table: int = NONE


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of tokens, experts, topk, n and k (a model's: of gate and up), in its dtype or bf16."""
    return Problem(**routed_sizes("grouped-gemm", options, model, ("n", "k"), {"max_rows": 0}, expert_product))


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, copies where there are owners."""
    weights = repr(knob_layout(knobs, "layout_b", _weight_sizes(problem)).key)
    return (*routing_key(problem, knobs), weights, knobs.rows, *tile_key(knobs))


def tile_key(knobs: TileKnobs) -> tuple[Any, ...]:
    """Return a key of the knobs of tiles that is equal for those of one meaning."""
    copies = knobs.copies if knobs.schedule.startswith("pinned") else 0
    tiles = (knobs.tile_m, knobs.tile_n, knobs.tile_k, knobs.stages)
    return (*tiles, knobs.padding, knobs.schedule, copies, knobs.sram_layout)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` draws the routing where the problem has none.
    """
    check(knobs)
    routing = routing_of(problem, knobs, seed)
    gathered = knobs.rows == "gathered"
    groups = groups_of(problem, routing, "contiguous" if gathered else knobs.rows, knobs.tile_m)
    a = named("row k", {"row": problem.tokens if gathered else groups.rows, "k": problem.k})
    c = named("row n", {"row": groups.rows, "n": problem.n})
    tensors = place(
        [
            Tensor("a", a, problem.dtype, NONE, "cache"),
            Tensor("b", knob_layout(knobs, "layout_b", _weight_sizes(problem)), problem.dtype, NONE),
            Tensor("c", c, problem.dtype, NONE, "cache"),
            *([sorted_tokens(routing)] if gathered else []),
        ],
        machine,
    )
    product = Product("multiply", A, B, C, table=TOKENS if gathered else NONE)
    phase = multiply(product, tensors, routing, groups, knobs, machine)
    return Program("grouped-gemm", tensors, (phase,))


def _weight_sizes(problem: Problem) -> dict[str, int]:
    return {"expert": problem.experts, "n": problem.n, "k": problem.k}


def multiply(
    product: Product,
    tensors: tuple[Tensor, ...],
    routing: Routing,
    groups: Groups,
    knobs: TileKnobs,
    machine: Machine,
) -> Phase:
    """Return the phase of a grouped product. Raises ValueError if its buffers do not fit, with by how much."""
    items = work_items(product, tensors, routing, groups, knobs)
    writer = _Multiply(product, tensors, tuple(items), knobs, machine)
    costs = items["computed"] * np.minimum(knobs.tile_n, writer.n - items["n"])
    order = place_experts(
        knobs.schedule, items["expert"], costs, routing.counts, machine.spec.cores.count, knobs.copies
    )
    writer.write()
    phase = writer.phase.finish(np.stack(list(items.values()), axis=1), order)
    sizes = {"tile_m": knobs.tile_m, "tile_n": knobs.tile_n, "tile_k": knobs.tile_k, "stages": knobs.stages}
    machine.require_fit(phase, sizes)
    return phase


def work_items(
    product: Product, tensors: tuple[Tensor, ...], routing: Routing, groups: Groups, knobs: TileKnobs
) -> dict[str, Array]:
    """Return the columns of the items, by expert, then rows, halves and columns.

    `rows` are loaded and stored, `computed` enter the matrix unit: more where padding is computed but not loaded, as
    gathered rows have none.
    """
    tiles = cut(routing.counts, groups.room, knobs.tile_m)
    gathered, whole = product.table != NONE, knobs.padding == "computed"
    halves = 2 if product.halves and not product.fused else 1
    across = -(-tensors[product.b].layout.size(tensors[product.b].layout.axes[-2]) // knobs.tile_n)
    item, half, column = np.indices((len(tiles["expert"]), halves, across)).reshape(3, -1)
    expert, first = tiles["expert"][item], tiles["first"][item]
    room = tiles["room"][item]
    return {
        "expert": expert,
        "row": groups.starts[expert] + first,
        "source": (routing.first[expert] if gathered else groups.starts[expert]) + first,
        "rows": room if whole and not gathered else tiles["rows"][item],
        "computed": room if whole else tiles["rows"][item],
        "half": half,
        "n": column * knobs.tile_n,
    }


class _Multiply:
    """Writes the queues of a grouped product."""

    def __init__(
        self,
        product: Product,
        tensors: tuple[Tensor, ...],
        columns: tuple[str, ...],
        knobs: TileKnobs,
        machine: Machine,
    ) -> None:
        self.phase = p = PhaseAssembler(product.name, tensors, columns)
        self._product, self._knobs = product, knobs
        weights = tensors[product.b].layout
        self.n, self._k = (weights.size(axis) for axis in weights.axes[-2:])
        self._parts = 2 if product.fused else 1
        tm, tn = knobs.tile_m, knobs.tile_n
        requested = (
            self._operand(tensors[product.a], "a", tm, machine),
            self._operand(tensors[product.b], "b", tn * self._parts, machine),
            block("accumulator", tm, tn * self._parts, "fp32"),
            block("out", tm, tn, tensors[product.c].dtype),
        )
        self._a, self._b, self._accumulator, self._out = p.add_buffers(allocate(requested, machine))
        self._loaded, self._free = p.counter("a and b loaded", "memory"), p.counter("a and b free", "buffer")
        self._out_free, self._sum_free = p.counter("out free", "buffer"), p.counter("accumulator free", "buffer")
        self._summed, self._ready = p.counter("sum", "dependency"), p.counter("out", "dependency")
        self._width = (self.n - p.column("n")).clip(tn)
        self._tiles = -(-self._k // knobs.tile_k)

    def _operand(self, tensor: Tensor, side: Literal["a", "b"], rows: int, machine: Machine) -> Buffer:
        request = block(side, rows, self._knobs.tile_k, tensor.dtype, self._knobs.stages)
        axes = tensor.layout.axes
        along = contiguous_axis(tensor, (axes[0] if side == "a" else axes[-2], axes[-1]))
        return operand(request, machine, self._knobs.sram_layout, side=side, axis_of_k=1, filled_along=along)

    def _inner(self, index: Affine | int) -> Affine:
        return (self._k - Affine.of(index) * self._knobs.tile_k).clip(self._knobs.tile_k)

    def write(self) -> None:
        self._load()
        p = self.phase
        number = p.begun * self._tiles
        with p.loop("matrix", self._tiles - 1) as i:
            self._matmul(number + i.index, i.index, [self._free])
        self._matmul(number + self._tiles - 1, self._tiles - 1, [self._free, self._summed])
        p.vector(
            "swiglu" if self._product.fused else "convert",
            (Slot(self._out, p.begun), Slot(self._accumulator, p.begun)),
            (p.column("rows"), self._width),
            wait=[(self._summed, p.begun + 1), (self._out_free, p.begun)],
            signal=[self._ready, self._sum_free],
        )
        self._store()

    def _load(self) -> None:
        p, product, step = self.phase, self._product, self._knobs.tile_k
        a, b = (p.tensors[number].layout.axes for number in (product.a, product.b))
        weights: dict[str, tuple[Affine | int, Affine | int]] = {
            b[0]: (p.column("expert"), 1),
            b[-2]: (p.column("n"), self._width),
        }
        if product.halves:
            weights[b[1]] = (0, 2) if product.fused else (p.column("half"), 1)
        rows = {a[0]: (p.column("source"), p.column("rows"))}
        with p.loop("load", self._tiles) as i:
            inner = (i.index * step, self._inner(i.index))
            wait = [(self._free, i.running - self._knobs.stages + 1)]
            indexed = (product.table, 0, a[0], a[0]) if product.table != NONE else ()
            p.load(Slot(self._a, i.running), Region(product.a, rows | {a[1]: inner}, *indexed), wait=wait)
            there = Region(product.b, weights | {b[-1]: inner})
            p.load(Slot(self._b, i.running), there, wait=wait, signal=[self._loaded])

    def _matmul(self, number: Affine, index: Affine | int, signal: list[int]) -> None:
        p, parts = self.phase, self._parts
        width = ((self.n - p.column("n")) * parts).clip(self._knobs.tile_n * parts)
        p.matmul(
            Slot(self._accumulator, p.begun),
            Slot(self._a, number),
            Slot(self._b, number),
            (p.column("computed"), width, self._inner(index)),
            transpose_b=True,
            accumulate=index,
            wait=[(self._loaded, number + 1), (self._sum_free, p.begun)],
            signal=signal,
        )

    def _store(self) -> None:
        p, product = self.phase, self._product
        c = p.tensors[product.c].layout.axes
        there: dict[str, tuple[Affine | int, Affine | int]] = {
            c[0]: (p.column("row"), p.column("rows")),
            c[-1]: (p.column("n"), self._width),
        }
        if product.halves and not product.fused:
            there[c[1]] = (p.column("half"), 1)
        p.store(
            Slot(self._out, p.begun),
            Region(product.c, there),
            wait=[(self._ready, p.begun + 1)],
            signal=[self._out_free],
        )
