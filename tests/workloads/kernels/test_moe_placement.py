"""Experts on cores: who runs them, where their weights lie, and what copies of the hot ones cost and bring."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import Program, Tensor
from hwmodel.reference import simulate
from hwmodel.result import Result
from hwmodel.spec import load_machine
from workloads.kernels import moe_gemm, moe_layer
from workloads.kernels.moe_placement import PINNED, PLACEMENTS, WEIGHTS, Homes, homes_of, place_experts
from workloads.routing import Routing, draw, popularity

Array = np.ndarray[Any, Any]


@cache
def npu(cores: int) -> Machine:
    return Machine(load_machine("npu-hbm3").with_overrides({"cores.count": cores}))


@cache
def local(cores: int) -> Machine:
    """Cores with 8 MiB beside each."""
    memory = {"distributed_sram.slices": cores, "distributed_sram.capacity": f"{8 * cores} MiB"}
    return Machine(load_machine("npu-sram-local").with_overrides({"cores.count": cores} | memory))


def skewed(tokens: int, experts: int, topk: int) -> Routing:
    rng = np.random.default_rng(2)
    return draw(tokens, topk, popularity("zipf", experts, 1.0, rng), rng)


ROUTING = skewed(120, 16, 2)
SIZES: dict[str, Any] = {"tokens": 120, "experts": 16, "topk": 2, "dtype": "bf16", "routing": ROUTING}
LAYER = moe_layer.Problem(**SIZES, hidden=128, inter=64, shared=64)
PROBLEM = moe_gemm.Problem(**SIZES, n=64, k=128)
KNOBS = moe_gemm.Knobs(tile_m=16, tile_n=32, tile_k=64, schedule="pinned", placement="cores")


# --- who runs an expert -----------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 6), st.integers(0, 2**31), st.sampled_from(PLACEMENTS))
def test_every_item_runs_once_and_pinned_experts_stay_with_their_owners(
    cores: int, experts: int, copies: int, seed: int, name: str
) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 9, experts)
    expert = np.repeat(np.arange(experts), counts)
    homes = homes_of(name, "interleaved", counts, min(copies, experts * cores), npu(cores))
    order = place_experts(name, expert, np.ones(len(expert), np.int64), homes, cores)
    assert sorted(order.order.tolist()) == list(range(len(expert)))
    if order.dynamic:
        return
    core = np.empty(len(expert), np.int64)
    core[order.order] = np.repeat(np.arange(cores), np.diff(order.start))
    owners = [len(np.unique(core[expert == e])) for e in range(experts)]
    if name in PINNED:
        assert sum(max(n - 1, 0) for n in owners) <= copies
        if name == "pinned" and copies == 0:
            np.testing.assert_array_equal(core, expert % cores)


def test_copies_go_to_the_hottest_expert_and_share_its_tiles() -> None:
    counts = np.array([90, 10, 10, 40])
    expert = np.repeat(np.arange(4), counts // 10)
    costs = np.ones(len(expert), np.int64)

    def loads(name: str, copies: int) -> list[int]:
        homes = homes_of(name, "interleaved", counts, copies, npu(4))
        return np.diff(place_experts(name, expert, costs, homes, 4).start).tolist()

    assert loads("pinned", 0) == [9, 1, 1, 4]
    # the hottest has three copies of 30 tokens; experts 0 0 0 1 2 3 belong to cores 0 1 2 3 0 1
    assert loads("pinned", 2) == [3 + 1, 3 + 4, 3, 1]
    assert max(loads("pinned-balanced", 2)) <= 5


def test_a_balanced_owner_has_no_more_than_the_plain_one() -> None:
    times = {}
    for name in PINNED:
        phase = moe_gemm.compile(PROBLEM, moe_gemm.Knobs(tile_m=4, tile_n=8, schedule=name), npu(3), 0).phases[0]
        rows = phase.tasks[:, phase.columns.index("rows")][phase.schedule.order]
        shares = np.split(rows, phase.schedule.start[1:-1])
        times[name] = max(int(share.sum()) for share in shares)
    assert times["pinned-balanced"] < times["pinned"]


# --- where its weights lie --------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=20),
    st.integers(0, 8),
    st.sampled_from(PLACEMENTS),
    st.sampled_from(tuple(WEIGHTS)),
)
def test_every_copy_has_a_seat_of_its_own_in_the_place_of_its_core(
    counts: list[int], copies: int, name: str, weights: str
) -> None:
    homes = homes_of(name, weights, np.array(counts), copies, local(8))
    expert = np.repeat(np.arange(len(counts)), homes.times)
    assert homes.times.min() >= 1
    assert len(expert) <= len(counts) + (copies if name in PINNED else 0)
    if weights == "interleaved":
        assert homes.seats == len(counts)
        assert homes.seat.tolist() == expert.tolist()
        return
    assert len(np.unique(homes.seat)) == len(expert)
    assert homes.seat.min() >= 0
    assert homes.seat.max() < homes.seats
    assert homes.seats % 8 == 0
    if weights == "cores":
        assert (homes.seat % 8).tolist() == homes.owner.tolist()
        assert homes.seats == 8 * np.bincount(homes.owner).max()


def places(tensor: Tensor, machine: Machine) -> Array:
    """The stack of the address map, [seat, element], of every element of weights."""
    sizes = [tensor.layout.size(axis) for axis in tensor.layout.axes]
    grid = dict(zip(tensor.layout.axes, np.meshgrid(*map(np.arange, sizes), indexing="ij", sparse=True), strict=True))
    where = tensor.base_bytes + np.broadcast_to(tensor.layout.offsets(**grid), sizes) * tensor.element_bytes
    return np.asarray(machine.address_map.decode(where).stack).reshape(sizes[0], -1)


@pytest.mark.parametrize("form", ["16-bit", "fp8"])
@pytest.mark.parametrize("schedule", PINNED)
def test_every_byte_of_an_expert_lies_beside_the_core_that_runs_it(schedule: str, form: str) -> None:
    machine = local(8)
    knobs = moe_layer.Knobs(tile_m=16, tile_n=32, schedule=schedule, placement="cores", copies=5)
    program = moe_layer.compile(replace(LAYER, format=form), knobs, machine, 0)
    homes = homes_of(schedule, "cores", ROUTING.counts, 5, machine)
    checked = 0
    for tensor in program.tensors:
        if tensor.name in moe_layer.PLACED:
            assert tensor.layout.size("expert") == homes.seats
            assert (places(tensor, machine)[homes.seat] == homes.owner[:, None]).all()
            checked += 1
    assert checked == (2 if form == "16-bit" else 4)
    for phase in program.phases:
        if phase.name in ("gemm1", "gemm2"):
            core = np.repeat(np.arange(8), np.diff(phase.schedule.start))
            seat = phase.tasks[phase.schedule.order, phase.columns.index("expert")]
            assert (seat % 8 == core).all()


def test_copies_of_experts_are_dealt_to_the_stacks_of_a_machine_that_has_them() -> None:
    machine = npu(16)
    program = moe_gemm.compile(PROBLEM, replace(KNOBS, placement="stacks", copies=6), machine, 0)
    weights = next(t for t in program.tensors if t.name == "b")
    assert weights.layout.size("expert") == 24  # 16 and 6, made a multiple of the stacks
    assert (places(weights, machine) == np.arange(24)[:, None] % 4).all()
    assert simulate(program, machine).bound.total_fs > 0


def computed(program: Program, homes: Homes, cores: int) -> Array:
    """The result for weights that hold the same in every copy of an expert."""
    memory = Memory(program)
    rng = np.random.default_rng(5)
    memory.write("a", rng.standard_normal([program.tensors[0].layout.size(axis) for axis in ("row", "k")]))
    every = rng.standard_normal((PROBLEM.experts, PROBLEM.n, PROBLEM.k))
    seats = np.full((homes.seats, PROBLEM.n, PROBLEM.k), np.nan)
    seats[homes.seat] = np.repeat(every, homes.times, axis=0)
    memory.write("b", seats)
    run(program, memory, cores)
    return memory.read("c")


@pytest.mark.parametrize("placement", ["stacks", "cores"])
@pytest.mark.parametrize("schedule", ["static", *PINNED])
def test_a_placement_changes_no_value(schedule: str, placement: str) -> None:
    machine, found = local(8), {}
    for where in ("interleaved", placement):
        knobs = replace(KNOBS, schedule=schedule, placement=where, copies=7)
        homes = homes_of(schedule, where, ROUTING.counts, 7, machine)
        found[where] = computed(moe_gemm.compile(PROBLEM, knobs, machine, 0), homes, 8)
    np.testing.assert_array_equal(found[placement], found["interleaved"])


# --- what it costs and brings -----------------------------------------------------------------------------------------


def simulated(knobs: moe_gemm.Knobs, machine: Machine, problem: moe_gemm.Problem = PROBLEM) -> Result:
    return simulate(moe_gemm.compile(problem, knobs, machine, 0), machine)


@pytest.mark.parametrize("schedule", PINNED)
@pytest.mark.parametrize("copies", [0, 5])
def test_beside_their_owners_no_weights_cross_the_network(schedule: str, copies: int) -> None:
    crossing, rest = {}, 0
    for placement in ("interleaved", "cores"):
        result = simulated(replace(KNOBS, schedule=schedule, placement=placement, copies=copies), local(8))
        crossing[placement] = result.levels["network"].asked - result.levels["network"].hit
        moved = {t.name: t.load_fetched_bytes + t.store_written_bytes for t in result.traffic}
        rest = moved["a"] + moved["c"]
        assert result.levels["distributed sram"].asked == sum(moved.values()) - result.levels["network"].merged
    assert crossing["cores"] <= rest
    assert crossing["interleaved"] > rest


def test_a_layer_whose_experts_are_beside_their_owners_moves_activations_only() -> None:
    machine = local(8)
    knobs = moe_layer.Knobs(tile_m=16, tile_n=32, schedule="pinned", placement="cores")
    result = simulate(moe_layer.compile(LAYER, knobs, machine, 0), machine)
    network = result.levels["network"]
    weights = sum(t.load_fetched_bytes for t in result.traffic if t.name in moe_layer.PLACED)
    assert weights > 0
    assert network.hit >= weights


@pytest.mark.slow
def test_copies_beside_cores_even_out_a_skewed_load_and_cost_a_seat_each() -> None:
    machine, times, sizes, busiest = local(8), [], [], []
    problem = replace(PROBLEM, n=128, k=512, tokens=800, routing=skewed(800, 16, 2))
    for copies in (0, 8, 16):
        program = moe_gemm.compile(problem, replace(KNOBS, copies=copies), machine, 0)
        phase, weights = program.phases[0], next(t for t in program.tensors if t.name == "b")
        rows = phase.tasks[phase.schedule.order, phase.columns.index("rows")]
        busiest.append(max(int(share.sum()) for share in np.split(rows, phase.schedule.start[1:-1])))
        sizes.append(weights.size_bytes)
        times.append(simulate(program, machine).makespan_fs)
    even = int(problem.routing.counts.sum() if problem.routing else 0) * 4 // 8  # four tiles across
    assert busiest[0] > 1.5 * even
    assert busiest[2] < 1.2 * even
    assert times[2] < times[1] < times[0]
    expert = 128 * 512 * 2
    assert sizes == [(16 + copies) * expert for copies in (0, 8, 16)]


@pytest.mark.slow
def test_copies_in_stacks_even_out_what_the_stacks_are_asked_for() -> None:
    machine, uneven, sizes = npu(16), [], []
    problem = replace(PROBLEM, n=128, k=512, tokens=800, routing=skewed(800, 16, 2))
    for copies in (0, 16):
        program = moe_gemm.compile(problem, replace(KNOBS, placement="stacks", copies=copies), machine, 0)
        weights = next(t for t in program.tensors if t.name == "b")
        stack = places(weights, machine)[:, 0]
        phase = program.phases[0]
        by_seat = np.bincount(phase.tasks[:, phase.columns.index("expert")], minlength=len(stack))
        asked = np.bincount(stack, weights=by_seat)  # tiles of weights, each as long
        uneven.append(float(asked.max() / asked.mean()))
        sizes.append(weights.layout.size("expert"))
        bursts = np.asarray(simulate(program, machine).banks["bursts"]).reshape(4, -1).sum(axis=1)
        assert np.argmax(bursts) == np.argmax(asked)
    assert uneven[0] > 1.3
    assert uneven[1] < 1.1
    assert sizes == [16, 32]


def test_an_expert_too_many_for_a_core_is_refused_with_the_bytes_that_are_missing() -> None:
    problem = replace(PROBLEM, n=1024, k=1024)  # 2 MiB each: two beside each of eight cores
    moe_gemm.compile(problem, replace(KNOBS, copies=8), local(8), 0)
    with pytest.raises(ValueError, match=r"^placement: cores: tensor .* B more than the .* of npu-sram-local where"):
        moe_gemm.compile(problem, replace(KNOBS, copies=24), local(8), 0)
    with pytest.raises(ValueError, match=r"^placement: cores: tensor b: core: npu-hbm3 has no memory that is a core's"):
        moe_gemm.compile(PROBLEM, KNOBS, npu(8), 0)
    with pytest.raises(ValueError, match=r"^placement: unknown 'core'; known: cores"):
        moe_gemm.compile(PROBLEM, replace(KNOBS, placement="core"), local(8), 0)


def test_placements_of_one_meaning_have_one_key_and_others_another() -> None:
    keys = {moe_gemm.canonical(PROBLEM, replace(KNOBS, placement=placement)) for placement in WEIGHTS}
    assert len(keys) == len(WEIGHTS)


def test_copies_end_at_one_of_every_expert_for_every_core() -> None:
    counts = np.full(3, 1000)
    homes = homes_of("pinned", "interleaved", counts, 12, npu(4))
    assert homes.times.tolist() == [5, 5, 5]
    with pytest.raises(ValueError, match="copies: 13; allowed: up to 12, one of 3 experts for each of 4 cores"):
        homes_of("pinned", "interleaved", counts, 13, npu(4))
    assert homes_of("static", "interleaved", counts, 13, npu(4)).times.tolist() == [1, 1, 1]  # knows no owners
