"""Kernel templates by name."""

from __future__ import annotations

from workloads.kernels import decode_attention, gemm
from workloads.kernels.base import Kernel

KERNELS: dict[str, Kernel] = {
    "decode-attention": Kernel(
        "decode-attention",
        decode_attention.Knobs,
        (),
        decode_attention.shape,
        decode_attention.canonical,
        decode_attention.compile,
    ),
    "gemm": Kernel("gemm", gemm.Knobs, ("m", "n", "k"), gemm.shape, gemm.canonical, gemm.compile),
}

__all__ = ["KERNELS", "Kernel"]
