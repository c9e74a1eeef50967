"""Quantising activations x[m, k] to mxfp8 or nvfp4, as it comes before a GEMM of microscaled operands; one pass over x.

| kernel | elements | scale |
|---|---|---|
| `quantise-mxfp8` | e4m3 | e8m0 per 32 of k |
| `quantise-nvfp4` | e2m1, two to a byte | e4m3 per 16 of k; an fp32 scale of the tensor is given |

Scales lie in 128 x 4 tiles, as `gemm_mx` reads them. It is the pass of `moe_quantise` over all rows. Not modelled:
fusion with the kernel that makes x.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.machine import Machine
from hwmodel.program import NONE, Program, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.kernels.base import check_knobs, knob, require_options
from workloads.kernels.gemm_grid import number_of
from workloads.kernels.moe_formats import FORMATS, Format, activation_tensors
from workloads.kernels.moe_quantise import quantise_rows
from workloads.kernels.rowwise import RowKnobs, row_dtype
from workloads.model import Model
from workloads.placement import place
from workloads.routing import Routing, contiguous

NAMES = {"mxfp8": "quantise-mxfp8", "nvfp4": "quantise-nvfp4"}


@dataclass(frozen=True)
class Problem:
    """Sizes of the activations, their type, and the format that they get."""

    m: int
    k: int
    dtype: str
    format: str

    @property
    def form(self) -> Format:
        return FORMATS[self.format]


@dataclass(frozen=True)
class Knobs(RowKnobs):
    """What the search may choose."""

    tile_columns: int = knob(1024, "columns in a tile, whole blocks of a scale", least=1)


def shape_of(form: str) -> Callable[[Model | None, Batch | None, Mapping[str, int | str]], Problem]:
    """Return what makes a problem of the sizes m, k in its options, in `dtype`, the model's of 16 bits or bf16."""
    kernel = NAMES[form]

    def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int | str]) -> Problem:
        dtype, given = row_dtype(kernel, options, model)
        sizes = require_options(kernel, given, ("m", "k"))
        return Problem(sizes["m"], sizes["k"], dtype, form)

    return shape


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning."""
    return (min(knobs.tile_rows, problem.m), min(knobs.tile_columns, problem.k), knobs.stages)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    tensors = place(_tensors(problem), machine)
    x, q, scales, given = (number_of(tensors, name) for name in ("x", "q", "scales q", "scale"))
    everyone = Routing(1, np.zeros((problem.m, 1), np.int32), np.ones((problem.m, 1), np.float32))
    tile = min(knobs.tile_rows, problem.m), min(knobs.tile_columns, problem.k), problem.k
    rows = quantise_rows(
        "quantise", problem.form, (x, q, scales, given), tile, knobs.stages, (everyone, contiguous(everyone, 1))
    )
    kernel, items = rows
    phase = kernel.assemble(tensors, items, machine)
    sizes = {"tile_rows": knobs.tile_rows, "tile_columns": knobs.tile_columns, "stages": knobs.stages}
    machine.require_fit(phase, sizes)
    return Program(NAMES[problem.format], tensors, (phase,))


def _tensors(problem: Problem) -> list[Tensor]:
    form = problem.form
    tensors = [
        Tensor("x", named("row column", {"row": problem.m, "column": problem.k}), problem.dtype, NONE, "cache"),
        *activation_tensors(form, "q", problem.m, problem.k, problem.dtype),
    ]
    given = Tensor("scale", named("one value", {"one": 1, "value": 1}), "fp32", NONE, "cache")
    return [*tensors, *([given] if form.scaled else [])]
