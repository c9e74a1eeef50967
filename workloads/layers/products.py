"""Products of tokens with weights."""

from __future__ import annotations

from dataclasses import replace

from workloads.kernels import gemm, gemv
from workloads.layers.setting import Setting, fitting
from workloads.sequence import Step

FEW_ROWS = 64  # assumed: up to here `gemv` beats tiles of 128 rows on the shipped machines


def product(title: str, setting: Setting, n: int, k: int, m: int | None = None, batch: int | None = None) -> Step:
    """Return a matrix product of the new tokens (or `m` rows) with weights of `n` rows and `k` columns.

    Few rows take the kernel that reads weights once, their k split where idle cores are enough for four parts of four
    loads or more; others the candidates of `gemm`.
    """
    rows = setting.tokens if m is None else m
    problem = gemm.Problem(rows, n, k, setting.dtype, batch)
    cores = setting.machine.spec.cores.count
    if rows <= FEW_ROWS and batch is None:
        few = gemv.Knobs(unit="matrix")
        parts = min(cores // -(-n // few.tile_n), k // (4 * few.tile_k))
        few = replace(few, split_k=parts if parts >= 4 else 1)
        try:
            return fitting(title, "gemv", problem, [few], setting)
        except ValueError:  # all rows of a core's tile must fit
            pass
    kernel = "gemm" if batch is None else "batched-gemm"
    return fitting(title, kernel, problem, gemm.candidates(problem, setting.machine), setting)
