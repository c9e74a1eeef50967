"""GEMM: c[m, n] = a[m, k] b[n, k]^T, tiled, multi-buffered, with split-K and its reduction.

A work item is one tile of c, or one of `split_k` parts of it. It streams tiles of a and b through `stages` buffers
into an accumulator, fp32, or int32 for int8. With split-K the items store partial tiles and a second phase adds them
up. b has the axes of a weight matrix, output features n by input features k. Layouts are knobs in the notation of
`layouts.catalog`. Operands of 8 bits have one scale per tensor, by which the sum is multiplied before it is rounded to
bf16. The same template with a batch axis multiplies many pairs of one shape (`batched-gemm`).

The matrix unit multiplies, or the vector unit in fp32 (products of fp32 that must not be rounded to TF32 first), one
multiply-add per alu operation, from a tile of registers that it fills from the scratchpad (`hwmodel.vector.quantise`).

Cores go on to their next tile without a new launch. What `order` is worth shows where tiles of a and b meet in a shared
cache or in multicast loads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from hwmodel.machine import Machine
from hwmodel.program import NONE, Program, Tensor
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS
from workloads.kernels.base import check_knobs, knob, knob_layout, require_options
from workloads.kernels.gemm_grid import Grid, group_knob, number_of, order_knob, partial_tensor, scales_tensor
from workloads.kernels.gemm_tiles import Multiply, Recipe, operand_stream, reduce_parts
from workloads.model import Model
from workloads.placement import place
from workloads.schedule import SCHEDULES

UNITS = ("matrix", "vector")
DTYPES = ("bf16", "fp16", "fp32", "fp8_e4m3", "int8")


@dataclass(frozen=True)
class Problem:
    """Sizes of a matrix product with operands of one type; `batch` products where it is not None."""

    m: int
    n: int
    k: int
    dtype: str
    batch: int | None = None

    @property
    def scaled(self) -> bool:
        """Whether the operands have scales, and the result the type of activations."""
        return self.dtype in ("fp8_e4m3", "int8")

    @property
    def result_dtype(self) -> str:
        return "bf16" if self.scaled else self.dtype

    @property
    def sum_dtype(self) -> str:
        return "int32" if self.dtype == "int8" else "fp32"


@dataclass(frozen=True)
class Knobs:
    """What the search may choose."""

    layout_a: str = knob("m k", "where a lies, outermost first", axes="m, k")
    layout_b: str = knob("n k", "where b lies, outermost first", axes="n, k")
    layout_c: str = knob("m n", "where c lies, outermost first", axes="m, n")
    tile_m: int = knob(128, "rows of a tile of a and c", least=1)
    tile_n: int = knob(128, "columns of a tile of c, rows of a tile of b", least=1)
    tile_k: int = knob(64, "elements of k in one load of a and b", least=1)
    stages: int = knob(3, "tiles of a and of b in flight", least=1)
    split_k: int = knob(1, "parts of k that different cores take; more than 1 adds a reduction", least=1)
    schedule: str = knob("static", "items dealt round, to the least loaded core, or to a free one", choices=SCHEDULES)
    sram_layout: str = knob("swizzled", "where tiles of a and b lie in the scratchpad", choices=OPERAND_LAYOUTS)
    order: str = order_knob()
    group_m: int = group_knob()
    unit: Literal["matrix", "vector"] = knob("matrix", "which unit multiplies", choices=UNITS)


@dataclass(frozen=True)
class BatchedKnobs(Knobs):
    """The same with the axis of the batch in the layouts."""

    layout_a: str = knob("batch m k", "where a lies, outermost first", axes="batch, m, k")
    layout_b: str = knob("batch n k", "where b lies, outermost first", axes="batch, n, k")
    layout_c: str = knob("batch m n", "where c lies, outermost first", axes="batch, m, n")


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of the sizes m, n, k in `options`, in the model's dtype or bf16; the batch is not used."""
    require_options("gemm", options, ("m", "n", "k"))
    dtype = model.dtype if model else "bf16"
    if dtype not in DTYPES:
        raise ValueError(f"kernel gemm: dtype {dtype!r} is not modelled; allowed: {', '.join(DTYPES)}")
    return Problem(options["m"], options["n"], options["k"], dtype)


