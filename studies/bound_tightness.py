"""How close lower bounds come to simulated times: the study behind bound_tightness.md.

    python studies/bound_tightness.py --out studies/bound_tightness.md

Runs kernels of sizes that are met in inference on a GPU with a shared cache and on an accelerator without one, and
sets both lower bounds beside the time: that of the program, and that which a search of many points uses, where the
kernel has one. `tightness` is the larger of both over the time. It says how much of a time is explained by the busiest
resource alone; the rest is waiting that no single resource can be blamed for.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from explorer.evaluate import bound_columns, saved_run
from explorer.programs import describe, suggested
from explorer.query import BatchSpec, Query
from hwmodel.units import FS_PER_US

MACHINES = ("h100-sxm", "npu-hbm3")
LLAMA = "llama-3.1-8b"
HND = "page kv head token dim"


class Case(NamedTuple):
    """A query on any machine, its knobs in words; with `suggest`, those that the kernel suggests for the machine."""

    query: Query
    knobs: str = "defaults"
    suggest: bool = False


def _attention(sequences: int, context: int, **knobs: int | str) -> Query:
    given = tuple(sorted(knobs.items()))
    return Query("", "decode-attention", LLAMA, BatchSpec(sequences, context), knobs=given)


def _sizes(kernel: str, **options: int) -> Query:
    return Query("", kernel, options=tuple(options.items()))


CASES = (
    Case(_attention(32, 4096)),
    Case(_attention(32, 4096, layout=HND, page_size=64), "HND, pages of 64"),
    Case(_attention(4, 8192, split_tokens=512), "parts of 512"),
    Case(_sizes("gemm", m=4096, n=4096, k=2048)),
    Case(_sizes("gemm", m=4096, n=4096, k=2048), "suggested", suggest=True),
    Case(
        _sizes("gemm", m=4096, n=4096, k=2048).with_knob("tile_m", 512).with_knob("tile_n", 512), "tiles of 512 x 512"
    ),
    Case(_sizes("gemm", m=64, n=4096, k=4096), "suggested", suggest=True),
    Case(_sizes("gemv", m=4, n=4096, k=4096)),
    Case(Query("", "mla-decode", batch=BatchSpec(16, 2048), options=(("heads", 128),))),
    Case(Query("", "prefill-attention", LLAMA, BatchSpec(1, 2048))),
    Case(_sizes("moe", tokens=64, experts=16, topk=2, inter=1024, hidden=1024), "suggested", suggest=True),
    Case(_sizes("rms-norm", rows=2048, columns=4096)),
    Case(Query("", "kv-append", LLAMA, BatchSpec(64, 4096))),
)


def row(case: Case, machine: str) -> tuple[str, ...]:
    """Return the row of the table: kernel, knobs, machine, bounds, time, tightness, what limits the program's bound."""
    query = replace(case.query, machine=machine)
    try:
        query = suggested(query) if case.suggest else query
        result = saved_run(query).result
    except ValueError as error:
        return describe(query), case.knobs, machine, "-", "-", "-", "-", str(error).split(",")[0]
    assert result is not None
    columns = {name: [value] for name, value in query.knobs} or {"stages": [2]}
    many = bound_columns(query, columns)
    bound_us, time_us = result.bound.total_fs / FS_PER_US, result.makespan_fs / FS_PER_US
    of_many = many.time_us[0] if many is not None else 0.0
    numbers = (f"{bound_us:.2f}", f"{of_many:.2f}" if many is not None else "-", f"{time_us:.2f}")
    tightness = f"{max(bound_us, of_many) / time_us:.1%}"
    return describe(query), case.knobs, machine, *numbers, tightness, result.bound.limited_by


HEAD = ("run", "knobs", "machine", "bound us", "bound of many us", "time us", "tightness", "limited by")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a Markdown file to write; by default the table is printed")
    arguments = parser.parse_args()
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    print(*lines, sep="\n", flush=True)
    for case in CASES:
        for machine in MACHINES:
            lines.append("| " + " | ".join(row(case, machine)) + " |")
            print(lines[-1], flush=True)
    if arguments.out is not None:
        arguments.out.write_text(TEXT + "\n".join(lines) + "\n", encoding="utf-8")


TEXT = """# How close lower bounds come to simulated times

Written by `python studies/bound_tightness.py --out studies/bound_tightness.md`. `bound us` is that of the compiled
program (`bound_us` of a run), `bound of many us` that of many points at once, where the kernel has one; `tightness` is
the larger of both over the simulated time.

"""

if __name__ == "__main__":
    main()
