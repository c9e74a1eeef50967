"""RMSNorm of rows, alone or of the sum with the residual stream, which it then returns too; LayerNorm of rows.

A row is reduced in one core, as a whole or, where it does not fit the scratchpad, in parts (`row_parts`); a sum with
the residual is then made in both passes. Weight and bias are loaded once per core, in parts once per tile of rows.
Activations reside in the shared cache where a machine has one and they fit: the kernels before and after have just
touched them.
Not modelled: norms per head, LayerNorm of a sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hwmodel.assembler import Region
from hwmodel.machine import Machine
from hwmodel.program import NONE, Program, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.kernels import row_parts
from workloads.kernels.base import check_knobs, knob, knob_layout
from workloads.kernels.row_parts import STATE, PartKnobs, PartPhase, Pass
from workloads.kernels.rowwise import RowPhase, Step, Strip, bands, row_sizes
from workloads.model import Model
from workloads.placement import place

X, WEIGHT, OUT, RESIDUAL, TOTAL = range(5)
BIAS = RESIDUAL  # of a LayerNorm, which has no residual


@dataclass(frozen=True)
class Problem:
    """`rows` tokens of `columns` elements; with `residual`, x + residual is normed and stored as well.

    `centred`: LayerNorm, which subtracts the mean and adds a bias.
    """

    rows: int
    columns: int
    dtype: str
    residual: bool = False
    eps: float = 1e-5
    centred: bool = False


@dataclass(frozen=True)
class Knobs(PartKnobs):
    """What the search may choose."""

    layout: str = knob("row column", "where x, residual and results lie, outermost first", axes="row, column")


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int | str]) -> Problem:
    """Return the problem of `rows`, of `columns` or the model's hidden size, with a `residual` if that is 1."""
    sizes, dtype = row_sizes("rms-norm", options, model, "columns", "hidden", ("residual",))
    return Problem(sizes["rows"], sizes["columns"], dtype, bool(sizes["residual"]))


def layer_shape(model: Model | None, batch: Batch | None, options: Mapping[str, int | str]) -> Problem:
    """Return the problem of a LayerNorm of `rows`, of `columns` or the model's hidden size."""
    sizes, dtype = row_sizes("layer-norm", options, model, "columns", "hidden")
    return Problem(sizes["rows"], sizes["columns"], dtype, centred=True)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function."""
    return (repr(_tensors(problem, knobs)[X].layout.key), knobs.tile_rows, knobs.stages, knobs.part(problem.columns))


def candidates(problem: Problem, machine: Machine) -> Iterator[Knobs]:
    """Yield knobs to try."""
    return row_parts.candidates(Knobs)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    tensors = place(_tensors(problem, knobs), machine)
    columns, tile = problem.columns, knobs.tile_rows
    items = bands(problem.rows, columns, columns, machine.spec.cores.count)
    name = "layer-norm" if problem.centred else "rms-norm"
    if part := knobs.part(columns):
        phase = _in_parts(problem, tile, part, knobs.stages).assemble(tensors, items, machine)
        machine.require_fit(phase, {"tile_rows": tile, "tile_columns": part, "stages": knobs.stages})
        return Program(name, tensors, (phase,))

    def strip(name: str, tensor: int) -> Strip:
        return Strip(name, tile, columns, lambda t: Region(tensor, {"row": t.span()}))

    added = (strip("residual", RESIDUAL),) if problem.residual else ()
    total = (strip("total", TOTAL),) if problem.residual else ()
    outputs, inputs = (strip("out", OUT), *total), (strip("x", X), *added)
    function = "layer_norm" if problem.centred else "add_rms_norm" if problem.residual else "rms_norm"
    shared = [Strip("weight", 1, columns, lambda t: Region(WEIGHT, {}))]
    if problem.centred:
        shared.append(Strip("bias", 1, columns, lambda t: Region(BIAS, {})))
    operands = tuple(s.name for s in (*outputs, *inputs, *shared))
    kernel = RowPhase(
        "norm",
        tile,
        columns,
        columns,
        knobs.stages,
        inputs,
        outputs,
        (Step(function, operands, lambda t: (t.height, columns), problem.eps),),
        tuple(shared),
    )
    phase = kernel.assemble(tensors, items, machine)
    machine.require_fit(phase, {"tile_rows": tile, "stages": knobs.stages})
    return Program(name, tensors, (phase,))


def _in_parts(problem: Problem, tile: int, part: int, stages: int) -> PartPhase:
    """Return the kernel that walks rows in parts; a sum with the residual is rounded before it is squared."""
    kind, shared = ("layer", ("weight", "bias")) if problem.centred else ("rms", ("weight",))
    added = (Pass("add", ("total", "x", "residual")),) if problem.residual else ()
    total = ("total",) if problem.residual else ()
    normed = "total" if problem.residual else "x"
    return PartPhase(
        "norm",
        tile,
        part,
        problem.columns,
        stages,
        ("x", "residual") if problem.residual else ("x",),
        shared,
        ("out", *total),
        (*added, Pass(f"{kind}_part", (STATE, normed), reduces=True)),
        (*added, Pass(f"{kind}_result", ("out", STATE, normed, *shared), problem.eps, whole=True)),
        numbers=2 if problem.centred else 1,
        kept=total,
    )


def _tensors(problem: Problem, knobs: Knobs) -> list[Tensor]:
    rows = knob_layout(knobs, "layout", {"row": problem.rows, "column": problem.columns})
    weight = named("one column", {"one": 1, "column": problem.columns})
    dtype = problem.dtype
    tensors = [
        Tensor("x", rows, dtype, NONE, "cache"),
        Tensor("weight", weight, dtype, NONE),
        Tensor("out", rows, dtype, NONE, "cache"),
    ]
    if problem.centred:
        tensors.append(Tensor("bias", weight, dtype, NONE))
    if problem.residual:
        tensors += [Tensor("residual", rows, dtype, NONE, "cache"), Tensor("total", rows, dtype, NONE, "cache")]
    return tensors
