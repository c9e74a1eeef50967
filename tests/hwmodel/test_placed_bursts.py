from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hwmodel.assembler import PhaseAssembler, Region, Slot
from hwmodel.bounds import lower_bound
from hwmodel.machine import Machine
from hwmodel.placed_bursts import placed_fs
from hwmodel.program import Program
from hwmodel.reference import simulate
from hwmodel.spec import load_machine

MachineMaker = Callable[..., Machine]
NPU = Machine(load_machine("npu-hbm3"))


def at(machine: Machine, **fields: Any) -> Any:
    """Return the addresses of bursts by their fields; those not given are 0."""
    names = ("stack", "channel", "pseudo_channel", "bank_group", "bank", "row", "column")
    return machine.address_map.encode(*np.broadcast_arrays(*(np.atleast_1d(fields.get(name, 0)) for name in names)))


def ticks(fs: int) -> float:
    return fs / float(NPU.tick_fs)


def test_bursts_of_one_row_follow_each_other_at_the_rate_of_the_bus() -> None:
    one, many = (placed_fs(NPU, at(NPU, column=np.arange(n), row=7), True, False) for n in (1, 32))
    assert ticks(many - one) == pytest.approx(31 * NPU.timing.burst_interval_ticks, abs=1)


def test_rows_of_one_bank_open_one_after_the_other() -> None:
    one, many = (placed_fs(NPU, at(NPU, row=np.arange(n)), True, False) for n in (1, 9))
    assert ticks(many - one) == pytest.approx(8 * NPU.timing.nRC, abs=1)


def test_rows_of_many_banks_open_four_in_a_window() -> None:
    banks = {"bank_group": np.arange(16) % 4, "bank": np.arange(16) // 4}
    one, many = (placed_fs(NPU, at(NPU, **fields), True, False) for fields in ({}, banks))
    assert ticks(many - one) >= max(3 * NPU.timing.nFAW, 15 * NPU.timing.nRRDS) - 1


def test_one_row_of_every_bank_may_be_open_already() -> None:
    rows = at(NPU, row=np.arange(9))
    closed, opened = (placed_fs(NPU, rows, rows_closed, False) for rows_closed in (True, False))
    assert ticks(closed - opened) == pytest.approx(NPU.timing.nRC + NPU.timing.activate_to_column_ticks, abs=1)


def rows_of_one_bank(make_program: Any, placed: Any, machine: Machine, rows: list[int], launches: int = 1) -> Program:
    """Return a program whose tasks each load a burst of another row of the first bank."""
    addresses = at(machine, row=np.array(rows))

    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 1, 16, "bf16", 8)))
        p.load(Slot(buffer, p.begun), Region(0, {"x": (p.column("c0"), 16)}))

    elements = int(addresses.max()) // 2 + 16
    tasks = [[address // 2] for address in addresses.tolist()]
    cores = machine.spec.cores.count
    return make_program(write, elements=(elements,), tasks=tasks, cores=cores, launches=launches)  # type: ignore[no-any-return]


def test_a_bank_whose_rows_are_read_in_turn_is_close_to_its_bound(
    make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    machine = make_machine("npu-hbm3", {"hbm.controller.refresh": "none", "launch.latency": "100 ns"})
    program = rows_of_one_bank(make_program, placed, machine, list(range(0, 64, 2)))
    bound, time = lower_bound(program, machine), simulate(program, machine).makespan_fs
    assert bound.limited_by == "hbm"
    assert 0.9 * time < bound.total_fs <= time


@pytest.mark.parametrize("name", ["npu-hbm3", "h100-sxm", "rtx-4090"])
@pytest.mark.parametrize("rows", [[0], [3, 3, 3], [0, 1, 0, 1], [5, 9, 2, 9, 30, 31]])
def test_no_run_opens_rows_sooner(
    make_program: Any, placed: Any, make_machine: MachineMaker, name: str, rows: list[int]
) -> None:
    machine = make_machine(name)
    program = rows_of_one_bank(make_program, placed, machine, rows, launches=2)
    assert lower_bound(program, machine).total_fs <= simulate(program, machine).makespan_fs
