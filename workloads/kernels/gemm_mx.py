"""GEMM of microscaled operands: both have blocks of k that share a scale, in one of three formats, to bf16.

| format | elements | block | scale | beside it |
|---|---|---|---|---|
| mxfp8 | e4m3 | 32 | e8m0, a power of two | |
| mxfp4 | e2m1, two to a byte | 32 | e8m0 | |
| nvfp4 | e2m1, two to a byte | 16 | e4m3 | an fp32 scale per tensor, which multiplies the sum |

Scales lie in 128 x 4 tiles (OCP formats in cuBLAS, CUTLASS and others) or row-major; see `layouts.catalog.scales`.
A matrix unit with a rate for scaled operands (`cores.matrix.fp8_scaled`, `fp4_scaled`) multiplies them as they were
loaded: it takes the time of that rate, reads each element once in 8 or 4 bits and each scale once, and the vector unit
spends no time. The scratchpad must have room for a tile of either operand in two bytes per element all the same; the
hardware keeps none. Elsewhere the vector unit expands each tile to bf16 first, elements times scales, which bf16 holds
without an error but where it underflows (below 2^-133).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hwmodel.assembler import block
from hwmodel.machine import Machine
from hwmodel.program import NONE, Buffer, Program, Tensor
from layouts.catalog.scales import sf_128x4, sf_linear
from layouts.notation import NamedLayout
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS
from workloads.kernels.base import check_knobs, knob, knob_layout, require_options
from workloads.kernels.gemm_expansion import Stored, Tile, expansion
from workloads.kernels.gemm_grid import (
    Grid,
    check_tile_k,
    group_knob,
    number_of,
    order_knob,
    partial_tensor,
    scales_tensor,
)
from workloads.kernels.gemm_tiles import Expansion, Multiply, Recipe, reduce_parts
from workloads.model import Model
from workloads.placement import place
from workloads.schedule import SCHEDULES

SCALE_LAYOUTS = ("128x4", "linear")


@dataclass(frozen=True)
class Format(Stored):
    """A block format; `has_tensor_scale`: beside the scales of blocks there is one for the tensor."""

    has_tensor_scale: bool = False

    @property
    def native(self) -> Literal["fp8_scaled", "fp4_scaled"]:
        """The type of an element with its scale inside a matrix unit that applies these."""
        return "fp8_scaled" if self.per_byte == 1 else "fp4_scaled"


FORMATS = {
    "mxfp8": Format(1, "fp8_e4m3", 32, "e8m0"),
    "mxfp4": Format(2, "uint8", 32, "e8m0"),
    "nvfp4": Format(2, "uint8", 16, "fp8_e4m3", True),
}


@dataclass(frozen=True)
class Problem:
    """Sizes of one matrix product, and the format of its operands."""

    m: int
    n: int
    k: int
    format: str

    @property
    def form(self) -> Format:
        return FORMATS[self.format]


@dataclass(frozen=True)
class Knobs:
    """What the search may choose."""

    layout_a: str = knob("m k", "where the bytes of a lie, outermost first; k counts bytes", axes="m, k")
    layout_b: str = knob("n k", "where the bytes of b lie, outermost first; k counts bytes", axes="n, k")
    layout_c: str = knob("m n", "where c lies, outermost first", axes="m, n")
    scales: str = knob("128x4", "scales in tiles of 128 rows by 4, or row by row", choices=SCALE_LAYOUTS)
    tile_m: int = knob(128, "rows of a tile of a and c", least=1)
    tile_n: int = knob(64, "columns of a tile of c, rows of a tile of b", least=1)
    tile_k: int = knob(128, "elements of k in one load of a and b, whole blocks", least=1)
    stages: int = knob(3, "tiles of a and of b in flight", least=1)
    expanded: int = knob(1, "tiles of a and of b in 16 bits", least=1)
    split_k: int = knob(1, "parts of k that different cores take; more than 1 adds a reduction", least=1)
    schedule: str = knob("static", "items dealt round, to the least loaded core, or to a free one", choices=SCHEDULES)
    sram_layout: str = knob("swizzled", "where expanded tiles lie in the scratchpad", choices=OPERAND_LAYOUTS)
    order: str = order_knob()
    group_m: int = group_knob()


def shape_in(kernel: str, form: str) -> Callable[[Model | None, Batch | None, Mapping[str, int]], Problem]:
    """Return what makes a problem of this format of the sizes m, n, k in its options; model and batch are not used."""

    def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
        require_options(kernel, options, ("m", "n", "k"))
        return Problem(options["m"], options["n"], options["k"], form)

    return shape


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, orders by what they order."""
    grid = _grid(problem, knobs)
    layouts = [repr(tensor.layout.key) for tensor in _tensors(problem, knobs, grid)]
    return (*layouts, *grid.key, knobs.stages, knobs.expanded, knobs.scales, knobs.sram_layout, knobs.schedule)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    check_tile_k(knobs.tile_k, problem.form.block, "a block of a scale")
    grid = _grid(problem, knobs)
    tensors = place(_tensors(problem, knobs, grid), machine)
    recipe = Recipe(
        _expansion(problem, knobs, machine, tensors, "a"),
        _expansion(problem, knobs, machine, tensors, "b"),
        (number_of(tensors, "c"), "bf16"),
        number_of(tensors, "partial"),
        scales=number_of(tensors, "scales"),
    )
    phases = [Multiply(grid, recipe, machine, tensors, knobs.stages).finish(knobs.schedule, machine)]
    sizes = {"tile_m": knobs.tile_m, "tile_n": knobs.tile_n}
    loaded = {"tile_k": knobs.tile_k, "stages": knobs.stages, "expanded": knobs.expanded}
    machine.require_fit(phases[0], sizes | loaded)
    if grid.parts > 1:
        phases.append(reduce_parts(grid, recipe, machine, tensors))
        machine.require_fit(phases[1], sizes | {"split_k": knobs.split_k})
    return Program(f"gemm-{problem.format}", tensors, tuple(phases))


