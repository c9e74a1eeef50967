"""SwiGLU: out = silu(gate) · up, element by element, in tiles of rows and columns.

Gate and up are one tensor of axes row, half (0 gate, 1 up) and inter; its layout says whether they lie side by side
("row half inter", what one product with stacked weights gives), as two matrices ("half row inter") or interleaved
("row inter half", "row inter//8 half inter%8").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwmodel.assembler import Region
from hwmodel.machine import Machine
from hwmodel.program import NONE, Program, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.kernels.base import check_knobs, knob, knob_layout
from workloads.kernels.rowwise import RowKnobs, RowPhase, Step, Strip, bands, row_sizes
from workloads.model import Model
from workloads.placement import place

GATE_UP, OUT = range(2)


@dataclass(frozen=True)
class Problem:
    """`rows` tokens with `inter` gates and as many ups."""

    rows: int
    inter: int
    dtype: str


@dataclass(frozen=True)
class Knobs(RowKnobs):
    """What the search may choose."""

    tile_columns: int = knob(2048, "elements of inter in a tile, at most", least=1)
    layout: str = knob("row half inter", "where gate and up lie, outermost first", axes="row, half, inter")


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int | str]) -> Problem:
    """Return the problem of `rows`, and of `inter` or the model's intermediate size."""
    sizes, dtype = row_sizes("swiglu", options, model, "inter", "intermediate")
    return Problem(sizes["rows"], sizes["inter"], dtype)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, tiles wider than a row."""
    width = min(knobs.tile_columns, problem.inter)
    return (repr(_tensors(problem, knobs)[GATE_UP].layout.key), knobs.tile_rows, width, knobs.stages)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    tensors = place(_tensors(problem, knobs), machine)
    height, width = knobs.tile_rows, min(knobs.tile_columns, problem.inter)
    kernel = swiglu_rows("swiglu", GATE_UP, OUT, (height, width, problem.inter), knobs.stages)
    phase = kernel.assemble(tensors, bands(problem.rows, problem.inter, width, machine.spec.cores.count), machine)
    machine.require_fit(phase, {"tile_rows": height, "tile_columns": width, "stages": knobs.stages})
    return Program("swiglu", tensors, (phase,))


def swiglu_rows(name: str, gate_up: int, out: int, sizes: Sequence[int], stages: int) -> RowPhase:
    """Return the phase from tensor `gate_up` (row, half, inter) to `out` (row, inter).

    `sizes`: rows and columns of a tile, elements of inter.
    """
    height, width, inter = sizes
    return RowPhase(
        name,
        height,
        width,
        inter,
        stages,
        (Strip("gate and up", 2 * height, width, lambda t: Region(gate_up, {"row": t.span(), "inter": t.across})),),
        (Strip("out", height, width, lambda t: Region(out, {"row": t.span(), "inter": t.across})),),
        (Step("swiglu_pairs", ("out", "gate and up"), lambda t: (t.height, t.width)),),
    )


def _tensors(problem: Problem, knobs: Knobs) -> list[Tensor]:
    sizes = {"row": problem.rows, "inter": problem.inter}
    both = knob_layout(knobs, "layout", {"row": problem.rows, "half": 2, "inter": problem.inter})
    return [
        Tensor("gate and up", both, problem.dtype, NONE, "cache"),
        Tensor("out", named("row inter", sizes), problem.dtype, NONE, "cache"),
    ]
