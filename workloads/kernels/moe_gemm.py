"""Grouped GEMM: the rows of every expert times its own weights, c[row, n] = a[row, k] b[expert, n, k]^T.

A work item is a tile of c within the rows of one expert, so rows of two experts never share a tile; only the weights of
experts that have tokens are read. It streams tiles of a and b through `stages` buffers into an fp32 accumulator. Rows
lie in contiguous groups (padded to whole tiles) or in masked ones (room for a fixed number), or are gathered from the
tokens as they are loaded, without a permutation before. The matrix unit takes whole tiles where padding is `computed`,
and what lies in padding rows is then loaded and stored as well; `skipped` takes the rows of tokens only.

With two halves (gate and up of a gated MLP) an item computes one half, or both with SwiGLU in its epilogue. Operands
have one of the formats of `moe_formats`, and what a format does to them is written as for dense products
(`gemm_tiles`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hwmodel.assembler import Affine, Region, block
from hwmodel.machine import Machine
from hwmodel.program import NONE, Buffer, Phase, Program, Tensor
from layouts.catalog.scales import BLOCK
from layouts.notation import named
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS, contiguous_axis, operand
from workloads.kernels.base import knob, knob_layout, named_option
from workloads.kernels.gemm_expansion import Tile, expansion
from workloads.kernels.gemm_grid import Grid, number_of
from workloads.kernels.gemm_tiles import Axes, Expansion, Multiply, Recipe, Stream
from workloads.kernels.gemm_w8a8 import scale_squares
from workloads.kernels.model_sizes import expert_product
from workloads.kernels.moe_formats import (
    FORMATS,
    Format,
    Operand,
    activation_tensors,
    check_format,
    expert_scales,
    weight_tensors,
)
from workloads.kernels.moe_placement import PINNED, PLACEMENTS, WEIGHTS, Homes, homes_of, place_experts, place_weights
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
from workloads.routing import Groups, Routing

PADDINGS = ("skipped", "computed")
SOURCES = (*GROUPINGS, "gathered")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Problem(Routed):
    """Routed tokens of `k` elements, experts of `n` outputs, in a format of `moe_formats`."""

    n: int
    k: int
    format: str = "16-bit"

    @property
    def form(self) -> Format:
        return check_format(self.format, self.dtype)


@dataclass(frozen=True, kw_only=True)
class TileKnobs:
    """What the search may choose of a grouped product."""

    tile_m: int = knob(64, "rows of an expert in a tile, to whose multiple contiguous groups are padded", least=1)
    tile_n: int = knob(128, "columns of a tile of c (of each half where both are taken)", least=1)
    tile_k: int = knob(64, "elements of k in one load of a and b, made whole blocks of scales", least=1)
    stages: int = knob(3, "tiles of a and of b in flight", least=1)
    expanded: int = knob(2, "tiles in 16 bits of operands that are expanded", least=1)
    accumulators: int = knob(3, "tiles of products that are promoted, of which one is the sum so far", least=2)
    padding: str = knob("skipped", "whether rows that pad a tile are taken along", choices=PADDINGS)
    schedule: str = knob("static", "items dealt round, balanced, to a free core, or to owners", choices=PLACEMENTS)
    copies: int = knob(0, "more copies of hot experts, for pinned schedules", least=0)
    placement: str = knob(
        "interleaved", "weights lie over all of memory, by expert in stacks, or beside cores", choices=tuple(WEIGHTS)
    )
    sram_layout: str = knob("swizzled", "where tiles of a and b lie in the scratchpad", choices=OPERAND_LAYOUTS)


@dataclass(frozen=True, kw_only=True)
class Knobs(TileKnobs, RoutingKnobs):
    """What the search may choose."""

    rows: str = knob("contiguous", "groups of a: contiguous, masked, or gathered from the tokens", choices=SOURCES)
    layout_b: str = knob("expert n k", "where the weights lie, outermost first", axes="expert, n, k")


@dataclass(frozen=True)
class Product:
    """One grouped product: tensors by number, with axes in the order of the names.

    a: row, k; b: expert, (half,) n, k; c: row, (half,) n; scales_a: row, col; scales_b: expert, (half,) row, col;
    scales: expert, operand. `k`: elements of k. `halves`: whether b has two. `fused`: whether an item takes both and c
    has none. `table`: sorted tokens by which a is gathered, NONE where its rows are permuted.
    """

    name: str
    a: int
    b: int
    c: int
    k: int
    format: Format = FORMATS["16-bit"]
    scales_a: int = NONE
    scales_b: int = NONE
    scales: int = NONE
    halves: bool = False
    fused: bool = False
    table: int = NONE

    @property
    def parts(self) -> int:
        """The halves that an item takes."""
        return 2 if self.fused else 1


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int | str]) -> Problem:
    """Return the problem of tokens, experts, topk, n and k (a model's: of gate and up), in its dtype or a `format`."""
    form, given = named_option(options, "format", tuple(FORMATS))
    sizes = routed_sizes("grouped-gemm", given, model, ("n", "k"), {"max_rows": 0}, expert_product)
    problem = Problem(**sizes, format=form)
    check_format(form, problem.dtype)
    return problem


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, copies where there are owners."""
    weights = repr(knob_layout(knobs, "layout_b", _weight_sizes(problem)).key)
    return (*routing_key(problem, knobs), weights, knobs.rows, *tile_key(knobs, problem.form))


def tile_key(knobs: TileKnobs, form: Format) -> tuple[Any, ...]:
    """Return a key of the knobs of tiles that is equal for those of one meaning."""
    copies = knobs.copies if knobs.schedule in PINNED else 0
    tiles = (knobs.tile_m, knobs.tile_n, form.tile_k(knobs.tile_k), knobs.stages)
    kept = (knobs.expanded if form.expands else 0, knobs.accumulators if form.promoted else 0)
    return (*tiles, *kept, knobs.padding, knobs.schedule, copies, knobs.placement, knobs.sram_layout)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` draws the routing where the problem has none.
    """
    check(knobs)
    routing = routing_of(problem, knobs, seed)
    form, gathered = problem.form, knobs.rows == "gathered"
    groups = groups_of(problem, routing, "contiguous" if gathered else knobs.rows, knobs.tile_m)
    rows, c = problem.tokens if gathered else groups.rows, named("row n", {"row": groups.rows, "n": problem.n})
    homes = homes_of(knobs.schedule, knobs.placement, routing.counts, knobs.copies, machine)
    weights = knob_layout(knobs, "layout_b", _weight_sizes(problem) | {"expert": homes.seats})
    tensors = place_weights(
        [
            *activation_tensors(form, "a", rows, problem.k, problem.dtype, gathered=gathered),
            *weight_tensors(form, "b", weights, problem.n, problem.k, problem.dtype),
            Tensor("c", c, problem.dtype, NONE, "cache"),
            *([expert_scales("scales", homes.seats)] if form.scaled else []),
            *([sorted_tokens(routing)] if gathered else []),
        ],
        ("b", "scales b", "scales"),
        knobs.placement,
        machine,
    )
    names = ("a", "b", "c", "scales a", "scales b", "scales", "sorted tokens")
    a, b, out, scales_a, scales_b, scales, table = (number_of(tensors, name) for name in names)
    stored = form.gathered() if gathered else form
    product = Product("multiply", a, b, out, problem.k, stored, scales_a, scales_b, scales, table=table)
    phase = multiply(product, tensors, (routing, groups, homes), knobs, machine)
    return Program("grouped-gemm", tensors, (phase,))


def _weight_sizes(problem: Problem) -> dict[str, int]:
    return {"expert": problem.experts, "n": problem.n, "k": -(-problem.k // problem.form.b.per_byte)}


def multiply(
    product: Product,
    tensors: tuple[Tensor, ...],
    routed: tuple[Routing, Groups, Homes],
    knobs: TileKnobs,
    machine: Machine,
) -> Phase:
    """Return the phase of a grouped product of `routed` rows. Raises ValueError for buffers that do not fit."""
    form, (routing, groups, homes) = product.format, routed
    if form.promoted and product.fused and (knobs.tile_n % BLOCK or _outputs(product, tensors) % BLOCK):
        raise ValueError(f"fused: both halves of tile_n {knobs.tile_n} have scales of {BLOCK} rows; allowed: multiples")
    items = work_items(product, tensors, routing, groups, knobs)
    costs = items["computed"] * np.minimum(knobs.tile_n, _outputs(product, tensors) - items["n"])
    order = place_experts(knobs.schedule, items["expert"], costs, homes, machine.spec.cores.count)
    items["expert"] = homes.seat[homes.copies(items["expert"])]
    writer = _Multiply(product, tensors, items, knobs, machine)
    phase = writer.written().finish(np.stack(list(items.values()), axis=1), order)
    sizes = {"tile_m": knobs.tile_m, "tile_n": knobs.tile_n, "tile_k": form.tile_k(knobs.tile_k)}
    kept = {"expanded": knobs.expanded} if form.expands else {}
    kept |= {"accumulators": knobs.accumulators} if form.promoted else {}
    machine.require_fit(phase, sizes | {"stages": knobs.stages} | kept)
    return phase


def _outputs(product: Product, tensors: tuple[Tensor, ...]) -> int:
    """Return the outputs n of an expert (of a half of them)."""
    weights = tensors[product.b].layout
    return weights.size(weights.axes[-2])


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
    n = _outputs(product, tensors)
    across = -(-n // knobs.tile_n)
    item, half, column = np.indices((len(tiles["expert"]), halves, across)).reshape(3, -1)
    expert, first = tiles["expert"][item], tiles["first"][item]
    room, begin = tiles["room"][item], column * knobs.tile_n
    items = {
        "expert": expert,
        "row": groups.starts[expert] + first,
        "source": (routing.first[expert] if gathered else groups.starts[expert]) + first,
        "rows": room if whole and not gathered else tiles["rows"][item],
        "computed": room if whole else tiles["rows"][item],
        "half": half,
        "n": begin,
        "first": np.zeros_like(begin),
        "tiles": np.full_like(begin, -(-product.k // product.format.tile_k(knobs.tile_k))),
    }
    return items | (scale_squares(begin, knobs.tile_n, n) if product.format.promoted else {})


class _Multiply(Multiply):
    """The main phase of `gemm_tiles` over tiles of experts: rows, halves and weights of the item's expert."""

    def __init__(
        self,
        product: Product,
        tensors: tuple[Tensor, ...],
        items: Mapping[str, Array],
        knobs: TileKnobs,
        machine: Machine,
    ) -> None:
        self._product, self._outputs = product, _outputs(product, tensors)
        tile_k = product.format.tile_k(knobs.tile_k)
        grid = Grid(tensors[product.c].layout.size("row"), self._outputs, product.k, knobs.tile_m, knobs.tile_n, tile_k)
        recipe = _Recipes(product, tensors, knobs, machine).recipe(int(items.get("blocks", np.ones(1)).max()))
        super().__init__(grid, recipe, machine, tensors, knobs.stages, items, product.name)

    def _accumulator(self) -> Buffer:
        return block(
            "accumulator", self._grid.tile_m, self._grid.tile_n * self._product.parts, "fp32", self._recipe.accumulators
        )

    def _extents(self) -> tuple[Affine, Affine]:
        return self._p.column("rows"), (self._outputs - self._p.column("n")).clip(self._grid.tile_n)

    def _operand_rows(self, side: Literal["a", "b"]) -> Affine:
        parts = self._product.parts
        of_b = ((self._outputs - self._p.column("n")) * parts).clip(self._grid.tile_n * parts)
        return self._p.column("rows") if side == "a" else of_b

    def _multiplied(self) -> tuple[Affine, Affine]:
        return self._p.column("computed"), self._operand_rows("b")

    def _region(self, stream: Stream, index: Affine) -> Region:
        p, product = self._p, self._product
        along = {stream.axes[1]: self._k(index, stream.unit)}
        if stream.side == "a":
            rows = {stream.axes[0]: (p.column("source"), p.column("rows"))}
            indexed = (product.table, 0, stream.axes[0], stream.axes[0]) if product.table != NONE else ()
            return Region(stream.tensor, rows | along, *indexed)
        across = (p.column("block"), p.column("blocks")) if stream.squares else (p.column("n"), self._extents()[1])
        there: Axes = self._of_expert(stream.tensor) | {stream.axes[0]: across} | along
        return Region(stream.tensor, there)

    def _of_expert(self, tensor: int) -> dict[str, tuple[Affine | int, Affine | int]]:
        """Return the part of a tensor (expert, (half, ...) ...) that belongs to the item's expert and half."""
        p, axes = self._p, self._p.tensors[tensor].layout.axes
        there: dict[str, tuple[Affine | int, Affine | int]] = {axes[0]: (p.column("expert"), 1)}
        if self._product.halves and axes[1] == "half":
            there["half"] = (0, 2) if self._product.fused else (p.column("half"), 1)
        return there

    def _scales_region(self) -> Region:
        return Region(self._recipe.scales, self._of_expert(self._recipe.scales))

    def _rounding(self) -> str:
        if self._product.fused:
            return "swiglu_scaled" if self._scaled else "swiglu"
        return super()._rounding()

    def _result_region(self) -> Region:
        p, (rows, width) = self._p, self._extents()
        axes = p.tensors[self._product.c].layout.axes
        there: dict[str, tuple[Affine | int, Affine | int]] = {
            axes[0]: (p.column("row"), rows),
            axes[-1]: (p.column("n"), width),
        }
        if self._product.halves and not self._product.fused:
            there[axes[1]] = (p.column("half"), 1)
        return Region(self._product.c, there)


class _Recipes:
    """Makes the recipe of a grouped product: what its format says of the operands, with their buffers."""

    def __init__(self, product: Product, tensors: tuple[Tensor, ...], knobs: TileKnobs, machine: Machine) -> None:
        self._product, self._tensors, self._knobs, self._machine = product, tensors, knobs, machine
        self._tile_k = product.format.tile_k(knobs.tile_k)
        self._dtype = tensors[product.c].dtype
        self._native = product.format.is_native(machine)

    def recipe(self, blocks: int) -> Recipe:
        """Return the recipe; `blocks` of 128 rows of weights are the most that a half of an item touches."""
        product, knobs = self._product, self._knobs
        form = product.format
        of_b = blocks * product.parts
        return Recipe(
            self._operand("a", product.a, product.scales_a, form.a, knobs.tile_m),
            self._operand("b", product.b, product.scales_b, form.b, knobs.tile_n * product.parts),
            (product.c, self._dtype),
            NONE,
            promotion=(self._promoted("a", knobs.tile_m), self._promoted("b", of_b)) if form.promoted else None,
            accumulators=knobs.accumulators if form.promoted else 1,
            scales=product.scales,
        )

    def _operand(self, side: Literal["a", "b"], number: int, scales: int, o: Operand, rows: int) -> Stream | Expansion:
        if not o.expanded:
            return self._stream(side, number, rows)
        assert o.stored is not None
        dtype = self._product.format.native if self._native else self._dtype
        sizes = rows, self._tile_k, self._knobs.stages, self._knobs.expanded
        axes = self._axes(number), ("row", "col")
        return expansion(
            f"{'attach' if self._native else 'expand'}_{o.expanded}",
            o.stored,
            Tile(side, *sizes, dtype, (number, scales), axes),
            o.scale_buffer(f"scales {side}", rows, self._tile_k, self._knobs.stages, self._dtype),
            self._machine,
            self._knobs.sram_layout,
        )

    def _axes(self, number: int) -> tuple[str, str]:
        """Return the axes of a tensor along rows of a or b, and along k."""
        axes = self._tensors[number].layout.axes
        return axes[-2], axes[-1]

    def _stream(self, side: Literal["a", "b"], number: int, rows: int) -> Stream:
        axes = self._axes(number)
        request = block(side, rows, self._tile_k, self._tensors[number].dtype, self._knobs.stages)
        along = contiguous_axis(self._tensors[number], axes)
        buffer = operand(request, self._machine, self._knobs.sram_layout, side=side, axis_of_k=1, filled_along=along)
        return Stream(number, axes, buffer, side)

    def _promoted(self, side: Literal["a", "b"], rows: int) -> Stream:
        number = self._product.scales_a if side == "a" else self._product.scales_b
        buffer = block(f"scales {side}", rows, 1, "fp32", self._knobs.stages)
        return Stream(number, ("row", "col"), buffer, side, unit=BLOCK, squares=side == "b")
