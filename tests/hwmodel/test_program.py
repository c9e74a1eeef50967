from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.assembler import Affine, PhaseAssembler, Region, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import NONE, QUEUES, Buffer, Deferred, Phase, Program, Schedule, Tensor, Values, walk
from hwmodel.spec import load_machine
from layouts import Layout, NamedLayout, named, swizzle
from workloads.kernels import decode_attention, gemm


def trace(phase: Phase, queue: str, tasks: list[int]) -> list[tuple[str, tuple[int, ...]]]:
    """Return (operation, values it waits for) of every instruction that a queue executes."""
    steps = walk(phase, QUEUES.index(queue), tasks)
    return [(i.function, tuple(value(variables) for _, value in i.waits)) for i, variables in steps]


def marked(write: Callable[[PhaseAssembler, Callable[..., None]], None], tasks: Sequence[tuple[int, ...]]) -> Phase:
    """Return a phase whose vector queue is written with mark(name, expression, ...), which nothing signals."""
    columns = tuple("abc"[: len(tasks[0])])
    p = PhaseAssembler("marks", (Tensor("t", named("x", {"x": 1}), "bf16", 0),), columns)
    counter = p.counter("never", "dependency")
    (buffer,) = p.add_buffers([block("b", 1, 1, "bf16")])

    def mark(name: str, *values: Affine | int) -> None:
        p.vector(name, [Slot(buffer, Affine.of(0))], (1,), wait=[(counter, value) for value in values])

    write(p, mark)
    order = np.arange(len(tasks))
    return p.finish(np.array(tasks, np.int64), Schedule(order, np.array([0, len(tasks)])))


trips = st.integers(-1, 3)


@given(st.lists(st.tuples(trips, trips), min_size=1, max_size=4))
def test_nested_loops_are_walked_as_nested_loops_of_any_language(tasks: list[tuple[int, int]]) -> None:
    def write(p: PhaseAssembler, mark: Callable[..., None]) -> None:
        mark("before", p.begun, p.column("a"), p.running(0), p.running(1))
        with p.loop("vector", p.column("a")) as i:
            mark("head", i.index, i.running)
            with p.loop("vector", p.column("b") - i.index) as j:
                mark("body", i.index, j.index, i.running, j.running)
            mark("tail", i.index, j.running)
        mark("after", p.begun * 10 + p.column("b"))

    def oracle() -> Iterator[tuple[str, tuple[int, ...]]]:
        outer = inner = 0
        for begun, (a, b) in enumerate(tasks):
            yield "before", (begun, a, outer, inner)
            for i in range(a):
                yield "head", (i, outer)
                for j in range(b - i):
                    yield "body", (i, j, outer, inner)
                    inner += 1
                yield "tail", (i, inner)
                outer += 1
            yield "after", (begun * 10 + b,)

    assert trace(marked(write, tasks), "vector", list(range(len(tasks)))) == list(oracle())


@given(st.lists(st.tuples(trips, trips), min_size=1, max_size=4))
def test_loops_in_sequence_count_apart_and_zero_trips_are_skipped(tasks: list[tuple[int, int]]) -> None:
    def write(p: PhaseAssembler, mark: Callable[..., None]) -> None:
        with p.loop("vector", p.column("a")) as i:
            mark("first", i.index, i.running)
        with p.loop("vector", p.column("b")) as j:
            mark("second", j.index, j.running, p.running(0))

    def oracle() -> Iterator[tuple[str, tuple[int, ...]]]:
        first = second = 0
        for a, b in tasks:
            for i in range(a):
                yield "first", (i, first)
                first += 1
            for j in range(b):
                yield "second", (j, second, first)
                second += 1

    assert trace(marked(write, tasks), "vector", list(range(len(tasks)))) == list(oracle())


def test_running_indices_count_the_tasks_of_this_core_in_the_order_it_runs_them() -> None:
    def write(p: PhaseAssembler, mark: Callable[..., None]) -> None:
        with p.loop("vector", p.column("a")) as i:
            mark("x", p.begun, i.running, p.column("a"))

    phase = marked(write, [(1,), (0,), (2,), (3,)])
    assert [values for _, values in trace(phase, "vector", [2, 1, 0])] == [(0, 0, 2), (0, 1, 2), (2, 2, 1)]


