"""Kernel templates by name; `registry` has them by family, and is where one is added."""

from __future__ import annotations

from workloads.kernels.base import Kernel
from workloads.kernels.registry import FAMILIES, KERNELS

__all__ = ["FAMILIES", "KERNELS", "Kernel"]
