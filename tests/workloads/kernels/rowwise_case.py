"""Kernels that take rows in tiles as the tests see them: what to draw, what to expect, how near a result must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.spec import load_machine

Array = np.ndarray[Any, Any]
CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
H100 = Machine(load_machine("h100-sxm").with_overrides({"cores.count": CORES}))  # with a shared cache, without gather
# how far a result may be from the exact one, relative and absolute: 2 units in the last place of 16 bits; fp8 is
# rounded to the nearest, and fp32 before it moves what lies half-way; fp32: sums of up to 40 numbers and some roundings
RELATIVE = {
    "bf16": 2 * 2.0**-7,
    "fp16": 2 * 2.0**-10,
    "fp32": 64 * 2.0**-24,
    "fp8_e4m3": 2.0**-4 + 2.0**-20,
    "int32": 0.0,
}
ABSOLUTE = {"bf16": 2.0**-132, "fp16": 2.0**-23, "fp32": 2.0**-140, "fp8_e4m3": 2.0**-10 + 2.0**-20, "int32": 0.0}

sizes = st.integers(1, 37)
dtypes = st.sampled_from(["bf16", "fp16"])
wide_too = st.sampled_from(["bf16", "fp16", "fp32"])
tiles = st.sampled_from([1, 2, 5, 8])
stages = st.integers(1, 3)


@dataclass(frozen=True)
class Ran:
    """A program that has run: its memory before and after."""

    program: Program
    before: Memory
    memory: Memory

    def values(self, tensor: int) -> Array:
        """Return the contents of an index tensor."""
        found = self.program.tensors[tensor].values
        assert found is not None
        return found


@dataclass(frozen=True)
class Case:
    """`draw` a problem with knobs, and what is `expected` in the tensors that it writes.

    `loaded` and `stored`: bytes by tensor, by hand, for `plain`: a problem with knobs.
    """

    module: Any
    draw: Callable[[st.DrawFn], tuple[Any, Any]]
    expected: Callable[[Any, Any, Ran], dict[str, Array]]
    plain: tuple[Any, Any]
    loaded: dict[str, int]
    stored: dict[str, int]
    cancels: float = 0  # terms may cancel, so that the rounding of fp32 shows: so often 2**-21


def ran(program: Program, seed: int = 5) -> Ran:
    before, memory = Memory(program), Memory(program)
    rng = np.random.default_rng(seed)
    for tensor in program.tensors:
        if tensor.values is None:
            values = rng.standard_normal([tensor.layout.size(axis) for axis in tensor.layout.axes])
            values = values if tensor.name != "scales" else 0.004 + np.abs(values)  # some values exceed the largest
            for each in (before, memory):
                each.write(tensor.name, values)
    run(program, memory, CORES)
    return Ran(program, before, memory)


def check_values(case: Case, problem: Any, knobs: Any) -> None:
    """Results are as near to the formula as their type says; where terms below 8 cancel, within 2**-21 more."""
    found = ran(case.module.compile(problem, knobs, NPU, 0))
    dtypes_of = {tensor.name: tensor.dtype for tensor in found.program.tensors}
    for name, expected in case.expected(problem, knobs, found).items():
        result = found.memory.read(name).astype(float)
        assert (np.isnan(result) == np.isnan(expected)).all(), name
        result, expected = np.nan_to_num(result, nan=0.0), np.nan_to_num(expected, nan=0.0)
        error = np.abs(result - expected)
        dtype = dtypes_of[name]
        allowed = RELATIVE[dtype] * np.abs(expected) + ABSOLUTE[dtype] + case.cancels * 2.0**-21
        assert (error <= allowed).all(), name
