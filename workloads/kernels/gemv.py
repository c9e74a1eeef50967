"""GEMV and its like: c[m, n] = a[m, k] b[n, k]^T with few rows of a, where reading the weights b is all the work.

A work item is `tile_n` rows of b and all rows of a, or one of `split_k` parts of their k. Tiles of b stream through
`stages` buffers, each once; the tiles of a that belong to them come from the shared cache, where a machine has one: the
kernel before has just written them. The matrix unit multiplies, with m padded to its block, or the vector unit does,
which must convert the weights to fp32 first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from hwmodel.machine import Machine
from hwmodel.program import Program, Tensor
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS
from workloads.kernels import gemm
from workloads.kernels.base import check_knobs, knob, require_options
from workloads.kernels.gemm import Problem
from workloads.kernels.gemm_grid import Grid, number_of, partial_tensor
from workloads.kernels.gemm_tiles import Multiply, Recipe, operand_stream, reduce_parts
from workloads.model import Model
from workloads.placement import place
from workloads.schedule import SCHEDULES


@dataclass(frozen=True)
class Knobs:
    """What the search may choose."""

    layout_a: str = knob("m k", "where a lies, outermost first", axes="m, k")
    layout_b: str = knob("n k", "where the weights lie, outermost first", axes="n, k")
    layout_c: str = knob("m n", "where c lies, outermost first", axes="m, n")
    unit: Literal["vector", "matrix"] = knob("vector", "which unit multiplies", choices=gemm.UNITS)
    tile_n: int = knob(32, "rows of a tile of the weights, columns of c", least=1)
    tile_k: int = knob(512, "elements of k in one load", least=1)
    stages: int = knob(4, "tiles of the weights in flight", least=1)
    split_k: int = knob(1, "parts of k that different cores take; more than 1 adds a reduction", least=1)
    schedule: str = knob("static", "items dealt round, to the least loaded core, or to a free one", choices=SCHEDULES)
    sram_layout: str = knob("swizzled", "where operands of the matrix unit lie", choices=OPERAND_LAYOUTS)


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of the sizes m (rows of a), n, k in `options`, in the model's dtype or bf16."""
    require_options("gemv", options, ("m", "n", "k"))
    return gemm.shape(model, batch, options)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function."""
    layouts = [repr(tensor.layout.key) for tensor in gemm.operand_tensors(problem, knobs)]
    return (*layouts, *_grid(problem, knobs).key, knobs.unit, knobs.stages, knobs.schedule, gemm.sram_layout(knobs))


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    knobs = replace(knobs, sram_layout=gemm.sram_layout(knobs))
    grid = _grid(problem, knobs)
    tensors = place(_tensors(problem, knobs, grid), machine)
    recipe = Recipe(
        operand_stream(grid, machine, knobs, tensors, "a"),
        operand_stream(grid, machine, knobs, tensors, "b"),
        (number_of(tensors, "c"), problem.result_dtype),
        number_of(tensors, "partial"),
        unit=knobs.unit,
    )
    phases = [Multiply(grid, recipe, machine, tensors, knobs.stages).finish(knobs.schedule, machine)]
    sizes = {"tile_n": knobs.tile_n, "tile_k": knobs.tile_k, "stages": knobs.stages}
    machine.require_fit(phases[0], sizes)
    if grid.parts > 1:
        phases.append(reduce_parts(grid, recipe, machine, tensors))
        machine.require_fit(phases[1], {"tile_n": knobs.tile_n, "split_k": knobs.split_k})
    return Program("gemv", tensors, tuple(phases))


def _grid(problem: Problem, knobs: Knobs) -> Grid:
    return Grid(problem.m, problem.n, problem.k, problem.m, knobs.tile_n, knobs.tile_k, knobs.split_k)


def _tensors(problem: Problem, knobs: Knobs, grid: Grid) -> list[Tensor]:
    a, b, c = gemm.operand_tensors(problem, knobs)
    tensors = [replace(a, resident="cache"), b, replace(c, resident="cache")]
    return tensors + ([replace(partial_tensor(grid, "fp32"), resident="cache")] if grid.parts > 1 else [])
