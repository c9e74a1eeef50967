"""Products of tokens with weights."""

from __future__ import annotations

from dataclasses import replace

from workloads.kernels import gemm, gemv
from workloads.layers.setting import Setting, fitting
from workloads.sequence import Step
from workloads.values import Part

FEW_ROWS = 64  # assumed: up to here `gemv` beats tiles of 128 rows on the shipped machines


def product(
    title: str,
    setting: Setting,
    n: int,
    k: int,
    takes: str | Part = "",
    leaves: str | Part = "",
    *,
    m: int | None = None,
    batch: int | None = None,
) -> Step:
    """Return a matrix product of the new tokens (or `m` rows) with weights of `n` rows and `k` columns.

    `takes`, `leaves`: the values of its rows and of what it computes, where they have names. Few rows take the kernel
    that reads weights once, their k split where idle cores are enough for four parts of four loads or more; others the
    candidates of `gemm`. A `batch` lies within each row, as heads do.
    """
    rows = setting.tokens if m is None else m
    problem = gemm.Problem(rows, n, k, setting.dtype, batch)
    values = {name: value for name, value in (("a", takes), ("c", leaves)) if value}
    cores = setting.machine.spec.cores.count
    if rows <= FEW_ROWS and batch is None:
        few = gemv.Knobs(unit="matrix")
        parts = min(cores // -(-n // few.tile_n), k // (4 * few.tile_k))
        few = replace(few, split_k=parts if parts >= 4 else 1)
        try:
            return fitting(title, "gemv", problem, [few], setting, values)
        except ValueError:  # all rows of a core's tile must fit
            pass
    tiles = gemm.candidates(problem, setting.machine)
    if batch is None:
        return fitting(title, "gemm", problem, tiles, setting, values)
    within = (replace(knobs, layout_a="m batch k", layout_c="m batch n") for knobs in tiles)
    return fitting(title, "batched-gemm", problem, within, setting, values)
