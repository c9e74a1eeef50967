"""GEMM of e4m3 operands with scales of blocks: c[m, n] = (a sa)[m, k] (b sb)[n, k]^T, in bf16.

The scales are fp32, those of a of 1 x 128 blocks (per token), those of b of 128 x 128. The product of 128 of k comes
from the matrix unit without scales and is promoted on the vector unit: multiplied by both scales and added to the sum
in fp32, as DeepGEMM does on Hopper. Products rotate through `accumulators` blocks, of which one is the sum so far: with
two of them either unit waits for the other, with three both work at once.

The tile of k is one block. Scales of a lie MN-major with columns on 16 bytes (DeepGEMM) or row-major, those of b
row-major. Quantising a is a kernel of its own (`quantise`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwmodel.assembler import block
from hwmodel.machine import Machine
from hwmodel.program import NONE, Program, Tensor
from layouts.catalog.scales import BLOCK, deepgemm_sfa, deepgemm_sfb
from layouts.notation import NamedLayout, named
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS
from workloads.kernels.base import check_knobs, knob, knob_layout, require_options
from workloads.kernels.gemm_grid import Array, Grid, group_knob, number_of, order_knob, partial_tensor
from workloads.kernels.gemm_tiles import Multiply, Recipe, Stream, operand_stream, reduce_parts
from workloads.model import Model
from workloads.placement import place
from workloads.schedule import SCHEDULES

SCALE_LAYOUTS = ("m-major", "k-major")


@dataclass(frozen=True)
class Problem:
    """Sizes of one matrix product."""

    m: int
    n: int
    k: int


@dataclass(frozen=True)
class Knobs:
    """What the search may choose."""

    layout_a: str = knob("m k", "where a lies, outermost first", axes="m, k")
    layout_b: str = knob("n k", "where b lies, outermost first", axes="n, k")
    layout_c: str = knob("m n", "where c lies, outermost first", axes="m, n")
    scales_a: str = knob("m-major", "which scales of a lie side by side: of its rows or of k", choices=SCALE_LAYOUTS)
    tile_m: int = knob(128, "rows of a tile of a and c", least=1)
    tile_n: int = knob(64, "columns of a tile of c, rows of a tile of b", least=1)
    stages: int = knob(3, "tiles of a and of b in flight", least=1)
    accumulators: int = knob(3, "tiles of products, of which one is the sum so far", least=2)
    split_k: int = knob(1, "parts of k that different cores take; more than 1 adds a reduction", least=1)
    schedule: str = knob("static", "items dealt round, to the least loaded core, or to a free one", choices=SCHEDULES)
    sram_layout: str = knob("swizzled", "where tiles of a and b lie in the scratchpad", choices=OPERAND_LAYOUTS)
    order: str = order_knob()
    group_m: int = group_knob()


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of the sizes m, n, k in `options`; model and batch are not used."""
    require_options("gemm-w8a8-block", options, ("m", "n", "k"))
    return Problem(options["m"], options["n"], options["k"])


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, orders by what they order."""
    grid = _grid(problem, knobs)
    layouts = [repr(tensor.layout.key) for tensor in _tensors(problem, knobs, grid)]
    return (*layouts, *grid.key, knobs.stages, knobs.accumulators, knobs.sram_layout, knobs.schedule)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    grid = _grid(problem, knobs)
    tensors = place(_tensors(problem, knobs, grid), machine)
    items = grid.work_items()
    items |= scale_squares(items["n"], grid.tile_n, grid.n)
    recipe = Recipe(
        operand_stream(grid, machine, knobs, tensors, "a"),
        operand_stream(grid, machine, knobs, tensors, "b"),
        (number_of(tensors, "c"), "bf16"),
        number_of(tensors, "partial"),
        promotion=_scales(knobs, tensors, int(items["blocks"].max())),
        accumulators=knobs.accumulators,
    )
    phases = [Multiply(grid, recipe, machine, tensors, knobs.stages, items).finish(knobs.schedule, machine)]
    sizes = {"tile_m": knobs.tile_m, "tile_n": knobs.tile_n}
    machine.require_fit(phases[0], sizes | {"accumulators": knobs.accumulators, "stages": knobs.stages})
    if grid.parts > 1:
        phases.append(reduce_parts(grid, recipe, machine, tensors))
        machine.require_fit(phases[1], sizes | {"split_k": knobs.split_k})
    return Program("gemm-w8a8-block", tensors, tuple(phases))


def _grid(problem: Problem, knobs: Knobs) -> Grid:
    return Grid.of(knobs, problem.m, problem.n, problem.k, tile_k=BLOCK)


def _tensors(problem: Problem, knobs: Knobs, grid: Grid) -> list[Tensor]:
    m, n, k = problem.m, problem.n, problem.k
    tensors = [
        Tensor("a", knob_layout(knobs, "layout_a", {"m": m, "k": k}), "fp8_e4m3", NONE),
        Tensor("b", knob_layout(knobs, "layout_b", {"n": n, "k": k}), "fp8_e4m3", NONE),
        Tensor("c", knob_layout(knobs, "layout_c", {"m": m, "n": n}), "bf16", NONE),
        Tensor("scales a", scales_layout(knobs.scales_a, m, k), "fp32", NONE),
        Tensor("scales b", deepgemm_sfb(n, k), "fp32", NONE),
    ]
    return tensors + ([partial_tensor(grid, "fp32")] if grid.parts > 1 else [])


def scales_layout(order: str, m: int, k: int) -> NamedLayout:
    """Return where the scales of the 1 x 128 blocks of a matrix [m, k] lie, axes row and col: one of SCALE_LAYOUTS."""
    if order == "m-major":
        return deepgemm_sfa(m, k)
    return named("row col", {"row": m, "col": -(-k // BLOCK)})


def scale_squares(begin: Array, tile_n: int, n: int) -> dict[str, Array]:
    """Return for tiles of b the first row of its scales and their count, and where the tile begins in it.

    `begin`: first row of each tile of `tile_n` of the n rows.
    """
    last = (begin + tile_n).clip(max=n) - 1
    return {"block": begin // BLOCK, "blocks": last // BLOCK - begin // BLOCK + 1, "offset": begin % BLOCK}


def _scales(knobs: Knobs, tensors: tuple[Tensor, ...], blocks: int) -> tuple[Stream, Stream]:
    axes = ("row", "col")
    of_a = block("scales a", knobs.tile_m, 1, "fp32", knobs.stages)
    of_b = block("scales b", blocks, 1, "fp32", knobs.stages)
    return (
        Stream(number_of(tensors, "scales a"), axes, of_a, "a", unit=BLOCK),
        Stream(number_of(tensors, "scales b"), axes, of_b, "b", unit=BLOCK, squares=True),
    )
