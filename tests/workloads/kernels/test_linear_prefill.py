from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from kernels_ref.linear_attention import recurrent
from workloads.batch import Batch
from workloads.kernels.linear_prefill import Knobs, Problem, canonical, compile, shape

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
H100 = Machine(load_machine("h100-sxm").with_overrides({"cores.count": CORES}))
LAYOUTS = ("token head dim", "head token dim", "head dim token", "head dim//4 token dim%4")
UNIT_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11}


def filled(program: Program) -> Memory:
    """Keys of about unit length, decays and strengths in 0 to 1, as the models make them; most decays are small."""
    memory = Memory(program)
    rng = np.random.default_rng(11)
    for tensor in program.tensors[:6]:
        size = [tensor.layout.size(axis) for axis in tensor.layout.axes]
        values = rng.standard_normal(size)
        if tensor.name == "k":
            values /= np.linalg.norm(values, axis=-1, keepdims=True)
        if tensor.name in ("log decay", "strength"):
            values = -(rng.uniform(size=size) ** 4) if tensor.name == "log decay" else rng.uniform(size=size)
        memory.write(tensor.name, values)
    return memory


def check_values(problem: Problem, knobs: Knobs) -> None:
    """fp32 within 1e-5 of the largest number, and one rounding of the outputs to their dtype."""
    program = compile(problem, knobs, NPU, 0)
    memory = filled(program)
    q, k, v, decay, strength, state = (memory.read(tensor.name).copy() for tensor in program.tensors[:6])
    run(program, memory, CORES)
    out, new = memory.read("out").astype(float), memory.read("state")
    first, u = 0, UNIT_ROUNDOFF[problem.dtype]
    for s, tokens in enumerate(problem.tokens):
        part = slice(first, first + tokens)
        first += tokens
        for h in range(problem.heads):
            key = h // problem.group
            gates = decay[h, part, None], strength[h, part]
            operands = (q[part, key], k[part, key], v[part, h], *gates, state[s, h])
            expected, after = recurrent(*operands, problem.key_dim**-0.5)
            largest = max(np.abs(a.astype(float)).max() for a in (after, state[s, h], v[part, h]))
            assert np.abs(new[s, h] - after).max() <= 1e-5 * largest
            near = 1e-5 * largest * np.abs(q[part, key].astype(float)).sum(axis=1, keepdims=True)
            assert (np.abs(out[part, h] - expected) <= u * np.abs(expected) + near + 2.0**-25).all()


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs]:
    key_heads = draw(st.integers(1, 2))
    problem = Problem(
        tuple(draw(st.lists(st.integers(1, 50), min_size=1, max_size=3))),
        key_heads * draw(st.integers(1, 2)),
        key_heads,
        draw(st.sampled_from([4, 8, 24])),
        draw(st.sampled_from([4, 16, 20])),
        draw(st.sampled_from(["bf16", "fp16"])),
    )
    knobs = Knobs(
        draw(st.sampled_from(LAYOUTS)),
        draw(st.sampled_from([1, 5, 16, 64])),
        draw(st.sampled_from([3, 8, 128])),
        draw(st.integers(2, 4)),
        draw(st.sampled_from(["static", "balanced", "dynamic"])),
        draw(st.sampled_from(["row-major", "row-major", "swizzled"])),
    )
    return problem, knobs


@settings(max_examples=12)
@given(cases())
@example((Problem((37, 1, 16), 4, 2, 8, 20, "bf16"), Knobs(chunk=8, tile_v=7)))
def test_chunks_give_what_the_recurrence_gives_token_by_token(case: tuple[Problem, Knobs]) -> None:
    check_values(*case)


@pytest.mark.nightly
@settings(max_examples=250)
@given(cases())
def test_chunks_give_what_the_recurrence_gives_for_very_many(case: tuple[Problem, Knobs]) -> None:
    check_values(*case)


@settings(max_examples=5)
@given(cases(), st.integers(2, 4), st.sampled_from(LAYOUTS))
def test_stages_schedule_layout_and_machine_change_no_bit(
    case: tuple[Problem, Knobs], stages: int, layout: str
) -> None:
    problem, knobs = case
    outputs = set()
    for other, machine in (
        (knobs, NPU),
        (knobs, H100),
        (replace(knobs, stages=stages, schedule="dynamic"), NPU),
        (replace(knobs, layout=layout), NPU),
    ):
        program = compile(problem, other, machine, 0)
        memory = filled(program)
        run(program, memory, CORES)
        outputs.add(memory.read("out").tobytes() + memory.read("state").tobytes())
    assert len(outputs) == 1


