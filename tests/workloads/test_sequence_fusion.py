from __future__ import annotations

from dataclasses import replace

import numpy as np

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.spec import load_machine
from workloads.kernels import convert_layout, gemm
from workloads.sequence import Call, Step, plan
from workloads.sequence_fusion import fuse_steps
from workloads.sequence_result import simulate_call

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
ROWS, COLUMNS = 40, 24
TURNED = ("row column", "column row", "column//4 row column%4", "row column")


def turn(number: int, count: int = 1, **knobs: int) -> Step:
    """Turn value number into the next one, from one layout of TURNED into the next."""
    problem = convert_layout.Problem(ROWS, COLUMNS, "bf16")
    tiles = {"tile_rows": 16, "tile_columns": 8} | knobs
    chosen = convert_layout.Knobs(layout_in=TURNED[number], layout_out=TURNED[number + 1], **tiles)
    values = {"source": f"v{number}", "target": f"v{number + 1}"}
    return Step(f"turn {number}", "convert-layout", problem, chosen, count, values)


def product(name: str, a: str, c: str) -> Step:
    problem = gemm.Problem(ROWS, 32, COLUMNS, "bf16")
    return Step(name, "gemm", problem, gemm.Knobs(tile_m=16, tile_n=16), 1, {"a": a, "c": c})


def results(call: Call, first: str, last: str) -> bytes:
    program = call.program()
    memory, rng = Memory(program), np.random.default_rng(2)
    for name in (first, next((t.name for t in program.tensors if t.name.endswith(".b")), "")):
        if name:
            shape = next([t.layout.size(x) for x in t.layout.axes] for t in program.tensors if t.name == name)
            memory.write(name, rng.integers(-3, 4, shape))
    run(program, memory, CORES)
    return memory.read(last).tobytes()


def test_steps_in_a_row_become_one_with_the_same_results() -> None:
    call = plan([turn(0, 5), turn(1, 5), turn(2, 5)], NPU)
    found = fuse_steps(call, NPU)
    (step,) = found.call.steps
    assert (step.name, step.count) == ("turn 0 + turn 1 + turn 2", 5)
    assert step.values == ("v0", "v3")
    assert results(found.call, f"{step.name}.source", f"{step.name}.target") == results(
        call, "turn 0.source", "turn 2.target"
    )
    size = ROWS * COLUMNS * 2
    assert found.notes == (
        f"turn 0 + turn 1: v1 is handed over, saves {2 * size} B and 1 us",
        f"turn 0 + turn 1 + turn 2: v2 is handed over, saves {2 * size} B and 1 us",
    )
    assert found.saved_bytes == 5 * 4 * size
    assert found.saved_launch_fs == 10 * NPU.spec.launch.latency


def test_what_fusion_says_it_saves_a_run_saves() -> None:
    call = plan([turn(0), turn(1)], NPU)
    found = fuse_steps(call, NPU)
    apart, together = simulate_call(call, NPU), simulate_call(found.call, NPU)
    assert apart.launch_fs - together.launch_fs == found.saved_launch_fs
    assert together.total_fs < apart.total_fs - found.saved_launch_fs
    traffic = [
        sum(t.load_useful_bytes + t.store_useful_bytes for line in result.lines for t in line.result.traffic)
        for result in (apart, together)
    ]
    assert traffic[0] - traffic[1] == found.saved_bytes


def test_steps_that_cut_their_value_differently_stay_apart_and_the_note_says_why() -> None:
    call = plan([turn(0), product("p", "v1", "z")], NPU)
    found = fuse_steps(call, NPU)
    assert [step.name for step in found.call.steps] == ["turn 0", "v1 to p", "p"]
    assert found.notes == (
        "turn 0 + v1 to p: v1 goes through memory: "
        "phases convert layout and convert layout deal different tasks to the cores",
        "v1 to p + p: v1 for p.a goes through memory: "
        "phases convert layout and multiply deal different tasks to the cores",
    )
    assert found.saved_bytes == 0


def test_a_value_that_others_use_is_stored() -> None:
    both = [turn(0), turn(1), replace(turn(1), name="again", values={"source": "v1", "target": "w"})]
    assert fuse_steps(plan(both, NPU), NPU).notes == ()
    assert len(fuse_steps(plan([turn(0), turn(1)], NPU, kept=("v1",)), NPU, ("v1",)).call.steps) == 2
    assert fuse_steps(plan([turn(0, 2), turn(1)], NPU), NPU).notes == ()


def test_bytes_that_two_values_have_in_turn_do_not_stand_in_the_way() -> None:
    """v0 -> v1 -> v2 -> v3 with v3 stored where v1 was: each pair fuses all the same."""
    call = plan([turn(0), turn(1), turn(2)], NPU)
    address = {p.request.name: p.address for p in call.memory.placed}
    assert address["v3"] == address["v1"]
    assert len(fuse_steps(call, NPU).call.steps) == 1
