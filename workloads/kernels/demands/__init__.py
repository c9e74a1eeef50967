"""What kernels demand of a machine in closed form, for many points at once; see `hwmodel.bound_table`.

A template says of which knobs it depends; the others change nothing that it counts. Knobs are in the range that
`kernels.base.check_knobs` asks for; what else makes a point one that cannot run does not matter here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hwmodel.machine import Machine
from workloads.kernels.demands import decode_attention, mla_decode, prefill_attention, products
from workloads.kernels.demands.columns import Columns, Gathered


@dataclass(frozen=True)
class Demands:
    """`of(problem, columns, machine)`: what points demand, by `columns` of the `knobs`, equally long NumPy arrays."""

    knobs: tuple[str, ...]
    of: Callable[[Any, Columns, Machine], Gathered]


_GEMM = Demands(products.GEMM_KNOBS, products.demands)
_GEMMS = ("gemm", "gemm-fp32", "gemm-fp8", "gemm-int8", "batched-gemm", "batched-gemm-fp32", "batched-gemm-fp8")

DEMANDS: dict[str, Demands] = {
    "decode-attention": Demands(decode_attention.KNOBS, decode_attention.demands),
    "prefill-attention": Demands(prefill_attention.KNOBS, prefill_attention.demands),
    "mla-decode": Demands(mla_decode.KNOBS, mla_decode.demands),
    **dict.fromkeys(_GEMMS, _GEMM),
    "gemv": Demands(products.GEMV_KNOBS, products.gemv_demands),
}

__all__ = ["DEMANDS", "Demands"]
