from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodel.assembler import PhaseAssembler, Region, Slot, block
from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import Program, Schedule, Tensor
from hwmodel.reference import simulate
from kernels_ref.attention import decode_attention as attention_values
from layouts import named
from workloads.kernels import decode_attention as template

PROBLEM = template.Problem(4, 2, 16, "bf16", (23, 9))
CORES = 3


def filled(program: Program) -> Memory:
    memory = Memory(program)
    rng = np.random.default_rng(5)
    for tensor in program.tensors:
        if tensor.name in ("q", "kv", "t0"):
            shape = [tensor.layout.size(axis) for axis in tensor.layout.axes]
            memory.write(tensor.name, rng.standard_normal(shape))
    return memory


def attention(
    make_machine: Callable[..., Machine], cores: int = CORES, contexts: tuple[int, ...] = (23, 9), **knobs: Any
) -> Program:
    machine = make_machine("npu-hbm3", {"cores.count": cores})
    problem = replace(PROBLEM, contexts=contexts)
    return template.compile(problem, template.Knobs(page_size=4, tile=8, **knobs), machine, 0)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(1, 200), tile=st.integers(1, 64), slots=st.integers(1, 3))
def test_a_copy_through_the_scratchpad_moves_every_element(
    length: int, tile: int, slots: int, make_program: Any, placed: Any
) -> None:
    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 1, tile, "bf16", slots)))
        loaded, free = p.counter("loaded", "memory"), p.counter("free", "buffer")
        for queue, tensor in (("load", 0), ("store", 1)):
            with p.loop(queue, -(-length // tile)) as i:
                here = Region(tensor, {"x": (i.index * tile, (length - i.index * tile).clip(tile))})
                if queue == "load":
                    p.load(Slot(buffer, i.running), here, [(free, i.running - slots + 1)], [loaded])
                else:
                    p.store(Slot(buffer, i.running), here, [(loaded, i.running + 1)], [free])

    program = make_program(write, elements=(length, length))
    memory = filled(program)
    run(program, memory, 16)
    np.testing.assert_array_equal(memory.read("t1"), memory.read("t0"))
    assert np.count_nonzero(memory.read("t1")) > 0.9 * length


def test_every_wait_for_data_that_asks_for_one_more_deadlocks_both_executors(
    make_machine: Any, shift_wait: Any, list_waits: Any
) -> None:
    program = attention(make_machine, cores=4, stages=1)  # one task per core, nothing loaded ahead
    machine = make_machine("npu-hbm3", {"cores.count": 4})
    tried = 0
    for queue, position, which, cause in list_waits(program):
        if cause == "buffer":
            continue
        tried += 1
        wrong = shift_wait(program, queue, position, which, 1)
        with pytest.raises(RuntimeError, match=r"^phase attend deadlocks: .* waits for .* >= \d+, which is \d+"):
            run(wrong, filled(wrong), 4)
        with pytest.raises(RuntimeError, match="phase attend of decode-attention deadlocks"):
            simulate(wrong, machine)
    assert tried >= 9


def test_a_deadlock_names_the_queue_and_the_counter(make_program: Any, placed: Any) -> None:
    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 1, 4, "bf16", 1)))
        loaded = p.counter("tile loaded", "memory")
        p.load(Slot(buffer, p.begun), Region(0, {"x": (0, 4)}), signal=[loaded])
        p.store(Slot(buffer, p.begun), Region(0, {"x": (4, 4)}), wait=[(loaded, 2)])

    program = make_program(write, elements=(8,))
    with pytest.raises(RuntimeError, match="phase only deadlocks: store waits for tile loaded >= 2, which is 1"):
        run(program, filled(program), 16)