def shape_in(kernel: str, dtype: str) -> Callable[[Model | None, Batch | None, Mapping[str, int]], Problem]:
    """Return `shape` for operands of one type, whatever the model's."""

    def shape_of(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
        require_options(kernel, options, ("m", "n", "k"))
        return Problem(options["m"], options["n"], options["k"], dtype)

    return shape_of


def batched_shape_in(kernel: str, dtype: str) -> Callable[[Model | None, Batch | None, Mapping[str, int]], Problem]:
    """Return `batched_shape` for operands of one type, whatever the model's."""

    def shape_of(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
        require_options(kernel, options, ("products", "m", "n", "k"))
        return Problem(options["m"], options["n"], options["k"], dtype, options["products"])

    return shape_of


def batched_shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of `products` pairs of matrices of the sizes m, n, k in `options`; else as `shape`."""
    require_options("batched-gemm", options, ("products", "m", "n", "k"))
    single = shape(model, batch, {name: options[name] for name in ("m", "n", "k")})
    return Problem(single.m, single.n, single.k, single.dtype, options["products"])


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, orders by what they order."""
    grid = _grid(problem, knobs)
    layouts = [repr(tensor.layout.key) for tensor in operand_tensors(problem, knobs)]
    return (*layouts, *grid.key, knobs.stages, sram_layout(knobs), knobs.schedule, knobs.unit)


def sram_layout(knobs: Any) -> str:
    """Return where tiles lie in the scratchpad: row by row where the vector unit reads them."""
    return knobs.sram_layout if knobs.unit == "matrix" else "row-major"


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    if knobs.unit == "vector" and problem.dtype == "int8":
        raise ValueError("unit: vector, which sums in fp32, for operands of int8; allowed: matrix")
    knobs = replace(knobs, sram_layout=sram_layout(knobs))
    grid = _grid(problem, knobs)
    tensors = place(_tensors(problem, knobs, grid), machine)
    recipe = Recipe(
        operand_stream(grid, machine, knobs, tensors, "a"),
        operand_stream(grid, machine, knobs, tensors, "b"),
        (number_of(tensors, "c"), problem.result_dtype),
        number_of(tensors, "partial"),
        sum_dtype=problem.sum_dtype,
        scales=number_of(tensors, "scales"),
        unit=knobs.unit,
    )
    phases = [Multiply(grid, recipe, machine, tensors, knobs.stages).finish(knobs.schedule, machine)]
    sizes = {"tile_m": knobs.tile_m, "tile_n": knobs.tile_n}
    machine.require_fit(phases[0], sizes | {"tile_k": knobs.tile_k, "stages": knobs.stages})
    if grid.parts > 1:
        phases.append(reduce_parts(grid, recipe, machine, tensors))
        machine.require_fit(phases[1], sizes | {"split_k": knobs.split_k})
    return Program("gemm" if problem.batch is None else "batched-gemm", tensors, tuple(phases))


def _grid(problem: Problem, knobs: Knobs) -> Grid:
    return Grid.of(knobs, problem.m, problem.n, problem.k, batch=problem.batch)


def operand_tensors(problem: Problem, knobs: Any) -> list[Tensor]:
    """Return a, b and c, not placed yet. Raises ValueError naming a layout that is not one of theirs."""
    axes = {} if problem.batch is None else {"batch": problem.batch}
    sizes = axes | {"m": problem.m, "n": problem.n, "k": problem.k}
    tensors = []
    for name, own, dtype in (("a", "mk", problem.dtype), ("b", "nk", problem.dtype), ("c", "mn", problem.result_dtype)):
        layout = knob_layout(knobs, f"layout_{name}", axes | {axis: sizes[axis] for axis in own})
        tensors.append(Tensor(name, layout, dtype, NONE))
    return tensors


def _tensors(problem: Problem, knobs: Knobs, grid: Grid) -> list[Tensor]:
    tensors = operand_tensors(problem, knobs)
    if grid.parts > 1:
        tensors.append(partial_tensor(grid, problem.sum_dtype))
    return tensors + ([scales_tensor()] if problem.scaled else [])