def test_a_queue_without_instructions_runs_nothing() -> None:
    assert trace(marked(lambda p, mark: mark("x"), [(1,)]), "load", [0]) == []


@given(st.integers(-50, 50), st.integers(-9, 9), st.integers(-9, 9), st.integers(-20, 20), st.integers(1, 7))
def test_expressions_are_affine_then_clipped_or_cyclic(
    a: int, factor: int, other: int, limit: int, modulo: int
) -> None:
    def write(p: PhaseAssembler, mark: Callable[..., None]) -> None:
        value = p.column("a") * factor + other - p.column("b") * 2
        mark("x", value, value.clip(limit), value.cyclic(modulo), 7 - p.column("a"))

    value = a * factor + other - 2 * 3
    ((_, values),) = trace(marked(write, [(a, 3)]), "vector", [0])
    assert values == (value, min(value, limit), value % modulo, 7 - a)


def read_outside(p: PhaseAssembler, mark: Callable[..., None], place: str) -> None:
    """Write a loop around another one and read an index at a place where it has no value."""
    if place == "before":
        mark("x", Affine(((2 + len(p.columns), 1),)))
    with p.loop("vector", 2) as i:
        with p.loop("vector", Affine(((4 + len(p.columns), 1),)) if place == "trips" else 3) as j:
            mark("x", i.index, j.index)
        if place == "between":
            mark("x", j.index)
    if place == "after":
        mark("x", 90 - i.index * 2)
    if place == "tile":
        p.load(Slot(0, Affine.of(0)), Region(0, {"x": (0, i.index)}))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("before", "queue vector, instruction 0 (VECTOR) reads the index of loop 0 outside that loop"),
        ("trips", "queue vector, instruction 1 (LOOP) reads the index of loop 1 outside"),
        ("between", "queue vector, instruction 4 (VECTOR) reads the index of loop 1 outside"),
        ("after", "queue vector, instruction 5 (VECTOR) reads the index of loop 0 outside"),
        ("tile", "queue load, instruction 0 (LOAD) reads the index of loop 0 outside"),
    ],
)
def test_a_loop_index_outside_its_loop_is_refused(place: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"phase marks: {message}")):
        marked(lambda p, mark: read_outside(p, mark, place), [(1,)])
    marked(lambda p, mark: read_outside(p, mark, "nowhere"), [(1,)])


def test_a_phase_that_no_assembler_wrote_is_refused_when_it_is_read() -> None:
    phase = marked(lambda p, mark: read_outside(p, mark, "nowhere"), [(1,)])
    queue = QUEUES.index("vector")
    streams = list(phase.queues)
    streams[queue] = streams[queue][[0, 1, 3, 2, 4]]  # the inner loop's body behind its end
    with pytest.raises(ValueError, match=r"instruction 3 \(VECTOR\) reads the index of loop 1 outside that loop"):
        trace(replace(phase, queues=tuple(streams)), "vector", [0])


def test_a_closed_expression_takes_no_further_arithmetic() -> None:
    x = Affine(((1, 1),))
    changes: list[Callable[[Affine], Affine]] = [lambda e: e + 1, lambda e: e * 2, lambda e: 1 - e, lambda e: e.clip(2)]
    for closed in (x.clip(3), x.cyclic(3)):
        for change in changes:
            with pytest.raises(ValueError, match="takes no further arithmetic"):
                change(closed)


def test_equal_expressions_are_stored_once() -> None:
    def write(p: PhaseAssembler, mark: Callable[..., None]) -> None:
        mark("x", p.column("a") + 1, 1 + p.column("a"), p.column("a") * 2 - p.column("a") + 1)

    phase = marked(write, [(1,)])
    assert len(np.unique(phase.expressions, axis=0)) == len(phase.expressions) == 3  # a + 1, slot 0, size 1


