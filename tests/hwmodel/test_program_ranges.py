"""What is said of the values of amounts without walking is what a walk finds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import kernels, machines, streams

from hwmodel.dma import Regions
from hwmodel.machine import Machine
from hwmodel.program import QUEUES, Op, Program, walk
from hwmodel.program_check import check_program
from hwmodel.program_ranges import executions_at_most


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
