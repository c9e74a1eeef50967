"""How should the latent cache of DeepSeek-V3 lie: plain, split, or in records of eight-bit values, in which pages?

    python studies/mla_records.py --page studies/mla_records.md

Decode attention of one layer over the latent cache, which all heads share. What lies there is 576 elements in 16 bits
a token, in one piece or in planes of 64; the record of 656 bytes, its fields together for each token, apart within a
page, or in pools of their own; and, for the latent of 512 elements that the record of 584 bytes was made for, plain and
that record. Each is simulated in pages of several sizes under several schedules of the kernel, and the fastest counts:
with all 128 heads on one device, and with 16, as on one of eight devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from explorer.programs import machine_of
from explorer.study_page import (
    Answer,
    Picture,
    Row,
    Table,
    command,
    compared,
    in_parallel,
    least,
    listed,
    most,
    number,
    ties,
    where,
)
from hwmodel.engine import simulate
from hwmodel.machine import DoesNotFit, Machine
from hwmodel.program import Program, Tensor
from layouts import Layout
from layouts.notation import NamedLayout
from workloads.batch import uniform
from workloads.kernels import mla_decode
from workloads.placement import place

MACHINES = ("npu-hbm3", "h100-sxm")
SEQUENCES, CONTEXT = 16, 2048
HEADS = (128, 16)
PAGES = (16, 64, 256)  # tokens
V3, V4 = {"rank": 512, "rope": 64}, {"rank": 448, "rope": 64, "value": 512}
TOGETHER, BY_PAGE, POOLS = "together", "apart in a page", "pools of their own"


@dataclass(frozen=True)
class Cache:
    """How a latent lies: the kernel's record and layout, and where the record's fields are."""

    latent: str  # of which model
    record: str = "plain"
    layout: str = "page token dim"
    fields: str = TOGETHER


PLAIN, PLAIN_V4 = "1152 B, plain", "1024 B, plain"
CACHES = {
    PLAIN: Cache("DeepSeek-V3"),
    "1152 B, planes of 64 in a page": Cache("DeepSeek-V3", layout="page dim//64 token dim%64"),
    "656 B, fields together": Cache("DeepSeek-V3", "fp8_ds_mla"),
    "656 B, fields apart in a page": Cache("DeepSeek-V3", "fp8_ds_mla", fields=BY_PAGE),
    "656 B, fields in pools of their own": Cache("DeepSeek-V3", "fp8_ds_mla", fields=POOLS),
    PLAIN_V4: Cache("DeepSeek-V4"),
    "584 B, scales at the end of a page": Cache("DeepSeek-V4", "model1"),
}
SCHEDULES = (  # what fits any machine here; of those that fit, the fastest counts
    mla_decode.Knobs(head_tile=128, tile=64, strip=16),
    mla_decode.Knobs(head_tile=128, tile=64, strip=16, queries=1, split_tokens=512),
    mla_decode.Knobs(head_tile=32, tile=32, strip=16, queries=1, split_tokens=512),
    mla_decode.Knobs(head_tile=32, tile=32, strip=8, stages=2, queries=1, split_tokens=512),
)


@dataclass(frozen=True)
class Case:
    """One way to keep the cache, under one of SCHEDULES."""

    machine: str
    heads: int
    cache: str
    page_size: int
    schedule: int
    sequences: int = SEQUENCES
    context: int = CONTEXT


def apart(program: Program, fields: str, machine: Machine) -> Program:
    """Return a program over a record with its fields apart, in every page or in pools; tensors are placed anew."""
    if fields == TOGETHER:
        return program
    own = [tensor for tensor in program.tensors if tensor.name.startswith("cache ")]
    rows = {tensor.name: _row_bytes(tensor) for tensor in own}
    page_size = own[0].layout.size("token")
    page_bytes = sum(rows.values()) * page_size
    placed = {t.name: t for t in place([t for t in program.tensors if t not in own], machine)}
    base = max(t.base_bytes + t.size_bytes for t in placed.values())
    base = -(-base // 4096) * 4096
    for tensor in own:
        size = rows[tensor.name]
        pitch = page_bytes if fields == BY_PAGE else size * page_size
        placed[tensor.name] = replace(tensor, base_bytes=base, layout=_strided(tensor, pitch, size))
        base += size * page_size if fields == BY_PAGE else pitch * tensor.layout.size("page")
    return replace(program, tensors=tuple(placed[tensor.name] for tensor in program.tensors))


def _row_bytes(tensor: Tensor) -> int:
    return tensor.layout.size(tensor.layout.axes[2]) * tensor.element_bytes


def _strided(tensor: Tensor, page_bytes: int, row_bytes: int) -> NamedLayout:
    shape = tuple(tensor.layout.size(axis) for axis in tensor.layout.axes)
    strides = (page_bytes // tensor.element_bytes, row_bytes // tensor.element_bytes, 1)
    return NamedLayout(tensor.layout.axes, Layout(shape, strides))


def measure(case: Case) -> Row | None:
    """Return the time of one case; None where the schedule does not fit the scratchpad."""
    machine, cache = machine_of(case.machine), CACHES[case.cache]
    sizes = {"heads": case.heads} | (V3 if cache.latent == "DeepSeek-V3" else V4)
    problem = mla_decode.shape(None, uniform(case.sequences, case.context), sizes)
    knobs = replace(SCHEDULES[case.schedule], record=cache.record, layout=cache.layout, page_size=case.page_size)
    try:
        program = apart(mla_decode.compile(problem, knobs, machine, 0), cache.fields, machine)
    except DoesNotFit:
        return None
    result = simulate(program, machine)
    return {
        "machine": case.machine,
        "heads": case.heads,
        "cache": case.cache,
        "page_size": case.page_size,
        "schedule": case.schedule,
        "time_us": result.time_us,
        "bound_us": result.bound.total_fs / 1e9,
        "hbm_read_bytes": result.hbm_read_bytes,
        "hbm_useful_bytes": result.hbm_useful_bytes,
        "matrix_useful": result.utilisation["matrix"],
    }


def fastest(rows: Sequence[Row | None]) -> tuple[Row, ...]:
    """Return of every cache, page size, head count and machine the row of the fastest schedule."""

    def what(row: Row) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in ("machine", "heads", "cache", "page_size"))

    return tuple(least(list(group), "time_us") for _, group in groupby((r for r in rows if r is not None), what))


def sentences(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the answer in words."""
    pairs = dict.fromkeys((str(row["machine"]), int(number(row, "heads"))) for row in rows)
    return tuple(text for machine, heads in pairs for text in _of(machine, heads, rows))


