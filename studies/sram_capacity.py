"""From which capacity on does a larger scratchpad stop paying, in time and in traffic?

    python studies/sram_capacity.py --page studies/sram_capacity.md

A larger scratchpad holds larger tiles, and larger tiles are read less often. For a product and for attention of a
prompt every tile of a list is simulated, on the machine with the smallest capacity of a ladder that it fits; a
capacity's best is the fastest of all tiles that fit it, and its least traffic the fewest bytes that one of them moves.
What stops paying is read off that envelope: the smallest capacity whose best is close to the best of the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

from explorer.study_page import Answer, Picture, Row, Table, command, compared, in_parallel, least, number, where
from hwmodel.engine import simulate
from hwmodel.machine import DoesNotFit, Machine
from hwmodel.spec import load_machine
from workloads.batch import uniform
from workloads.kernels import gemm, prefill_attention
from workloads.model import load_model

MACHINE = "npu-hbm3"
CAPACITIES_KIB = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
CLOSE = 0.02  # assumed: within 2 % of the best is as good as it
MODEL, TOKENS = "llama-3.1-8b", 512
PRODUCT = gemm.Problem(1024, 2048, 1024, "bf16")

Knobs: TypeAlias = gemm.Knobs | prefill_attention.Knobs
GEMM, PREFILL = "gemm", "prefill-attention"
TILES: dict[str, tuple[Knobs, ...]] = {
    GEMM: tuple(
        gemm.Knobs(tile_m=m, tile_n=n, stages=stages, order="grouped")
        for m, n, stages in product((64, 128, 256, 512), (64, 128, 256, 512), (2, 3))
    ),
    PREFILL: tuple(
        prefill_attention.Knobs(tile_q=q, tile_kv=kv, stages=stages)
        for q, kv, stages in product((16, 32, 64, 128, 256, 512), (32, 64, 128), (2, 3))
    ),
}
SHOWN = {GEMM: ("tile_m", "tile_n", "stages"), PREFILL: ("tile_q", "tile_kv", "stages")}


@dataclass(frozen=True)
class Case:
    """One tile of a kernel, on the smallest of some capacities."""

    kernel: str
    knobs: Knobs
    capacities_kib: tuple[int, ...] = CAPACITIES_KIB
    problem: Any = None  # by default the kernel's own


def machine_with(capacity_kib: int) -> Machine:
    """Return the machine with scratchpads of another capacity."""
    return Machine(load_machine(MACHINE).with_overrides({"cores.sram.capacity": f"{capacity_kib} KiB"}))


def problem_of(kernel: str) -> Any:
    """Return what a kernel works on."""
    if kernel == GEMM:
        return PRODUCT
    return prefill_attention.shape(load_model(MODEL), uniform(1, TOKENS), {})


def measure(case: Case) -> Row | None:
    """Return time and traffic of a tile on the smallest capacity that it fits; None where it fits none."""
    problem = case.problem or problem_of(case.kernel)
    module: Any = gemm if case.kernel == GEMM else prefill_attention
    for capacity_kib in case.capacities_kib:
        machine = machine_with(capacity_kib)
        try:
            program = module.compile(problem, case.knobs, machine, 0)
        except DoesNotFit:
            continue
        result = simulate(program, machine)
        return {
            "kernel": case.kernel,
            "tile": " ".join(f"{name}={getattr(case.knobs, name)}" for name in SHOWN[case.kernel]),
            "fits_kib": capacity_kib,
            "time_us": result.time_us,
            "bound_us": result.bound.total_fs / 1e9,
            "hbm_bytes": result.hbm_read_bytes + result.hbm_write_bytes,
        }
    return None


def envelope(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return per kernel and capacity the fastest tile that fits, and the fewest bytes that one of them moves."""
    found: list[Row] = []
    for kernel in dict.fromkeys(str(row["kernel"]) for row in rows):
        mine = where(rows, kernel=kernel)
        for capacity in sorted({int(number(row, "fits_kib")) for row in mine}):
            fit = [row for row in mine if number(row, "fits_kib") <= capacity]
            best = least(fit, "time_us")
            found.append(
                {
                    "kernel": kernel,
                    "capacity_kib": capacity,
                    "time_us": best["time_us"],
                    "tile": best["tile"],
                    "hbm_bytes": best["hbm_bytes"],
                    "least_hbm_bytes": least(fit, "hbm_bytes")["hbm_bytes"],
                    "tiles_that_fit": len(fit),
                }
            )
    return tuple(found)


