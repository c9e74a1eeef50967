"""Calls: what libraries run for one operator, as lists of kernel launches, from rows of measured kernels.

`call_of` reads a `Row` (names and sizes as tables of measurements have them) and returns the `Call` on a machine.
"""

from __future__ import annotations

from hwmodel.machine import Machine
from layouts.notation import nearest_first
from workloads.calls.attention import decode_call, latent_decode_call, latent_prefill_call, prefill_call
from workloads.calls.call import Builder, Call, Launch, NotModelled, Row, Variant
from workloads.calls.experts import experts_call, grouped_call
from workloads.calls.products import batched_call, product_call
from workloads.calls.rows import (
    absmax_call,
    add_call,
    function_call,
    gated_call,
    norm_call,
    quantise_call,
    softmax_call,
)

BUILDERS: dict[str, Builder] = {
    "gemm": product_call,
    "batched_gemm": batched_call,
    "decode_attention": decode_call,
    "flash_prefill": prefill_call,
    "mla_decode": latent_decode_call,
    "mla_prefill": latent_prefill_call,
    "moe_grouped_gemm": experts_call,
    "grouped_gemm": grouped_call,
    "rmsnorm": norm_call,
    "layernorm": norm_call,
    "softmax": softmax_call,
    "add": add_call,
    "silu_mul": gated_call,
    "elementwise": function_call,
    "fp8_quantize": quantise_call,
    "fp8_absmax": absmax_call,
}
EXCHANGES = ("allreduce", "all_gather", "all_to_all", "reduce_scatter", "send_recv", "moe_dispatch", "moe_combine")
__all__ = ["BUILDERS", "Call", "Launch", "NotModelled", "Row", "Variant", "call_of"]


def call_of(row: Row, machine: Machine) -> Call:
    """Return the call of a row on a machine. Raises NotModelled with the reason where there is none."""
    if row.op in EXCHANGES:
        raise NotModelled(f"{row.op}: exchange between devices is not modelled")
    if row.op not in BUILDERS:
        raise NotModelled(f"op {row.op!r} has no call; known: {nearest_first(row.op, BUILDERS)}")
    return BUILDERS[row.op](row, machine)