def is_native(problem: Problem, machine: Machine) -> bool:
    """Return whether the machine's matrix unit applies the scales itself."""
    return getattr(machine.spec.cores.matrix, problem.form.native) is not None


def _grid(problem: Problem, knobs: Knobs) -> Grid:
    return Grid.of(knobs, problem.m, problem.n, problem.k)


def _tensors(problem: Problem, knobs: Knobs, grid: Grid) -> list[Tensor]:
    m, n, form = problem.m, problem.n, problem.form
    width = -(-problem.k // form.per_byte)
    tensors = [
        Tensor("a", knob_layout(knobs, "layout_a", {"m": m, "k": width}), form.dtype, NONE),
        Tensor("b", knob_layout(knobs, "layout_b", {"n": n, "k": width}), form.dtype, NONE),
        Tensor("c", knob_layout(knobs, "layout_c", {"m": m, "n": n}), "bf16", NONE),
        Tensor("scales a", scales_layout(knobs.scales, m, problem.k, form), form.scale_dtype, NONE),
        Tensor("scales b", scales_layout(knobs.scales, n, problem.k, form), form.scale_dtype, NONE),
    ]
    if grid.parts > 1:
        tensors.append(partial_tensor(grid, "fp32"))
    return tensors + ([scales_tensor()] if form.has_tensor_scale else [])


def scales_layout(order: str, rows: int, k: int, form: Stored) -> NamedLayout:
    """Return where the scales of a matrix [rows, k] lie, axes row and col: one of SCALE_LAYOUTS.

    Tiles of 128 x 4 are whole: rows and scales beyond the matrix have their place, and nobody asks for them.
    """
    if order == "linear":
        return sf_linear(rows, k, form.block)
    return sf_128x4(-(-rows // 128) * 128, -(-k // (4 * form.block)) * 4 * form.block, form.block)


def _expansion(
    problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...], side: Literal["a", "b"]
) -> Expansion:
    form, native = problem.form, is_native(problem, machine)
    rows, axis = (knobs.tile_m, "m") if side == "a" else (knobs.tile_n, "n")
    tile = Tile(
        side,
        rows,
        knobs.tile_k,
        knobs.stages,
        knobs.expanded,
        form.native if native else "bf16",
        (number_of(tensors, side), number_of(tensors, f"scales {side}")),
        ((axis, "k"), ("row", "col")),
    )
    scales = scale_buffer(form, f"scales {side}", knobs.scales, (rows, knobs.tile_k), knobs.stages)
    return expansion(function(form, native), form, tile, scales, machine, knobs.sram_layout)


def function(form: Stored, native: bool) -> str:
    """Return the vector operation that makes operands of a format, or that stands for what the matrix unit does."""
    return f"{'attach' if native else 'expand'}_{'blocks' if form.per_byte == 1 else 'fp4'}"


def scale_buffer(form: Stored, name: str, order: str, tile: tuple[int, int], stages: int) -> Buffer:
    """Return the request for the scales of a tile of rows by k, in the order in which they lie in memory."""
    layout = scales_layout(order, *tile, form)
    rows, columns = layout.size("row"), layout.size("col")
    return block(name, rows, columns, form.scale_dtype, stages, layout.layout)
