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
from workloads.kernels.linear_decode import Knobs, Problem, canonical, compile, shape
from workloads.model import load_model

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
H100 = Machine(load_machine("h100-sxm").with_overrides({"cores.count": CORES}))
LAYOUTS = ("sequence head key value", "head sequence value key", "sequence head value//4 key value%4")
UNIT_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11}


def filled(program: Program) -> Memory:
    """Keys of about unit length, decays and strengths in 0 to 1, as the models make them."""
    memory = Memory(program)
    rng = np.random.default_rng(11)
    for tensor in program.tensors[:6]:
        size = [tensor.layout.size(axis) for axis in tensor.layout.axes]
        values = rng.standard_normal(size)
        if tensor.name == "k":
            values /= np.linalg.norm(values, axis=-1, keepdims=True)
        if tensor.name in ("log decay", "strength"):
            values = rng.uniform(size=size) * (-1 if tensor.name == "log decay" else 1)
        memory.write(tensor.name, values)
    return memory


def check_values(problem: Problem, knobs: Knobs) -> None:
    """fp32 within 1e-5 of the largest number, and one rounding of the outputs to their dtype."""
    program = compile(problem, knobs, NPU, 0)
    memory = filled(program)
    q, k, v, decay, strength, state = (memory.read(tensor.name).copy() for tensor in program.tensors[:6])
    run(program, memory, CORES)
    out, new = memory.read("out").astype(float), memory.read("state")
    for s in range(problem.sequences):
        for h in range(problem.heads):
            key = h // problem.group
            row = (
                q[s, key : key + 1],
                k[s, key : key + 1],
                v[s, h : h + 1],
                decay[s, h : h + 1],
                strength[s, h : h + 1],
            )
            expected, after = recurrent(*row, state[s, h], problem.key_dim**-0.5)
            near = 1e-5 * np.abs(after).max()
            assert np.abs(new[s, h] - after).max() <= near
            u = UNIT_ROUNDOFF[problem.dtype]
            limit = u * np.abs(expected[0]) + near * np.abs(q[s, key].astype(float)).sum() + 2.0**-25
            assert (np.abs(out[s, h] - expected[0]) <= limit).all()


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs]:
    key_heads = draw(st.integers(1, 5))
    problem = Problem(
        draw(st.integers(1, 4)),
        key_heads * draw(st.integers(1, 3)),
        key_heads,
        draw(st.sampled_from([1, 8, 24])),
        draw(st.sampled_from([4, 16, 20])),
        draw(st.booleans()),
        draw(st.sampled_from(["bf16", "fp16"])),
    )
    knobs = Knobs(
        draw(st.sampled_from(LAYOUTS)),
        draw(st.integers(1, 6)),
        draw(st.sampled_from([1, 3, 8, 128])),
        draw(st.integers(1, 3)),
        draw(st.sampled_from(["static", "balanced", "dynamic"])),
    )
    return problem, knobs


@settings(max_examples=15)
@given(cases())
@example((Problem(3, 6, 3, 8, 20, True, "bf16"), Knobs(head_tile=2, tile_v=7, stages=1)))
def test_a_step_is_one_token_of_the_recurrence(case: tuple[Problem, Knobs]) -> None:
    check_values(*case)


@pytest.mark.nightly
@settings(max_examples=500)
@given(cases())
def test_a_step_is_one_token_of_the_recurrence_for_very_many(case: tuple[Problem, Knobs]) -> None:
    check_values(*case)


@settings(max_examples=6)
@given(cases(), st.integers(1, 3), st.sampled_from(LAYOUTS))
def test_stages_heads_schedule_layout_and_machine_change_no_bit(
    case: tuple[Problem, Knobs], stages: int, layout: str
) -> None:
    problem, knobs = case
    outputs = set()
    for other, machine in (
        (knobs, NPU),
        (knobs, H100),
        (replace(knobs, stages=stages, head_tile=1, schedule="dynamic"), NPU),
        (replace(knobs, layout=layout), NPU),
    ):
        program = compile(problem, other, machine, 0)
        memory = filled(program)
        run(program, memory, CORES)
        outputs.add(memory.read("out").tobytes() + memory.read("state").tobytes())
    assert len(outputs) == 1


def test_traffic_is_every_state_there_and_back_and_a_token() -> None:
    problem = Problem(3, 8, 4, 64, 32, True, "bf16")
    result = simulate(compile(problem, Knobs(head_tile=3), NPU, 0), NPU)
    moved = {t.name: (t.load_useful_bytes, t.store_useful_bytes) for t in result.traffic}
    states = 3 * 8 * 64 * 32 * 4
    assert moved == {
        "q": (3 * 4 * 64 * 2, 0),
        "k": (3 * 4 * 64 * 2, 0),
        "v": (3 * 8 * 32 * 2, 0),
        "log decay": (3 * 8 * 64 * 4, 0),
        "strength": (3 * 8 * 4, 0),
        "state": (states, states),
        "out": (0, 3 * 8 * 32 * 2),
    }
    assert 0 < result.bound.total_fs <= result.makespan_fs


def test_canonical_keys_are_equal_exactly_for_knobs_of_one_meaning() -> None:
    problem = Problem(3, 8, 4, 64, 32, False, "bf16")
    key = canonical(problem, Knobs())
    assert canonical(problem, Knobs(tile_v=32)) == key
    assert canonical(problem, Knobs(layout="sequence head key//8 key%8 value")) == key
    different = [Knobs(tile_v=31), Knobs(head_tile=2), Knobs(stages=1), Knobs(schedule="dynamic"), Knobs(LAYOUTS[1])]
    assert len({key, *(canonical(problem, knobs) for knobs in different)}) == len(different) + 1


def test_problems_and_knobs_out_of_range_are_named() -> None:
    assert shape(None, None, {"sequences": 2, "heads": 32}) == Problem(2, 32, 32, 128, 128, False, "bf16")
    sizes = {"sequences": 2, "heads": 32, "key_heads": 16, "per_channel": 1}
    problem = shape(load_model("llama-3.1-8b"), None, sizes)
    assert (problem.group, problem.decays) == (2, 128)
    with pytest.raises(ValueError, match=r"^options: size key_heads is 5; allowed: a divisor of heads, 32"):
        shape(None, None, sizes | {"key_heads": 5})
    with pytest.raises(ValueError, match=r"^options: size per_channel is 2; allowed: 0, 1"):
        shape(None, None, sizes | {"per_channel": 2})
    with pytest.raises(ValueError, match=r"^layout: .* axis value is missing"):
        compile(problem, Knobs("sequence head key"), NPU, 0)
    with pytest.raises(ValueError, match=r"phase step needs .* sized by head_tile=16, tile_v=128, stages=2"):
        compile(problem, Knobs(head_tile=16), NPU, 0)
