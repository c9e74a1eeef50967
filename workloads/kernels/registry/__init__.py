"""Where kernels are registered: a module per family, a block per kernel, in the order in which they are listed."""

from __future__ import annotations

from workloads.kernels.base import Kernel
from workloads.kernels.registry import attention, experts, latent, linear, movement, products, rowwise

FAMILIES: dict[str, tuple[Kernel, ...]] = {
    "attention": attention.KERNELS,
    "latent and sparse attention": latent.KERNELS,
    "linear attention": linear.KERNELS,
    "products": products.KERNELS,
    "experts": experts.KERNELS,
    "row-wise": rowwise.KERNELS,
    "data movement": movement.KERNELS,
}
