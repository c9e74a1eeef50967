"""What is said of the values of amounts without walking is what a walk finds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import kernels, machines, streams

from hwmodel import engine
from hwmodel.assembler import PhaseAssembler, Region, Slot
from hwmodel.dma import Regions
from hwmodel.machine import Machine
from hwmodel.program import QUEUES, Op, Program, Schedule, Tensor, walk
from hwmodel.program_check import check_program
from hwmodel.program_ranges import executions_at_most
from layouts import named


def all_inside(program: Program) -> bool:
    """Return whether every region that a walk meets lies in its tensor, or what is looked up in its table."""
    for phase in program.phases:
        regions = Regions(program, phase, 64)
        for queue, name in enumerate(QUEUES):
            for instruction, variables in walk(phase, queue, range(len(phase.tasks))):
                if instruction.op not in (Op.LOAD, Op.STORE):
                    continue
                region = regions.region(instruction.tile, variables)
                layout = program.tensors[region.tensor].layout
                for axis, axis_name in enumerate(layout.axes):
                    start, extent = region.starts[axis], region.extents[axis]
                    if start < 0 or extent < 0 or start + extent > layout.size(axis_name):
                        return False
                assert name in ("load", "store")
    return True


def accepts(program: Program) -> bool:
    try:
        check_program(program)
    except ValueError:
        return False
    return True


@settings(max_examples=150)
@given(streams(), machines(), st.integers(0, 7), st.sampled_from([-2, -1, 1, 2]), st.sampled_from(["start", "count"]))
def test_a_program_is_refused_exactly_where_a_region_leaves_its_tensor(
    make: Any, machine: Machine, task: int, shift: int, column: str
) -> None:
    program = make(machine)
    assert accepts(program)
    assert all_inside(program)
    phase = program.phases[0]
    tasks = phase.tasks.copy()
    tasks[task % len(tasks), phase.columns.index(column)] += shift
    moved = replace(program, phases=(replace(phase, tasks=tasks),))
    assert accepts(moved) == all_inside(moved)


@settings(max_examples=40)
@given(st.one_of(streams(), kernels()), machines())
def test_as_many_instructions_are_counted_as_a_walk_meets(make: Any, machine: Machine) -> None:
    program = make(machine) if callable(make) else make[0].compile(*make[1:], machine, 3)
    for phase in program.phases:
        met = sum(1 for queue in range(len(QUEUES)) for _ in walk(phase, queue, range(len(phase.tasks))))
        assert executions_at_most(phase) == pytest.approx(met, abs=0.5)


@pytest.mark.parametrize(("start", "extent", "is_refused"), [(0, 0, False), (5, 0, False), (0, 5, False), (4, 2, True)])
def test_only_a_region_that_holds_something_needs_entries_of_its_table(
    make_machine: Any, placed: Any, start: int, extent: int, is_refused: bool
) -> None:
    machine = make_machine("npu-hbm3", {"cores.count": 1})
    table = Tensor("table", named("entry", {"entry": 5}), "int32", 4096, "hbm", np.arange(5, dtype=np.int32))
    tensors = Tensor("rows", named("row column", {"row": 5, "column": 16}), "bf16", 0), table
    p = PhaseAssembler("only", tensors, ("start", "extent"))
    (buffer,) = p.add_buffers(placed(("b", 5, 16, "bf16", 1)))
    by_table = {"page_table": 1, "page_axis": "row", "position_axis": "row"}
    rows = p.column("start"), p.column("extent")
    p.load(Slot(buffer, p.begun), Region(0, {"row": rows, "column": (0, 16)}, **by_table))
    schedule = Schedule(np.arange(1), np.array([0, 1]))
    program = Program("gather", tensors, (p.finish(np.array([[start, extent]]), schedule),))
    assert accepts(program) != is_refused
    if not is_refused:
        assert engine.simulate(program, machine).traffic[0].load_useful_bytes == extent * 32
