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
from workloads.kernels.kda_prefill import Knobs, canonical, compile, shape
from workloads.kernels.linear_prefill import Problem

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
H100 = Machine(load_machine("h100-sxm").with_overrides({"cores.count": CORES}))
LAYOUTS = ("token head dim", "head token dim", "head dim token", "head dim//4 token dim%4")
UNIT_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11}


def filled(program: Program) -> Memory:
    """Keys of about unit length, strengths in 0 to 1; most decays are weak, some leave nothing of a channel at once."""
    memory = Memory(program)
    rng = np.random.default_rng(11)
    for tensor in program.tensors[:6]:
        size = [tensor.layout.size(axis) for axis in tensor.layout.axes]
        values = rng.standard_normal(size)
        if tensor.name == "k":
            values /= np.linalg.norm(values, axis=-1, keepdims=True)
        if tensor.name in ("log decay", "strength"):
            values = rng.uniform(size=size)
        if tensor.name == "log decay":
            values = np.where(rng.uniform(size=size) < 0.02, -100.0 * values, -(values**4))
        memory.write(tensor.name, values)
    return memory


def check_values(problem: Problem, knobs: Knobs) -> None:
    """fp32 within 1e-5 of the largest number, and one rounding of the outputs to their dtype.

    Beside, a decay between two tokens is the exponential of a difference of two sums, each with the roundings of its
    terms: an error of a factor of some units in the last place of the largest sum in a chunk.
    """
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
            gates = decay[h, part], strength[h, part]
            operands = (q[part, key], k[part, key], v[part, h], *gates, state[s, h])
            expected, after = recurrent(*operands, problem.key_dim**-0.5)
            largest = max(np.abs(a.astype(float)).max() for a in (after, state[s, h], v[part, h]))
            chunks = np.split(decay[h, part], range(knobs.chunk, tokens, knobs.chunk))
            near = 1e-5 + 2.0**-22 * max(np.abs(chunk.sum(axis=0)).max() for chunk in chunks)
            assert np.abs(new[s, h] - after).max() <= near * largest
            near = near * largest * np.abs(q[part, key].astype(float)).sum(axis=1, keepdims=True)
            assert (np.abs(out[part, h] - expected) <= u * np.abs(expected) + near + 2.0**-25).all()


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs]:
    heads, block = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 8, 16]))
    problem = Problem(
        tuple(draw(st.lists(st.integers(1, 50), min_size=1, max_size=3))),
        heads,
        heads,
        draw(st.sampled_from([4, 8, 24])),
        draw(st.sampled_from([4, 16, 20])),
        draw(st.sampled_from(["bf16", "fp16"])),
    )
    knobs = Knobs(
        draw(st.sampled_from(LAYOUTS)),
        block * draw(st.sampled_from([1, 2, 5])),
        draw(st.sampled_from([3, 8, 128])),
        draw(st.integers(2, 4)),
        draw(st.sampled_from(["static", "balanced", "dynamic"])),
        draw(st.sampled_from(["row-major", "row-major", "swizzled"])),
        block,
    )
    return problem, knobs


@settings(max_examples=15)
@given(cases())
@example((Problem((37, 1, 16), 2, 2, 8, 20, "bf16"), Knobs(chunk=12, tile_v=7, block=4)))
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


def test_one_decay_for_all_channels_is_found_out() -> None:
    """The comparison can fail: with the mean of a token's decays the state would be another one."""
    problem, knobs = Problem((8,), 1, 1, 8, 16, "bf16"), Knobs(chunk=4, block=2)
    program = compile(problem, knobs, NPU, 0)
    memory = filled(program)
    q, k, v, decay, strength, state = (memory.read(tensor.name).copy() for tensor in program.tensors[:6])
    run(program, memory, CORES)
    mean = decay[0].mean(axis=1, keepdims=True)
    _, other = recurrent(q[:, 0], k[:, 0], v[:, 0], mean, strength[0], state[0, 0], 1)
    assert np.abs(memory.read("state")[0, 0] - other).max() > 1e-2


def test_traffic_is_every_token_once_per_value_head_and_every_state_there_and_back() -> None:
    problem = Problem((100, 30), 4, 4, 64, 32, "bf16")
    result = simulate(compile(problem, Knobs(), NPU, 0), NPU)
    moved = {t.name: (t.load_useful_bytes, t.store_useful_bytes) for t in result.traffic}
    states = 2 * 4 * 64 * 32 * 4
    assert moved == {
        "q": (130 * 4 * 64 * 2, 0),
        "k": (130 * 4 * 64 * 2, 0),
        "v": (130 * 4 * 32 * 2, 0),
        "log decay": (130 * 4 * 64 * 4, 0),
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
    problem = Problem((100, 30), 4, 4, 64, 32, "bf16")
    key = canonical(problem, Knobs())
    assert canonical(problem, Knobs(tile_v=32)) == canonical(problem, Knobs(layout="token head dim//8 dim%8")) == key
    assert canonical(problem, Knobs(chunk=128, block=100)) == canonical(problem, Knobs(chunk=101, block=101))
    different = [Knobs(tile_v=31), Knobs(chunk=32), Knobs(stages=3), Knobs(schedule="dynamic"), Knobs(LAYOUTS[1])]
    different += [Knobs(sram_layout="row-major"), Knobs(block=32)]
    assert len({key, *(canonical(problem, knobs) for knobs in different)}) == len(different) + 1


def test_problems_and_knobs_out_of_range_are_named() -> None:
    batch = Batch((5, 6), "test")
    assert shape(None, batch, {"heads": 32}) == Problem((5, 6), 32, 32, 128, 128, "bf16")
    with pytest.raises(ValueError, match=r"^batch: kernel kda-prefill needs one"):
        shape(None, None, {"heads": 32})
    problem = Problem((1000,), 1, 1, 128, 128, "bf16")
    with pytest.raises(ValueError, match=r"^stages: 1; allowed: an integer from 2 to"):
        compile(problem, Knobs(stages=1), NPU, 0)
    with pytest.raises(ValueError, match=r"^block: 24; allowed: a divisor of chunk \(64\)"):
        compile(problem, Knobs(block=24), NPU, 0)
    with pytest.raises(ValueError, match=r"phase chunks needs .* sized by chunk=512, block=16, tile_v=128, stages=2"):
        compile(problem, Knobs(chunk=512, sram_layout="row-major"), NPU, 0)
