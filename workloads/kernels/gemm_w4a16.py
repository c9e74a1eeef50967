"""GEMM of 16-bit activations and narrow integer weights: c[m, n] = a[m, k] w[n, k]^T, each weight with its scale.

Of 4 bits (`gemm-w4a16`), b is stored two elements to a byte, along k, as unsigned numbers that stand for -8 to 7, with
a 16-bit scale for each group of 128 (or another `group`) of k in a row. Of 8 bits (`gemm-w8a16`), with a 16-bit scale
for each row, that is, output channel, which comes with every tile of it. The vector unit unpacks a tile, scales it and
rounds it to the type of the activations, into one of the `expanded` operands of the matrix unit.

The tile of k is whole groups. Layouts count bytes along k of b, and groups along k of its scales. Not modelled: zero
points, interleaved orders of the nibbles, and scaling after the product instead of before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwmodel.assembler import block
from hwmodel.machine import Machine
from hwmodel.program import NONE, Program, Tensor
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS
from workloads.kernels.base import check_knobs, knob, knob_layout, require_16_bit, require_options
from workloads.kernels.gemm_expansion import Stored, Tile, expansion
from workloads.kernels.gemm_grid import Grid, check_tile_k, group_knob, number_of, order_knob, partial_tensor
from workloads.kernels.gemm_tiles import Expansion, Multiply, Recipe, operand_stream, reduce_parts
from workloads.model import Model
from workloads.placement import place
from workloads.schedule import SCHEDULES

GROUP = 128
OPTIONAL = {"group": GROUP}


@dataclass(frozen=True)
class Problem:
    """Sizes of one matrix product; `group` elements of k share a scale, an even number, or all k of 8 `bits`."""

    m: int
    n: int
    k: int
    dtype: str
    group: int = GROUP
    bits: int = 4

    @property
    def stored(self) -> Stored:
        """How the weights lie in memory."""
        return Stored(8 // self.bits, "uint8" if self.bits == 4 else "int8", self.group, self.dtype)


@dataclass(frozen=True)
class Knobs:
    """What the search may choose."""

    layout_a: str = knob("m k", "where a lies, outermost first", axes="m, k")
    layout_b: str = knob("n k", "where the bytes of b lie, outermost first; k counts bytes", axes="n, k")
    layout_c: str = knob("m n", "where c lies, outermost first", axes="m, n")
    layout_scales: str = knob("k n", "where the scales of b lie, outermost first; k counts groups", axes="n, k")
    tile_m: int = knob(128, "rows of a tile of a and c", least=1)
    tile_n: int = knob(64, "columns of a tile of c, rows of a tile of b", least=1)
    tile_k: int = knob(128, "elements of k in one load of a and b, whole groups", least=1)
    stages: int = knob(3, "tiles of a and of b in flight", least=1)
    expanded: int = knob(2, "tiles of b in 16 bits", least=1)
    split_k: int = knob(1, "parts of k that different cores take; more than 1 adds a reduction", least=1)
    schedule: str = knob("static", "items dealt round, to the least loaded core, or to a free one", choices=SCHEDULES)
    sram_layout: str = knob("swizzled", "where tiles of a and b lie in the scratchpad", choices=OPERAND_LAYOUTS)
    order: str = order_knob()
    group_m: int = group_knob()


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of the sizes m, n, k and `group` in `options`, in the model's 16-bit dtype or bf16."""
    found = require_options("gemm-w4a16", options, ("m", "n", "k"), OPTIONAL)
    if found["group"] % 2:
        raise ValueError(f"options: size group is {found['group']}; allowed: even numbers, whose pairs share a byte")
    dtype = require_16_bit("gemm-w4a16", model.dtype if model else "bf16")
    return Problem(found["m"], found["n"], found["k"], dtype, found["group"])


def shape_8_bits(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of the sizes m, n, k in `options` with weights of 8 bits; else as `shape`."""
    found = require_options("gemm-w8a16", options, ("m", "n", "k"))
    dtype = require_16_bit("gemm-w8a16", model.dtype if model else "bf16")
    return Problem(found["m"], found["n"], found["k"], dtype, found["k"], 8)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, orders by what they order."""
    grid = _grid(problem, knobs)
    layouts = [repr(tensor.layout.key) for tensor in _tensors(problem, knobs, grid)]
    return (*layouts, *grid.key, knobs.stages, knobs.expanded, knobs.sram_layout, knobs.schedule)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    if problem.bits == 4:
        check_tile_k(knobs.tile_k, problem.group, "a group of scales")
    grid = _grid(problem, knobs)
    tensors = place(_tensors(problem, knobs, grid), machine)
    recipe = Recipe(
        operand_stream(grid, machine, knobs, tensors, "a"),
        _weights(problem, knobs, machine, tensors),
        (number_of(tensors, "c"), problem.dtype),
        number_of(tensors, "partial"),
    )
    phases = [Multiply(grid, recipe, machine, tensors, knobs.stages).finish(knobs.schedule, machine)]
    sizes = {"tile_m": knobs.tile_m, "tile_n": knobs.tile_n}
    loaded = {"tile_k": knobs.tile_k, "stages": knobs.stages, "expanded": knobs.expanded}
    machine.require_fit(phases[0], sizes | loaded)
    if grid.parts > 1:
        phases.append(reduce_parts(grid, recipe, machine, tensors))
        machine.require_fit(phases[1], sizes | {"split_k": knobs.split_k})
    return Program(f"gemm-w{problem.bits}a16", tensors, tuple(phases))


def _grid(problem: Problem, knobs: Knobs) -> Grid:
    return Grid.of(knobs, problem.m, problem.n, problem.k)


def _tensors(problem: Problem, knobs: Knobs, grid: Grid) -> list[Tensor]:
    m, n, k, dtype, stored = problem.m, problem.n, problem.k, problem.dtype, problem.stored
    groups = {"n": n, "k": -(-k // problem.group)}
    tensors = [
        Tensor("a", knob_layout(knobs, "layout_a", {"m": m, "k": k}), dtype, NONE),
        Tensor("b", knob_layout(knobs, "layout_b", {"n": n, "k": -(-k // stored.per_byte)}), stored.dtype, NONE),
        Tensor("c", knob_layout(knobs, "layout_c", {"m": m, "n": n}), dtype, NONE),
        Tensor("scales b", knob_layout(knobs, "layout_scales", groups), dtype, NONE),
    ]
    return tensors + ([partial_tensor(grid, "fp32")] if grid.parts > 1 else [])


def _weights(problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...]) -> Expansion:
    stored, axes = problem.stored, ("n", "k")
    scales = block("scales b", knobs.tile_n, max(1, knobs.tile_k // stored.block), problem.dtype, knobs.stages)
    tile = Tile(
        "b",
        knobs.tile_n,
        knobs.tile_k,
        knobs.stages,
        knobs.expanded,
        problem.dtype,
        (number_of(tensors, "b"), number_of(tensors, "scales b")),
        (axes, axes),
    )
    function = "expand_int4" if problem.bits == 4 else "expand_blocks"
    return expansion(function, stored, tile, scales, machine, knobs.sram_layout)