def _of(machine: str, heads: int, rows: Sequence[Row]) -> list[str]:
    best = {name: least(where(rows, machine=machine, heads=heads, cache=name), "time_us") for name in CACHES}
    found = []
    for plain in (PLAIN, PLAIN_V4):
        latent = CACHES[plain].latent
        mine = [best[name] for name in CACHES if CACHES[name].latent == latent]
        others = [
            f"{row['cache']} takes {compared(number(row, 'time_us'), number(best[plain], 'time_us'))} time and reads "
            f"{compared(number(row, 'hbm_read_bytes'), number(best[plain], 'hbm_read_bytes'))}"
            for row in mine
            if row["cache"] != plain
        ]
        first = listed([row["cache"] for row in ties(mine, "time_us")])
        least_us = number(least(mine, "time_us"), "time_us")
        found.append(
            f"{machine}, {heads} heads, latent of {latent}: the fastest, {least_us:.2f} us, {first}. "
            f"Against {plain} ({number(best[plain], 'time_us'):.2f} us), {'; '.join(others)}."
        )
    spread = {name: where(rows, machine=machine, heads=heads, cache=name) for name in CACHES}
    ratio = {
        n: number(most(r, "time_us"), "time_us") / number(least(r, "time_us"), "time_us") for n, r in spread.items()
    }
    widest = max(ratio, key=lambda name: ratio[name])
    found.append(
        f"{machine}, {heads} heads: the size of a page matters most to {widest}, by {100 * (ratio[widest] - 1):.1f} % "
        f"from {least(spread[widest], 'time_us')['page_size']} tokens (fastest) to "
        f"{most(spread[widest], 'time_us')['page_size']} (slowest)."
    )
    return found


def study(jobs: int) -> Answer:
    """Return the answer of the whole study."""
    cases = [
        Case(machine, heads, cache, page_size, schedule)
        for machine in MACHINES
        for heads in HEADS
        for cache in CACHES
        for page_size in PAGES
        for schedule in range(len(SCHEDULES))
    ]
    measured = in_parallel(measure, cases, jobs)
    rows, ran = fastest(measured), sum(row is not None for row in measured)
    tables = [
        Table(
            f"{machine}, {heads} heads, the fastest schedule of each",
            tuple(where(rows, machine=machine, heads=heads)),
            (Picture("page_size", "time_us", "cache", logarithmic=True),),
        )
        for machine in MACHINES
        for heads in HEADS
    ]
    return Answer(
        "mla_records",
        "How should the latent cache of DeepSeek-V3 lie: plain, split, or in records of eight-bit values?",
        (
            f"{ran} simulations: one layer's decode attention of {SEQUENCES} sequences of {CONTEXT} tokens in shuffled "
            f"pages of {listed(PAGES)} tokens; {len(cases) - ran} more do not fit the scratchpad.",
            *(f"Schedule {place}: {_text(knobs)}." for place, knobs in enumerate(SCHEDULES)),
        ),
        sentences(rows),
        tuple(tables),
        (
            "Latent and rotary key of a 16-bit cache in two tensors were not simulated: the kernel loads them as one; "
            "planes of 64 columns are the nearest to it.",
            "The record of 584 bytes holds 448 + 64 columns, so it is compared with a plain cache of that latent, not "
            "with V3's. Appending to a cache, and quantising, are not in these times.",
            "Records are widened to 16 bits by the vector unit before they are multiplied; kernels that multiply 8 "
            "bits as they are were not simulated. Latent decode of few heads is a weak point of the model "
            "(studies/accuracy.md).",
        ),
    )


def _text(knobs: mla_decode.Knobs) -> str:
    names = ("head_tile", "tile", "stages", "queries", "strip", "split_tokens")
    return ", ".join(f"{name}={getattr(knobs, name)}" for name in names)


if __name__ == "__main__":
    command(study, __doc__)