def test_a_state_that_is_not_carried_over_is_found_out() -> None:
    """The comparison can fail: chunks that each began with the first state would end in another one."""
    problem, knobs = Problem((8,), 1, 1, 8, 16, "bf16"), Knobs(chunk=4)
    program = compile(problem, knobs, NPU, 0)
    memory = filled(program)
    q, k, v, decay, strength, state = (memory.read(tensor.name).copy() for tensor in program.tensors[:6])
    run(program, memory, CORES)
    last = slice(4, 8)
    _, forgetful = recurrent(
        q[last, 0], k[last, 0], v[last, 0], decay[0, last, None], strength[0, last], state[0, 0], 1
    )
    assert np.abs(memory.read("state")[0, 0] - forgetful).max() > 1e-3


def test_traffic_is_every_token_once_per_value_head_and_every_state_there_and_back() -> None:
    problem = Problem((100, 30), 4, 2, 64, 32, "bf16")
    result = simulate(compile(problem, Knobs(), NPU, 0), NPU)
    moved = {t.name: (t.load_useful_bytes, t.store_useful_bytes) for t in result.traffic}
    states = 2 * 4 * 64 * 32 * 4
    assert moved == {
        "q": (130 * 4 * 64 * 2, 0),  # a key head is read for both value heads that share it
        "k": (130 * 4 * 64 * 2, 0),
        "v": (130 * 4 * 32 * 2, 0),
        "log decay": (130 * 4 * 4, 0),
        "strength": (130 * 4 * 4, 0),
        "state": (states, states),
        "out": (0, 130 * 4 * 32 * 2),
    }
    assert 0 < result.bound.total_fs <= result.makespan_fs


def test_a_program_does_not_grow_with_the_context() -> None:
    short, long = (compile(Problem((n,), 1, 1, 64, 64, "bf16"), Knobs(), NPU, 0).phases[0] for n in (100, 100_000))
    assert [len(queue) for queue in short.queues] == [len(queue) for queue in long.queues]
    assert len(short.tasks) == len(long.tasks) == 1


def test_canonical_keys_are_equal_exactly_for_knobs_of_one_meaning() -> None:
    problem = Problem((100, 30), 4, 2, 64, 32, "bf16")
    key = canonical(problem, Knobs())
    assert canonical(problem, Knobs(tile_v=32)) == canonical(problem, Knobs(layout="token head dim//8 dim%8")) == key
    assert canonical(problem, Knobs(chunk=100)) == canonical(problem, Knobs(chunk=101))
    different = [Knobs(tile_v=31), Knobs(chunk=32), Knobs(stages=3), Knobs(schedule="dynamic"), Knobs(LAYOUTS[1])]
    different += [Knobs(sram_layout="row-major")]
    assert len({key, *(canonical(problem, knobs) for knobs in different)}) == len(different) + 1


def test_problems_and_knobs_out_of_range_are_named() -> None:
    batch = Batch((5, 6), "test")
    assert shape(None, batch, {"heads": 32, "key_heads": 16}) == Problem((5, 6), 32, 16, 128, 128, "bf16")
    with pytest.raises(ValueError, match=r"^batch: kernel linear-prefill needs one"):
        shape(None, None, {"heads": 32})
    with pytest.raises(ValueError, match=r"^options: size key_heads is 5; allowed: a divisor of heads, 32"):
        shape(None, batch, {"heads": 32, "key_heads": 5})
    problem = Problem((1000,), 1, 1, 128, 128, "bf16")
    with pytest.raises(ValueError, match=r"^stages: 1; allowed: an integer from 2 to"):
        compile(problem, Knobs(stages=1), NPU, 0)
    with pytest.raises(ValueError, match=r"phase chunks needs .* sized by chunk=512, tile_v=128, stages=2"):
        compile(problem, Knobs(chunk=512, sram_layout="row-major"), NPU, 0)
