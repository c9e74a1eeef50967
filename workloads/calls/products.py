"""Calls of matrix products: dense and batched, in the formats of `gemm`'s templates.

Activations of fewer bits are quantised in a pass before, as the libraries that were measured do. Of a product of few
rows the operands change places: the weights' rows fill the matrix unit, and the result is written transposed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hwmodel.machine import Machine
from workloads.calls.call import DTYPES, MAX_RESULTS, Call, Launch, Row, Variant, beyond_cache, ranked, require_within
from workloads.kernels import gemm, gemm_mx, gemm_w4a16, gemm_w8a8, quantise
from workloads.kernels.tuning import products

QUANTISED = ("fp8", "fp8_block", "sq", "nvfp4")
NARROW = (*QUANTISED, "int4_wo", "int8_wo")


def product_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op gemm."""
    m, n, k = row.need("m", "n", "k")
    kernel, problem = _problem(row, m, n, k)
    launches = [quantisation(m, k, machine)] if row.dtype in QUANTISED else []
    return Call((*launches, product("gemm", kernel, problem, machine)))


def batched_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op batched_gemm."""
    m, n, k, batch = row.need("m", "n", "k", "batch")
    dtype = "fp8_e4m3" if row.dtype == "fp8" else row.float_dtype()
    return Call((product("batched gemm", "batched-gemm", gemm.Problem(m, n, k, dtype, batch), machine),))


def quantisation(m: int, k: int, machine: Machine) -> Launch:
    """Return the pass that quantises activations of 16 bits, with a scale per 128 elements."""
    problem = quantise.Problem(m, k, "bf16", "block")
    variants = tuple(Variant("quantise", problem, knobs) for knobs in quantise.candidates(problem, machine))
    return Launch("quantise", variants, "bf16", 0, 0)


def _problem(row: Row, m: int, n: int, k: int) -> tuple[str, Any]:
    """Return the kernel and the problem for a row's dtype. Raises NotModelled where there is none."""
    dtype = row.dtype
    if dtype in DTYPES:
        return "gemm-fp32" if dtype == "float32" else "gemm", gemm.Problem(m, n, k, DTYPES[dtype])
    if dtype == "fp8":
        return "gemm-fp8", gemm.Problem(m, n, k, "fp8_e4m3")
    if dtype == "sq":
        return "gemm-int8", gemm.Problem(m, n, k, "int8")
    if dtype == "fp8_block":
        return "gemm-w8a8-block", gemm_w8a8.Problem(m, n, k)
    if dtype == "int4_wo":
        return "gemm-w4a16", gemm_w4a16.Problem(m, n, k, "bf16", gemm_w4a16.GROUP, "int4")
    if dtype == "int8_wo":
        return "gemm-w8a16", gemm_w4a16.Problem(m, n, k, "bf16", k, "int8")
    if dtype == "nvfp4":
        return "gemm-nvfp4", gemm_mx.Problem(m, n, k, "nvfp4")
    raise row.unknown_dtype((*DTYPES, *NARROW))


def product(name: str, kernel: str, problem: Any, machine: Machine) -> Launch:
    """Return a product with its schedules; those of fp32 are done by the vector unit."""
    m, n, k, count = problem.m, problem.n, problem.k, getattr(problem, "batch", None) or 1
    require_within(name, "elements of the result are", m * n * count, MAX_RESULTS)
    plain = isinstance(problem, gemm.Problem)
    given = {"unit": "vector"} if plain and problem.dtype == "fp32" else {}
    variants = _variants(kernel, problem, machine, given)
    if plain and not given and m <= products.FEW_ROWS:  # more, and a transposed result costs more than it saves
        layout = "n m" if problem.batch is None else "batch n m"
        variants += _variants(kernel, replace(problem, m=n, n=m), machine, {"layout_c": layout})
    form = products.form_of(problem, **given)
    results = count * m * n * (4 if form.rate == "fp32" else 2)
    moved = count * (m * k * form.bits[0] + n * k * form.bits[1]) // 8 + beyond_cache(results, machine)
    return Launch(name, ranked(variants), form.rate, count * m * n * k, moved, on_vector=form.on_vector)


def _variants(kernel: str, problem: Any, machine: Machine, given: dict[str, Any]) -> list[Variant]:
    found = products.ranked(problem, machine, **given)
    return [Variant(kernel, problem, choice.knobs, choice.estimate_fs, choice.family) for choice in found]
