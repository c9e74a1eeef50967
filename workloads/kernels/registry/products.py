"""Kernels: matrix products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from workloads.kernels import gemm, gemm_mx, gemm_stream_k, gemm_w4a16, gemm_w8a8, gemv
from workloads.kernels.base import Kernel

PRODUCT = {"m": "rows of a and of the result", "n": "rows of b, columns of the result", "k": "what is summed over"}


def _product(name: str, description: str, shape: Callable[..., gemm.Problem], typed: bool = True) -> Kernel:
    """Return the template of products of one pair of matrices, for operands that `shape` says."""
    functions = (shape, gemm.canonical, gemm.compile)
    options = ("m", "n", "k")
    return Kernel(
        name, description, gemm.Knobs, (), options, *functions, candidates=gemm.candidates, sizes=PRODUCT, typed=typed
    )


def _batched(name: str, description: str, shape: Callable[..., gemm.Problem], typed: bool = True) -> Kernel:
    """Return the template of products of many pairs."""
    kernel = _product(name, description, shape, typed)
    sizes = {**PRODUCT, "products": "products of this shape"}
    return replace(kernel, Knobs=gemm.BatchedKnobs, options=("products", "m", "n", "k"), sizes=sizes)


def _narrow(weights: str, description: str) -> Kernel:
    """Return the template of products of 16-bit activations and narrower weights."""
    grouped = weights in ("int4", "fp8")
    sizes = {**PRODUCT, "group": "elements of k that share a scale"} if grouped else PRODUCT
    return Kernel(
        gemm_w4a16.WEIGHTS[weights].kernel,
        f"{description}, expanded to the activations' 16 bits; a model gives the dtype only",
        gemm_w4a16.Knobs,
        (),
        ("m", "n", "k"),
        gemm_w4a16.shape_of(weights),
        gemm_w4a16.canonical,
        gemm_w4a16.compile,
        optional=gemm_w4a16.OPTIONAL if grouped else {},
        sizes=sizes,
    )


_PRODUCTS = (
    _product(
        "gemm", "c[m, n] = a[m, k] b[n, k]^T, tiled, multi-buffered, split-K; a model gives the dtype only", gemm.shape
    ),
    _product(
        "gemm-fp32",
        "gemm of fp32 operands; unit=vector: not rounded to the matrix unit's type",
        gemm.shape_in("gemm-fp32", "fp32"),
        typed=False,
    ),
    _product(
        "gemm-fp8",
        "gemm of e4m3 operands with a scale per tensor, to bf16",
        gemm.shape_in("gemm-fp8", "fp8_e4m3"),
        typed=False,
    ),
    _product(
        "gemm-int8",
        "gemm of int8 operands with a scale per tensor, summed in int32, to bf16",
        gemm.shape_in("gemm-int8", "int8"),
        typed=False,
    ),
    _batched(
        "batched-gemm", "`products` matrix products of one shape; a model gives the dtype only", gemm.batched_shape
    ),
    _batched(
        "batched-gemm-fp32",
        "batched-gemm of fp32 operands; unit=vector: not rounded to the matrix unit's type",
        gemm.batched_shape_in("batched-gemm-fp32", "fp32"),
        typed=False,
    ),
    _batched(
        "batched-gemm-fp8",
        "batched-gemm of e4m3 operands with a scale per tensor, to bf16",
        gemm.batched_shape_in("batched-gemm-fp8", "fp8_e4m3"),
        typed=False,
    ),
    Kernel(
        "stream-k",
        "gemm dealt evenly by steps of k, with a phase that adds up the tiles that were cut",
        gemm_stream_k.Knobs,
        (),
        ("m", "n", "k"),
        gemm_stream_k.shape,
        gemm_stream_k.canonical,
        gemm_stream_k.compile,
        sizes=PRODUCT,
    ),
    Kernel(
        "gemm-w8a8-block",
        "e4m3 operands with scales of 1 x 128 and 128 x 128 blocks, promoted in fp32, to bf16",
        gemm_w8a8.Knobs,
        (),
        ("m", "n", "k"),
        gemm_w8a8.shape,
        gemm_w8a8.canonical,
        gemm_w8a8.compile,
        sizes=PRODUCT,
        typed=False,
    ),
    _narrow("int4", "4-bit weights with scales of groups of k"),
    _narrow("int8", "8-bit weights with scales of output channels"),
    _narrow("fp8", "e4m3 weights with scales of groups of k"),
    _narrow("mxfp8", "e4m3 weights with a power of two per 32 of k"),
    _narrow("mxfp4", "e2m1 weights with a power of two per 32 of k"),
    _narrow("nvfp4", "e2m1 weights with an e4m3 scale per 16 of k and one per tensor"),
    Kernel(
        "gemm-mxfp8",
        "e4m3 operands with a power of two per 32 of k, to bf16",
        gemm_mx.Knobs,
        (),
        ("m", "n", "k"),
        gemm_mx.shape_in("gemm-mxfp8", "mxfp8"),
        gemm_mx.canonical,
        gemm_mx.compile,
        sizes=PRODUCT,
        typed=False,
    ),
    Kernel(
        "gemm-mxfp4",
        "e2m1 operands with a power of two per 32 of k, to bf16",
        gemm_mx.Knobs,
        (),
        ("m", "n", "k"),
        gemm_mx.shape_in("gemm-mxfp4", "mxfp4"),
        gemm_mx.canonical,
        gemm_mx.compile,
        sizes=PRODUCT,
        typed=False,
    ),
    Kernel(
        "gemm-nvfp4",
        "e2m1 operands with an e4m3 scale per 16 of k and an fp32 scale per tensor, to bf16",
        gemm_mx.Knobs,
        (),
        ("m", "n", "k"),
        gemm_mx.shape_in("gemm-nvfp4", "nvfp4"),
        gemm_mx.canonical,
        gemm_mx.compile,
        sizes=PRODUCT,
        typed=False,
    ),
    Kernel(
        "gemv",
        "few rows of a times weights read once, on the vector or the matrix unit; a model gives the dtype only",
        gemv.Knobs,
        (),
        ("m", "n", "k"),
        gemv.shape,
        gemv.canonical,
        gemv.compile,
        sizes=PRODUCT,
    ),
)
KERNELS = tuple(replace(kernel, keeps=("b", "scales b")) for kernel in _PRODUCTS)