def test_a_fourth_loop_an_unknown_axis_and_a_wrong_task_table_are_refused() -> None:
    tensors = (Tensor("t", named("row x", {"row": 2, "x": 4}), "bf16", 0),)
    p = PhaseAssembler("p", tensors, ("a",))
    for _ in range(3):
        with p.loop("load", 1):
            pass
    with pytest.raises(ValueError, match="queue load has more than 3 loops"), p.loop("load", 1):
        pass
    with pytest.raises(ValueError, match=r"tensor t has axes \('row', 'x'\), not \['y'\]"):
        p.load(Slot(0, Affine.of(0)), Region(0, {"y": (0, 1)}))
    with pytest.raises(ValueError, match=r"tasks have shape \(1, 2\), columns are \('a',\)"):
        p.finish(np.zeros((1, 2), np.int64), Schedule(np.arange(1), np.array([0, 1])))
    with pytest.raises(ValueError, match=r"column 'aa'.*known: a"):
        p.column("aa")


def attention(**changes: Any) -> Program:
    problem = decode_attention.Problem(8, 2, 64, "bf16", changes.pop("contexts", (7, 100)))
    machine = Machine(load_machine(changes.pop("machine", "npu-hbm3")))
    return decode_attention.compile(problem, decode_attention.Knobs(**changes), machine, changes.pop("seed", 0))


@pytest.fixture(scope="module")
def npu() -> Machine:
    return Machine(load_machine("npu-hbm3"))


def test_equal_inputs_give_equal_hashes_and_every_knob_changes_the_hash(npu: Machine) -> None:
    base = attention()
    assert base.hash == attention().hash
    others = [
        attention(contexts=(8, 100)),
        attention(contexts=(100, 7)),
        attention(page_size=32),
        attention(page_order="contiguous"),
        attention(layout="page kv head token dim"),
        attention(tile=32),
        attention(stages=3),
        attention(split_tokens=32),
        attention(schedule="balanced"),
        attention(schedule="dynamic"),
        attention(machine="h100-sxm"),
    ]
    problem = decode_attention.Problem(8, 2, 64, "bf16", (7, 100))
    others.append(decode_attention.compile(problem, decode_attention.Knobs(), npu, 1))
    others.append(decode_attention.compile(replace(problem, dtype="fp16"), decode_attention.Knobs(), npu, 0))
    others.append(gemm.compile(gemm.Problem(64, 64, 64, "bf16"), gemm.Knobs(), npu, 0))
    assert len({base.hash, *(other.hash for other in others)}) == len(others) + 1


def phases_with_one_number_changed(phase: Phase) -> Iterator[tuple[str, Phase]]:
    """Yield the phase with each number of each array changed, and with parts of its buffers changed."""
    for name in ("tasks", "expressions"):
        array = getattr(phase, name)
        for position in range(array.size):
            new = array.copy()
            new.flat[position] ^= 1
            yield f"{name}[{position}]", replace(phase, **{name: new})
    for name in ("order", "start"):
        new = getattr(phase.schedule, name).copy()
        new[0] += 1
        yield name, replace(phase, schedule=replace(phase.schedule, **{name: new}))
    for field in phase.tiles.dtype.names or ():
        new = phase.tiles.copy()
        new[field][-1] += 1
        yield f"tiles.{field}", replace(phase, tiles=new)
    for number, stream in enumerate(phase.queues):
        for field in stream.dtype.names or ():
            new = stream.copy()
            new[field][-1] += 1
            queues = (*phase.queues[:number], new, *phase.queues[number + 1 :])
            yield f"queue {number}.{field}", replace(phase, queues=queues)
    plain = next(i for i, buffer in enumerate(phase.buffers) if buffer.layout is None)
    for field in ("rows", "columns", "slots", "address", "pitch_bytes"):
        buffer: Buffer = phase.buffers[plain]
        changed = replace(buffer, **{field: getattr(buffer, field) + 1})
        yield f"buffers.{field}", replace(phase, buffers=(*phase.buffers[:plain], changed, *phase.buffers[plain + 1 :]))


