"""GEMM of 16-bit activations and narrow weights: c[m, n] = a[m, k] w[n, k]^T, each weight with its scale.

| kernel | elements | scale |
|---|---|---|
| `gemm-w4a16` | 4 bits, two to a byte along k, unsigned numbers that stand for -8 to 7 | 16 bits per group of k |
| `gemm-w8a16` | integers of 8 bits | 16 bits per row, that is, output channel, which comes with every tile of it |
| `gemm-w8a16-fp8` | e4m3 | 16 bits per group of k, or per row |
| `gemm-w8a16-mxfp8` | e4m3 | e8m0 per 32 of k |
| `gemm-w4a16-mxfp4` | e2m1, two to a byte | e8m0 per 32 of k |
| `gemm-w4a16-nvfp4` | e2m1, two to a byte | e4m3 per 16 of k, and an fp32 scale per tensor, which multiplies the sum |

A group is 128 of k or another number. e4m3 weights with scales of 128 x 128 blocks have them repeated for every row, in
16 bits, as Marlin does for machines that multiply no fp8 (vllm/model_executor/layers/quantization/utils/
marlin_utils_fp8.py). The vector unit unpacks a tile, scales it and rounds it to the type of the activations, into one
of the `expanded` operands of the matrix unit.

The tile of k is whole groups. Layouts count bytes along k of b, and groups along k of its scales. Not modelled: zero
points, interleaved orders of the nibbles, and scaling after the product instead of before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hwmodel.assembler import block
from hwmodel.machine import Machine
from hwmodel.program import NONE, Program, Tensor
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS
from workloads.kernels.base import check_knobs, knob, knob_layout, require_16_bit, require_options
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
from workloads.kernels.gemm_tiles import Expansion, Multiply, Recipe, operand_stream, reduce_parts
from workloads.model import Model
from workloads.placement import place
from workloads.schedule import SCHEDULES

GROUP = 128
OPTIONAL = {"group": GROUP}


@dataclass(frozen=True)
class Weights:
    """Elements to a byte, their type in memory, that of scales ("": of activations), and the operation that expands."""

    kernel: str
    per_byte: int
    dtype: str
    function: str
    scale_dtype: str = ""
    has_tensor_scale: bool = False


WEIGHTS = {
    "int4": Weights("gemm-w4a16", 2, "uint8", "expand_int4"),
    "int8": Weights("gemm-w8a16", 1, "int8", "expand_blocks"),
    "fp8": Weights("gemm-w8a16-fp8", 1, "fp8_e4m3", "expand_blocks"),
    "mxfp8": Weights("gemm-w8a16-mxfp8", 1, "fp8_e4m3", "expand_blocks", "e8m0"),
    "mxfp4": Weights("gemm-w4a16-mxfp4", 2, "uint8", "expand_fp4", "e8m0"),
    "nvfp4": Weights("gemm-w4a16-nvfp4", 2, "uint8", "expand_fp4", "fp8_e4m3", has_tensor_scale=True),
}
MICROSCALED = {"mxfp8": 32, "mxfp4": 32, "nvfp4": 16}


@dataclass(frozen=True)
class Problem:
    """Sizes of one matrix product; `weights` are one of WEIGHTS, and `group` elements of k share a scale.

    A group of what shares bytes is an even number.
    """

    m: int
    n: int
    k: int
    dtype: str
    group: int = GROUP
    weights: str = "int4"

    @property
    def stored(self) -> Stored:
        """How the weights lie in memory."""
        form = WEIGHTS[self.weights]
        return Stored(form.per_byte, form.dtype, self.group, form.scale_dtype or self.dtype)


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


def shape_of(weights: str) -> Callable[[Model | None, Batch | None, Mapping[str, int]], Problem]:
    """Return what makes a problem with such weights of the sizes m, n, k, and of some a `group`, in its options.

    Activations are in the model's 16-bit dtype or bf16; a batch is not used.
    """
    kernel = WEIGHTS[weights].kernel

    def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
        found = require_options(kernel, options, ("m", "n", "k"), OPTIONAL if weights in ("int4", "fp8") else {})
        group = found.get("group", MICROSCALED.get(weights, found["k"]))
        if weights == "int4" and group % 2:
            raise ValueError(f"options: size group is {group}; allowed: even numbers, whose pairs share a byte")
        dtype = require_16_bit(kernel, model.dtype if model else "bf16")
        return Problem(found["m"], found["n"], found["k"], dtype, group, weights)

    return shape


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
    whole = problem.group == problem.k  # its scales come with every tile
    check_tile_k(knobs.tile_k, problem.stored.per_byte if whole else problem.group, "a group of scales")
    grid = _grid(problem, knobs)
    tensors = place(_tensors(problem, knobs, grid), machine)
    recipe = Recipe(
        operand_stream(grid, machine, knobs, tensors, "a"),
        _weights(problem, knobs, machine, tensors),
        (number_of(tensors, "c"), problem.dtype),
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
    return Program(WEIGHTS[problem.weights].kernel, tensors, tuple(phases))


def _grid(problem: Problem, knobs: Knobs) -> Grid:
    return Grid.of(knobs, problem.m, problem.n, problem.k)


def _tensors(problem: Problem, knobs: Knobs, grid: Grid) -> list[Tensor]:
    m, n, k, dtype, stored = problem.m, problem.n, problem.k, problem.dtype, problem.stored
    groups = {"n": n, "k": -(-k // problem.group)}
    tensors = [
        Tensor("a", knob_layout(knobs, "layout_a", {"m": m, "k": k}), dtype, NONE),
        Tensor("b", knob_layout(knobs, "layout_b", {"n": n, "k": -(-k // stored.per_byte)}), stored.dtype, NONE),
        Tensor("c", knob_layout(knobs, "layout_c", {"m": m, "n": n}), dtype, NONE),
        Tensor("scales b", knob_layout(knobs, "layout_scales", groups), stored.scale_dtype, NONE),
    ]
    tensors += [partial_tensor(grid, "fp32")] if grid.parts > 1 else []
    return tensors + ([scales_tensor()] if WEIGHTS[problem.weights].has_tensor_scale else [])


def _weights(problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...]) -> Expansion:
    stored, axes = problem.stored, ("n", "k")
    scales = block("scales b", knobs.tile_n, max(1, knobs.tile_k // stored.block), stored.scale_dtype, knobs.stages)
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
    return expansion(WEIGHTS[problem.weights].function, stored, tile, scales, machine, knobs.sram_layout)
