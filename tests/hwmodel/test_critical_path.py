from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from random_programs import kernels, machines, streams

from explorer.text.path import path_lines, path_text
from hwmodel.assembler import PhaseAssembler, Region, Slot
from hwmodel.critical_path import IN_MEMORY, LAUNCH, critical_path
from hwmodel.machine import Machine
from hwmodel.program import QUEUES, Program
from hwmodel.recorder import record
from hwmodel.timeline import Timeline

MachineMaker = Callable[..., Machine]


def check(program: Program, machine: Machine) -> Timeline:
    """Check that the path has no gap, and that all of it is something that happened."""
    result, timeline = record(program, machine)
    path = critical_path(timeline)
    assert [step.from_fs for step in path[:1]] == [0] * (result.makespan_fs > 0)
    assert sum(step.to_fs - step.from_fs for step in path) == result.makespan_fs
    assert all(before.to_fs == after.from_fs for before, after in pairwise(path))
    requests, spans = set(timeline.requests), timeline.spans
    for step in path:
        unit, during = (step.core, step.queue), (step.from_fs, step.to_fs)
        if step.cause == IN_MEMORY:
            assert (*unit, step.execution, *during) in requests
        elif step.execution >= 0:
            found = [s for s in spans if (s.core, s.queue, s.cause, s.execution) == (*unit, step.cause, step.execution)]
            assert any(span.from_fs <= step.from_fs and step.to_fs <= span.to_fs for span in found)
            assert step.cause in ("useful", "SRAM bank conflict", "SRAM contention")
    assert sum(line.time_fs for line in path_lines(timeline)) == result.makespan_fs
    return timeline


@settings(max_examples=5)
@given(kernels(), machines())
def test_the_path_of_a_kernel_has_no_gap_and_is_work_or_requests(case: tuple[Any, Any, Any], machine: Machine) -> None:
    template, problem, knobs = case
    check(template.compile(problem, knobs, machine, 3), machine)


@settings(max_examples=8)
@given(streams(), machines())
def test_the_path_of_a_stream_has_no_gap_and_is_work_or_requests(make: Any, machine: Machine) -> None:
    check(make(machine), machine)


def copies(tasks: int, blocks: int) -> Callable[[PhaseAssembler, Any], None]:
    def write(p: PhaseAssembler, placed: Any) -> None:
        (buffer,) = p.add_buffers(placed(("b", 1, 4096, "bf16", blocks)))
        loaded, free = p.counter("loaded", "memory"), p.counter("free", "buffer")
        slot, where = Slot(buffer, p.begun), {"x": (p.column("c0"), 4096)}
        p.load(slot, Region(0, where), [(free, p.begun - blocks + 1)], [loaded])
        p.store(slot, Region(1, where), [(loaded, p.begun + 1)], [free])

    return write


def copied(make_program: Any, placed: Any, machine: Machine, blocks: int) -> Timeline:
    write = copies(4, blocks)
    tasks = [[4096 * i] for i in range(4)]
    program = make_program(lambda p: write(p, placed), elements=(1 << 20, 1 << 20), tasks=tasks)
    return check(program, machine)


def test_with_a_single_block_the_path_goes_through_every_load_and_every_store(
    make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    timeline = copied(make_program, placed, make_machine("npu-hbm3"), blocks=1)
    path = critical_path(timeline)
    assert path[0].cause == LAUNCH
    waited = [QUEUES[step.queue] for step in path if step.cause == IN_MEMORY]
    assert waited == ["load", "store"] * 4


def test_with_a_block_for_each_the_path_waits_for_memory_no_more_than_once_each_way(
    make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    timeline = copied(make_program, placed, make_machine("npu-hbm3"), blocks=4)
    waited = [QUEUES[step.queue] for step in critical_path(timeline) if step.cause == IN_MEMORY]
    assert waited == ["load", "store"]


def test_the_table_names_instructions_and_adds_up(make_program: Any, placed: Any, make_machine: MachineMaker) -> None:
    timeline = copied(make_program, placed, make_machine("npu-hbm3"), blocks=1)
    text = path_text(timeline)
    assert "load t0: its request is in memory" in text
    assert "store t1" in text
    shares = [float(line.split()[-2]) for line in text.splitlines() if line.endswith("%")]
    assert abs(sum(shares) - 100) < 0.05 * len(shares) + 1e-9