@pytest.mark.parametrize(
    ("contexts", "stages", "needed"),
    [((23, 9), 1, {"k free", "v free"}), ((8, 8), 4, {"q free"})],  # three tiles in one block; four tasks of a tile
)
def test_a_load_that_does_not_wait_for_its_buffer_spoils_the_values(
    contexts: tuple[int, ...], stages: int, needed: set[str], make_machine: Any, shift_wait: Any, list_waits: Any
) -> None:
    program = attention(make_machine, cores=1, contexts=contexts, stages=stages)
    good = filled(program)
    run(program, good, 1)
    spoilt = set()
    phase = program.phases[0]
    for queue, position, which, cause in list_waits(program):
        if cause == "buffer" and queue == 0:
            wrong = shift_wait(program, queue, position, which, -1)
            bad = filled(wrong)
            run(wrong, bad, 1)
            if not np.array_equal(bad.read("out"), good.read("out"), equal_nan=True):
                spoilt.add(phase.counters[phase.queues[queue][position]["wait_counter"][which]].name)
    assert spoilt == needed


def test_loads_and_stores_leave_every_other_byte_alone(make_machine: Any) -> None:
    program = attention(make_machine, split_tokens=8)
    memory = filled(program)
    before = {name: memory.read(name).copy() for name in ("q", "kv", "page table")}
    run(program, memory, CORES)
    for name, values in before.items():
        np.testing.assert_array_equal(memory.read(name), values)


def test_the_values_do_not_depend_on_the_number_of_cores_that_share_a_queue(make_machine: Any) -> None:
    program = attention(make_machine, schedule="dynamic")
    results = []
    for cores in (1, 2, 7):
        memory = filled(program)
        run(program, memory, cores)
        results.append(memory.read("out").tobytes())
    assert len(set(results)) == 1


def test_one_key_gives_its_value_back(make_machine: Any) -> None:
    problem = template.Problem(4, 2, 16, "bf16", (1,))
    machine = make_machine("npu-hbm3", {"cores.count": CORES})
    program = template.compile(problem, template.Knobs(page_size=4), machine, 0)
    memory = filled(program)
    run(program, memory, CORES)
    (page,) = program.tensors[template.TABLE].values.tolist()  # type: ignore[union-attr]
    values = memory.read("kv")[page, 1, :, 0, :]  # axes page, kv, head, token, dim
    expected = np.repeat(values, 2, axis=0)  # the softmax over one token is one
    np.testing.assert_array_equal(memory.read("out")[0], expected)


def test_the_reference_values_see_a_swapped_page(make_machine: Any) -> None:
    """The oracle of the kernel tests must be able to fail: two exchanged pages change what it says."""
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal(shape) for shape in ((1, 4, 16), (8, 2, 16), (8, 2, 16)))
    swapped = np.concatenate([k[4:], k[:4]])
    assert not np.allclose(attention_values(q, [k], [v], 0.25), attention_values(q, [swapped], [v], 0.25), atol=0.1)


def test_a_gather_by_tokens_moves_the_rows_that_its_indices_name() -> None:
    rows, dim = np.array([4, 0, 3, 3], np.int32), 8
    tensors = (
        Tensor("x", named("token dim", {"token": 5, "dim": dim}), "fp32", 0),
        Tensor("rows", named("entry", {"entry": 4}), "int32", 512, "hbm", rows),
        Tensor("y", named("token dim", {"token": 3, "dim": dim}), "fp32", 1024),
    )
    p = PhaseAssembler("gather", tensors, ("c",))
    (buffer,) = p.add_buffers([replace(block("b", 3, dim, "fp32"), address=0)])
    loaded = p.counter("loaded", "memory")
    slot = Slot(buffer, p.begun)
    p.load(slot, Region(0, {"token": (1, 3)}, 1, 0, "token", "token"), signal=[loaded])
    p.store(slot, Region(2, {}), wait=[(loaded, 1)])
    phase = p.finish(np.zeros((1, 1), np.int64), Schedule(np.arange(1), np.array([0, 1])))
    program = Program("gather", tensors, (phase,))
    memory = Memory(program)
    values = np.arange(5 * dim, dtype=np.float32).reshape(5, dim)
    memory.write("x", values)
    run(program, memory, 1)
    np.testing.assert_array_equal(memory.read("y"), values[rows[1:]])