def enough(rows: Sequence[Row], column: str) -> Row:
    """Return the first row of a slope that is as good as its last one."""
    last = number(rows[-1], column)
    return next(row for row in rows if number(row, column) <= last * (1 + CLOSE))


def sentences(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the answer in words, from the envelope."""
    found = []
    for kernel in dict.fromkeys(str(row["kernel"]) for row in rows):
        mine = where(rows, kernel=kernel)
        time, traffic, first, last = enough(mine, "time_us"), enough(mine, "least_hbm_bytes"), mine[0], mine[-1]
        time_us, first_us, last_us = (number(row, "time_us") for row in (time, first, last))
        moved, first_moved = (number(row, "least_hbm_bytes") for row in (traffic, first))
        if time is last and len(mine) > 1:
            start = f"no tile listed needs more than {time['capacity_kib']:,} KiB per core, and up to there more pays"
        else:
            start = f"more than {time['capacity_kib']:,} KiB per core makes it faster by {100 * CLOSE:.0f} % at most"
        found.append(
            f"{kernel}: {start}: its best tile ({time['tile']}) takes {time_us:.2f} us, that of "
            f"{last['capacity_kib']:,} KiB {last_us:.2f} us; with {first['capacity_kib']:,} KiB it takes "
            f"{compared(first_us, time_us)}."
        )
        found.append(
            f"{kernel}: the least traffic stops falling at {traffic['capacity_kib']:,} KiB, with {moved / 1e6:.1f} MB, "
            f"against {first_moved / 1e6:.1f} MB at {first['capacity_kib']:,} KiB; the fastest tile of "
            f"{time['capacity_kib']:,} KiB moves {compared(number(time, 'hbm_bytes'), moved)}."
        )
    return tuple(found)


def study(jobs: int) -> Answer:
    """Return the answer of the whole study."""
    cases = [Case(kernel, knobs) for kernel, tiles in TILES.items() for knobs in tiles]
    rows = [row for row in in_parallel(measure, cases, jobs) if row is not None]
    slope = envelope(rows)
    columns = ("time_us", "least_hbm_bytes")
    drawn = tuple(Picture("capacity_kib", column, "kernel", logarithmic=True) for column in columns)
    p = PRODUCT
    return Answer(
        "sram_capacity",
        "From which capacity on does a larger scratchpad stop paying?",
        (
            f"{len(rows)} simulations on {MACHINE}, whose scratchpads are given {CAPACITIES_KIB[0]} to "
            f"{CAPACITIES_KIB[-1]:,} KiB each.",
            f"{GEMM}: {p.m} x {p.k} and {p.k} x {p.n} in {p.dtype}, {len(TILES[GEMM])} tiles. {PREFILL}: one layer of "
            f"{MODEL} over {TOKENS} tokens, {len(TILES[PREFILL])} tiles.",
        ),
        sentences(slope),
        (
            Table("The best that fits, by capacity", slope, drawn),
            Table("Every tile", tuple(rows)),
        ),
        (
            "Only tiles, stages and one order of tiles were varied: schedules that keep whole operands would use more.",
            "The latency, the energy and the area of a larger scratchpad are those of the smaller one: what it "
            "costs is not in this answer.",
            "Products gather in the matrix unit's own accumulators, whose capacity this machine does not bound. The "
            "machine is a sketch; nothing here was held against a measured part.",
        ),
    )


if __name__ == "__main__":
    command(study, __doc__)
