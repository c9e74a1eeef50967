"""Where kernels are registered: a module per family, a block per kernel, in the order in which they are listed.

The names stand here, so that a family is imported only when one of its kernels is used: all of them take longer than
a short simulation. A kernel is added to its family's module and to its names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from workloads.kernels.base import Kernel

_MODULES = {
    "attention": "attention", "latent and sparse attention": "latent", "linear attention": "linear",
    "products": "products", "experts": "experts", "row-wise": "rowwise", "data movement": "movement",
}  # fmt: skip
_NAMES = {
    "attention": "decode-attention prefill-attention cascade-decode",
    "latent and sparse attention": (
        "mla-decode mla-prefill sparse-attention sparse-gqa indexer compressed-attention compress"
    ),
    "linear attention": "linear-decode linear-prefill kda-prefill",
    "products": (
        "gemm gemm-fp32 gemm-fp8 gemm-int8 batched-gemm batched-gemm-fp32 batched-gemm-fp8 stream-k gemm-w8a8-block "
        "gemm-w4a16 gemm-w8a16 gemm-w8a16-fp8 gemm-w8a16-mxfp8 gemm-w4a16-mxfp4 gemm-w4a16-nvfp4 gemm-mxfp8 "
        "gemm-mxfp4 gemm-nvfp4 gemv"
    ),
    "experts": "moe moe-route moe-permute grouped-gemm moe-finalize",
    "row-wise": (
        "rms-norm layer-norm residual-add elementwise softmax swiglu rope top-k quantise quantise-tensor "
        "quantise-mxfp8 quantise-nvfp4 quantise-static absmax collapse-streams expand-streams"
    ),
    "data movement": "embedding kv-append convert-layout",
}
_FAMILY = {name: family for family, names in _NAMES.items() for name in names.split()}


class _Families(Mapping[str, tuple[Kernel, ...]]):
    """Kernels by family."""

    def __getitem__(self, family: str) -> tuple[Kernel, ...]:
        members: tuple[Kernel, ...] = import_module(f"{__name__}.{_MODULES[family]}").KERNELS
        return members

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


class _Kernels(Mapping[str, Kernel]):
    """Kernels by name, family after family."""

    def __getitem__(self, name: str) -> Kernel:
        return next(kernel for kernel in FAMILIES[_FAMILY[name]] if kernel.name == name)

    def __iter__(self) -> Iterator[str]:
        return iter(_FAMILY)

    def __len__(self) -> int:
        return len(_FAMILY)


FAMILIES, KERNELS = _Families(), _Kernels()
