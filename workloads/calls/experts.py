"""Calls of layers of experts: route, permute, product, activation, product, combination, with drawn routing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hwmodel.machine import Machine
from workloads.calls.call import (
    MAX_CHOICES,
    MAX_RESULTS,
    Call,
    Launch,
    NotModelled,
    Row,
    Variant,
    require_within,
)
from workloads.kernels import moe_gemm, moe_layer
from workloads.kernels.tuning import experts as tuning
from workloads.routing import Routing, draw, popularity

FORMATS = {  # by a row's dtype: the format, and the type whose rate counts
    "bfloat16": ("16-bit", "bf16"),
    "float16": ("16-bit", "fp16"),
    "fp8": ("fp8", "fp8_e4m3"),
    "fp8_block": ("w8a8-block", "fp8_e4m3"),
    "int4_wo": ("w4a16", "bf16"),
    "nvfp4": ("nvfp4", "fp4_scaled"),
    "w4a16_mxfp4": ("w4a16-mxfp4", "bf16"),
    "w4a8_mxfp4_mxfp8": ("w4a8-mxfp4-mxfp8", "fp8_scaled"),
}
COMBINED_BYTES = 32768  # assumed: of the rows that a tile of the combination gathers
SEED = 0  # of the routing that is drawn


def experts_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op moe_grouped_gemm; `inter` is divided by `moe_tp`."""
    tokens, hidden, inter, experts, topk = row.need("tokens", "hidden", "inter", "experts", "topk")
    parallel = row.optional("moe_tp", 1)
    if row.sizes.get("gated", 1) != 1:
        raise NotModelled(f"{row.op}: gated is {row.sizes['gated']}; allowed: 1")
    if inter % parallel:
        raise NotModelled(f"{row.op}: inter {inter} is not divided by moe_tp {parallel}")
    if topk > experts:
        raise NotModelled(f"{row.op}: topk {topk} is more than the {experts} experts")
    require_within(row.op, "tokens times experts are", tokens * experts, MAX_CHOICES)
    require_within(row.op, "chosen rows times columns are", tokens * topk * max(hidden, inter), MAX_RESULTS)
    name, rate = _format(row)
    dtype = "fp16" if row.dtype == "float16" else "bf16"
    routing = _routing(row, tokens, experts, topk)
    problem = moe_layer.Problem(
        tokens=tokens, experts=experts, topk=topk, dtype=dtype, routing=routing, hidden=hidden,
        inter=inter // parallel, format=name,
    )  # fmt: skip
    return Call((_launch(problem, machine, rate),), graph=True)


def grouped_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op grouped_gemm: `m` rows for each of the experts."""
    m, n, k, experts = row.need("m", "n", "k", "experts")
    require_within(row.op, "tokens times experts are", m * experts * experts, MAX_CHOICES)
    require_within(row.op, "elements of the result are", m * experts * n, MAX_RESULTS)
    name, rate = _format(row)
    routing = _even(m * experts, experts, 1)
    problem = moe_gemm.Problem(
        tokens=m * experts, experts=experts, topk=1, dtype="bf16", routing=routing, n=n, k=k, format=name
    )
    groups = "masked" if row.names.get("distribution") == "masked" else "contiguous"
    found = tuning.ranked(problem, machine, rows=groups)
    variants = [Variant("grouped-gemm", problem, choice.knobs, choice.estimate_fs) for choice in found]
    moved = experts * n * k * problem.form.b.bits // 8  # rows of tokens may lie in a shared cache
    return Call((Launch("grouped gemm", tuple(variants), rate, m * experts * n * k, moved),))


def _format(row: Row) -> tuple[str, str]:
    if row.dtype not in FORMATS:
        raise row.unknown_dtype(FORMATS)
    return FORMATS[row.dtype]


def _routing(row: Row, tokens: int, experts: int, topk: int) -> Routing:
    """Return the routing that a row's `distribution` names: balanced, or drawn by a power law."""
    name = row.names.get("distribution", "balanced")
    if name == "balanced":
        return _even(tokens, experts, topk)
    kind, _, exponent = name.rpartition("_")
    try:
        percent = round(100 * float(exponent))
    except ValueError:
        percent = -1
    if kind != "power_law" or not 0 <= percent <= 1000:
        raise NotModelled(f"{row.op}: distribution {name!r} is unknown; known: balanced, power_law_EXPONENT")
    rng = np.random.default_rng(SEED)
    return draw(tokens, topk, popularity("power-law", experts, percent / 100, rng), rng)


def _even(tokens: int, experts: int, topk: int) -> Routing:
    """Return the routing that deals all choices round."""
    choices = np.arange(tokens * topk, dtype=np.int32).reshape(tokens, topk) % experts
    return Routing(experts, choices, np.full(choices.shape, 1 / topk, np.float32))


def _launch(problem: moe_layer.Problem, machine: Machine, rate: str) -> Launch:
    routing = problem.routing
    assert routing is not None
    counts = routing.counts[routing.counts > 0]
    hidden, inter = problem.hidden, problem.inter
    gathered = min(COMBINED_BYTES, machine.spec.cores.sram.capacity // 5)
    columns = max(128, min(2048, gathered // (2 * problem.topk) // 128 * 128))
    found = tuning.ranked(problem, machine, tile_rows=1, tile_columns=columns, row_stages=3)
    variants = [
        Variant("moe", problem, replace(choice.knobs, rows=rows), choice.estimate_fs, rows)
        for choice in found
        for rows in ("contiguous", "gathered")
    ]
    macs = problem.tokens * problem.topk * 3 * hidden * inter
    moved = len(counts) * 3 * hidden * inter * problem.form.b.bits // 8
    return Launch("experts", tuple(variants), rate, macs, moved, launches=5)
