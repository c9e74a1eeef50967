"""Calls of row-wise kernels: norms, softmax, additions, activations, functions of numbers, quantisation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

from hwmodel.machine import Machine
from layouts.notation import nearest_first
from workloads.calls.call import Call, Launch, NotModelled, Row, Variant, beyond_cache
from workloads.kernels import activation, elementwise, norm, quantise, residual_add, softmax
from workloads.kernels.row_parts import in_parts

TILE_BYTES = 16384  # assumed: a tile of rows is about so large, or a part of one row
STAGES = (3, 2, 1)
FUNCTIONS = {  # names in measurements: operation, and what it takes numbers with
    "add": ("add", "tensor"), "addu": ("add", "scalar"), "mul": ("mul", "tensor"), "mulu": ("mul", "scalar"),
    "div": ("div", "tensor"), "divu": ("div", "scalar"), "pow": ("pow", "tensor"), "powu": ("pow", "scalar"),
    "relu": ("relu", "tensor"), "gelu": ("gelu", "tensor"), "tanh": ("tanh", "tensor"),
}  # fmt: skip


def norm_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op rmsnorm or layernorm."""
    rows, columns = row.need("rows", "cols")
    dtype = row.float_dtype()
    centred = row.op == "layernorm"
    problem = norm.Problem(rows, columns, dtype, centred=centred)
    return _call(
        "layer-norm" if centred else "rms-norm", problem, norm.Knobs, dtype, columns, 2 * rows * columns, machine
    )


def softmax_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op softmax."""
    rows, columns = row.need("rows", "cols")
    dtype = row.float_dtype()
    return _call(
        "softmax", softmax.Problem(rows, columns, dtype), softmax.Knobs, dtype, columns, 2 * rows * columns, machine
    )


def add_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op add."""
    rows, columns = row.need("rows", "cols")
    dtype = row.float_dtype()
    problem = residual_add.Problem(rows, columns, dtype)
    return _call("residual-add", problem, residual_add.Knobs, dtype, columns, 3 * rows * columns, machine)


def gated_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op silu_mul: `cols` gates and as many ups."""
    rows, columns = row.need("rows", "cols")
    dtype = row.float_dtype()
    problem = activation.Problem(rows, columns, dtype)
    return _call("swiglu", problem, activation.Knobs, dtype, columns, 3 * rows * columns, machine)


def function_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op elementwise, whose `kernel` names the function."""
    rows, columns = row.need("rows", "cols")
    dtype, name = row.float_dtype(), row.names.get("kernel", "")
    if name not in FUNCTIONS:
        raise NotModelled(f"elementwise: kernel {name!r} is no known function; known: {nearest_first(name, FUNCTIONS)}")
    operation, other = FUNCTIONS[name]
    problem = elementwise.Problem(rows, columns, dtype, operation, other)
    moved = (1 + len(problem.sources)) * rows * columns
    return _call("elementwise", problem, elementwise.Knobs, dtype, columns, moved, machine)


def quantise_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op fp8_quantize: by a given scale, from 16 bits."""
    rows, columns = row.need("rows", "cols")
    problem = quantise.Problem(rows, columns, "bf16", "given")
    return _quantise("quantise-static", problem, 3 * rows * columns, machine)


def absmax_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op fp8_absmax: the largest magnitude of 16-bit numbers."""
    rows, columns = row.need("rows", "cols")
    if "minus" in row.names.get("kernel", ""):
        raise NotModelled("fp8_absmax: the time is the difference of two measured kernels, not that of one")
    return _quantise("absmax", quantise.Problem(rows, columns, "bf16", "none"), 2 * rows * columns, machine)


def _quantise(kernel: str, problem: quantise.Problem, moved_bytes: int, machine: Machine) -> Call:
    wide = min(4096, -(-problem.k // 128) * 128)
    variants = tuple(
        Variant(kernel, problem, quantise.Knobs(tile_m=max(1, TILE_BYTES // (2 * wide)), tile_k=wide, stages=stages))
        for stages in STAGES
    )
    return Call((Launch(kernel, variants, "bf16", 0, beyond_cache(moved_bytes, machine)),))


def _call(
    kernel: str, problem: Any, kind: Callable[..., Any], dtype: str, columns: int, numbers: int, machine: Machine
) -> Call:
    size = 4 if dtype == "fp32" else 2
    variants = tuple(_variants(kernel, problem, kind, columns * size))
    return Call((Launch(kernel, variants, dtype, 0, beyond_cache(numbers * size, machine)),))


def _variants(kernel: str, problem: Any, kind: Any, row_bytes: int) -> Iterable[Variant]:
    parts = any(knob.name == "tile_columns" and knob.default for knob in fields(kind))
    for stages in STAGES:
        yield Variant(kernel, problem, kind(tile_rows=max(1, TILE_BYTES // row_bytes), stages=stages))
        if parts:
            yield Variant(kernel, problem, kind(tile_rows=1, tile_columns=2048, stages=stages))
    for knobs in in_parts(kind):
        yield Variant(kernel, problem, knobs)