def test_the_hash_changes_with_every_number_of_a_program() -> None:
    program = attention(contexts=(20,))
    phase = program.phases[0]
    seen = {program.hash: "unchanged"}
    for what, changed in phases_with_one_number_changed(phase):
        digest = replace(program, phases=(changed,)).hash
        assert digest not in seen, f"{what} hashes like {seen.get(digest)}"
        seen[digest] = what
    for i, tensor in enumerate(program.tensors):
        moved = (*program.tensors[:i], replace(tensor, base_bytes=tensor.base_bytes + 32), *program.tensors[i + 1 :])
        assert replace(program, tensors=moved).hash not in seen
    table = program.tensors[decode_attention.TABLE]
    assert table.values is not None
    swapped = replace(table, contents=table.values[::-1].copy())
    tensors = tuple(swapped if t is table else t for t in program.tensors)
    assert replace(program, tensors=tensors).hash not in seen


@pytest.mark.parametrize("split", [0, 512])
def test_a_program_does_not_grow_with_the_context(split: int) -> None:
    small, large = (attention(contexts=(n, n // 3), split_tokens=split) for n in (1_000, 100_000))
    assert len(small.phases) == len(large.phases)
    for one, other in zip(small.phases, large.phases, strict=True):
        assert [len(stream) for stream in one.queues] == [len(stream) for stream in other.queues]
        assert one.expressions.shape == other.expressions.shape
        assert one.tiles.shape == other.tiles.shape
        assert (one.functions, one.counters, one.columns) == (other.functions, other.counters, other.columns)
        if not split:
            assert one.tasks.shape == other.tasks.shape
            assert one.buffers == other.buffers


def test_a_gemm_does_not_grow_with_its_inner_size(npu: Machine) -> None:
    small, large = (gemm.compile(gemm.Problem(256, 256, k, "bf16"), gemm.Knobs(), npu, 0) for k in (1 << 8, 1 << 16))
    for one, other in zip(small.phases, large.phases, strict=True):
        assert [len(stream) for stream in one.queues] == [len(stream) for stream in other.queues]
        assert one.expressions.shape == other.expressions.shape
        assert one.tasks.shape == other.tasks.shape


def test_unused_fields_of_an_instruction_are_marked() -> None:
    phase = marked(lambda p, mark: mark("x"), [(1,)])
    (row,) = phase.queues[QUEUES.index("vector")]
    assert set(row["wait_counter"].tolist()) == set(row["signal"].tolist()) == {NONE}
    assert row["buffer"].tolist() == [0] + [NONE] * 7


def test_a_tensor_with_a_swizzled_layout_is_refused() -> None:
    swizzled = NamedLayout(("row", "x"), Layout((8, 8), (8, 1)).then(swizzle(3, 0, 3)))
    with pytest.raises(ValueError, match=r"tensor t: layout .*; allowed are strides"):
        Tensor("t", swizzled, "bf16", 0)


def rising(count: int) -> Values:
    return np.arange(count, dtype=np.int32)


def test_contents_that_are_made_when_read_hash_like_those_that_are_given() -> None:
    program = attention(contexts=(20,))
    table = program.tensors[decode_attention.TABLE]
    hashes = set()
    for contents in (rising(2), Deferred(rising, (2,))):
        tensors = tuple(replace(t, contents=contents) if t is table else t for t in program.tensors)
        hashes.add(replace(program, tensors=tensors).hash)
    assert len(hashes) == 1


def test_contents_are_made_once_however_often_a_tensor_is_moved() -> None:
    made = []

    def make(count: int) -> Values:
        made.append(count)
        return rising(count)

    tensor = Tensor("index", named("entry", {"entry": 3}), "int32", 0, contents=Deferred(make, (3,)))
    moved = replace(tensor, base_bytes=64)
    assert made == []
    assert tensor.values is moved.values
    assert made == [3]
    assert Tensor("q", named("x", {"x": 1}), "bf16", 0).values is None
