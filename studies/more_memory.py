"""What do more stacks, or HBM4, buy the decode and the prefill of a 70B model?

    python studies/more_memory.py --page studies/more_memory.md

The layers of Llama 3.1 70B on one of eight devices, kernel by kernel, on a sketch of an accelerator that differs in its
memory alone: four, six or eight stacks of HBM3, four of HBM4, and four of HBM4 with ports to the network of twice the
width. A decode step and a prompt are simulated on each; the share of the time in kernels that main memory bounds says
why a faster memory helps, or does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    number,
    where,
)
from hwmodel.machine import Machine
from hwmodel.spec import load_machine
from workloads import scheduled
from workloads.model import load_model
from workloads.scheduled import Scheduled
from workloads.sequence import plan
from workloads.sequence_result import simulate_call
from workloads.step import model_steps

MACHINE, MODEL, DEVICES = "npu-hbm3", "llama-3.1-70b", 8
AFTER = ("head", "last norm")  # the layers, and not simulated
HBM4: dict[str, object] = {
    "hbm.standard": "HBM4",
    "hbm.pin_rate": "8 Gb/s",
    "hbm.address_map.fields": (
        "offset:5", "column:2", "pseudo_channel:1", "channel:5", "stack", "bank_group:1", "column:3", "bank", "row",
    ),
}  # fmt: skip
BASE = "4 x HBM3"
MEMORIES: dict[str, dict[str, object]] = {
    BASE: {},
    "6 x HBM3": {"hbm.stacks": 6},
    "8 x HBM3": {"hbm.stacks": 8},
    "4 x HBM4": HBM4,
    "4 x HBM4, wide ports": HBM4 | {"noc.port_bytes_per_cycle": 512},
}
WORK = {
    "decode": scheduled.decode((2048,) * 16),
    "prefill": scheduled.prefill((512,)),
}


@dataclass(frozen=True)
class Case:
    """A pass through the layers with one of MEMORIES; other than the study's for the tests."""

    memory: str
    work: str
    model: str = MODEL
    devices: int = DEVICES
    scheduled: Scheduled | None = None


def machine_with(memory: str) -> Machine:
    """Return the machine with another memory."""
    return Machine(load_machine(MACHINE).with_overrides(MEMORIES[memory]))


def measure(case: Case) -> Row:
    """Return the time of the layers, what they move, and how much of the time is in kernels that memory bounds."""
    machine, work = machine_with(case.memory), case.scheduled or WORK[case.work]
    steps = model_steps(load_model(case.model), work, machine, parallel=case.devices)
    result = simulate_call(plan([step for step in steps if step.name not in AFTER], machine), machine)
    by_limit: dict[str, int] = {}
    for line in result.lines:
        limit = line.result.bound.limited_by
        by_limit[limit] = by_limit.get(limit, 0) + line.total_fs
    return {
        "work": case.work,
        "memory": case.memory,
        "time_us": result.total_fs / 1e9,
        "peak_tb_per_s": float(machine.hbm_peak_bytes_per_second) / 1e12,
        "moved_tb_per_s": result.moved_bytes * 1e3 / result.total_fs,
        "moved_bytes": result.moved_bytes,
        "time_limited_by_hbm": by_limit.get("hbm", 0) / result.total_fs,
        "most_time_limited_by": max(by_limit, key=lambda name: by_limit[name]),
    }


def sentences(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the answer in words."""
    found = []
    for work in dict.fromkeys(str(row["work"]) for row in rows):
        mine = where(rows, work=work)
        base, best = where(mine, memory=BASE)[0], least(mine, "time_us")
        shares = [100 * number(row, "time_limited_by_hbm") for row in (base, best)]
        others = (
            f"{row['memory']} ({number(row, 'peak_tb_per_s') / number(base, 'peak_tb_per_s'):.2f} times the peak) "
            f"{compared(number(row, 'time_us'), number(base, 'time_us'))}{_moved(row, base)}"
            for row in mine
            if row is not base
        )
        found.append(
            f"{work}: {BASE} takes {number(base, 'time_us') / 1e3:.2f} ms, {shares[0]:.0f} % of it in kernels that HBM "
            f"bounds, and moves {_of_peak(base):.0f} % of what its peak would. Against it take {listed(list(others))}."
        )
        found.append(
            f"{work}: with the fastest, {best['memory']}, {shares[1]:.0f} % of the time is "
            f"in kernels that HBM bounds, and most in those that {best['most_time_limited_by']} bounds; "
            f"{number(best, 'moved_tb_per_s'):.2f} of {number(best, 'peak_tb_per_s'):.2f} TB/s are moved."
        )
    return tuple(found)


def _of_peak(row: Row) -> float:
    """Return what is moved, in percent of what the peak would move."""
    return 100 * number(row, "moved_tb_per_s") / number(row, "peak_tb_per_s")


def _moved(row: Row, base: Row) -> str:
    """Return in brackets how much of its peak a memory moves, and how many bytes where tiles of it move others."""
    bytes_moved = compared(number(row, "moved_bytes"), number(base, "moved_bytes"))
    others = "" if bytes_moved == "as much" else f", in bytes {bytes_moved}"
    return f" (moving {_of_peak(row):.0f} % of that{others})"


def study(jobs: int) -> Answer:
    """Return the answer of the whole study."""
    cases = [Case(memory, work) for work in WORK for memory in MEMORIES]
    rows = tuple(in_parallel(measure, cases, jobs))
    return Answer(
        "more_memory",
        "What do more stacks, or HBM4, buy the decode and the prefill of a 70B model?",
        (
            f"{len(rows)} passes through the layers of {MODEL} in bf16 on one of {DEVICES} devices, on {MACHINE}.",
            "decode: 16 sequences of 2048 tokens; prefill: one prompt of 512 tokens. Layers that are alike are "
            "simulated once and counted.",
            *(
                f"{name}: {', '.join(f'{path} = {value}' for path, value in changes.items()) or 'as the machine file'}."
                for name, changes in MEMORIES.items()
            ),
        ),
        sentences(rows),
        (Table("Times", rows, (Picture("memory", "time_us", "work"),)),),
        (
            "Output head, sampling and the exchange between devices are not in these times; kernels do not overlap.",
            "The hash of the address map is that of the machine file for every memory; another may suit HBM4.",
            "Tiles of products are chosen for every machine by an estimate, which may serve one memory better.",
            "The machine is a sketch; HBM4's timing is not measured on any part. Energy, cost and area of stacks "
            "are not in this answer.",
        ),
    )


if __name__ == "__main__":
    command(study, __doc__)
