"""Placements and page tables under a kernel: the same values, and traffic where the placement says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from kernels_ref.attention import decode_attention as exact
from workloads.kernels.decode_attention import KV, TABLE, Knobs, Problem, compile
from workloads.paging import page_table
from workloads.placement import Interleaved, Partitioned, Pinned, Placement, place_as
from workloads.prefix import Prefixes

CORES = 4
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
PROBLEM = Problem(16, 4, 128, "bf16", (100, 37, 64, 20))
KNOBS = Knobs("page kv head token dim", 16, "contiguous", 32)


def relaid(program: Program, kv: Placement) -> Program:
    placements = [kv if number == KV else Interleaved() for number in range(len(program.tensors))]
    return replace(program, tensors=place_as(program.tensors, placements, NPU))


def values(program: Program) -> np.ndarray[Any, Any]:
    memory = Memory(program)
    rng = np.random.default_rng(3)
    for name, tensor in (("q", program.tensors[0]), ("kv", program.tensors[KV])):
        memory.write(name, rng.standard_normal([tensor.layout.size(axis) for axis in tensor.layout.axes]))
    run(program, memory, CORES)
    return memory.read("out")


@pytest.mark.parametrize("kv", [Pinned(stack=(2,)), Pinned(stack=(0, 3)), Partitioned("head"), Interleaved(1 << 15)])
def test_a_placement_changes_no_value(kv: Placement) -> None:
    program = compile(PROBLEM, KNOBS, NPU, 0)
    assert np.array_equal(values(relaid(program, kv)), values(program))


def test_a_cache_pinned_to_one_stack_is_read_there_and_takes_longer() -> None:
    whole = Machine(load_machine("npu-hbm3"))
    problem = replace(PROBLEM, contexts=(256,) * 8)  # 4 MiB: 5 us at the peak of one stack
    program = compile(problem, KNOBS, whole, 0)
    spread, pinned = (simulate(p, whole) for p in (program, relaid(program, Pinned(stack=(2,)))))
    by_stack = [np.asarray(r.banks["bursts"]).reshape(4, -1).sum(axis=1) for r in (spread, pinned)]
    cache_bursts = sum(problem.contexts) * 2 * 4 * 128 * 2 // 32
    assert by_stack[1][2] >= cache_bursts
    assert by_stack[1].sum() - by_stack[1][2] < 0.1 * cache_bursts  # the queries and the results
    assert by_stack[0].max() < 0.5 * cache_bursts
    assert pinned.time_us > max(5, 1.5 * spread.time_us)
    assert pinned.bound.total_fs / 1e9 <= pinned.time_us


def test_sequences_that_share_pages_read_them_all_the_same() -> None:
    prefixes = Prefixes(32, ((1, 2), (1,), (1, 2), (1,)), (64, 32, 64, 16))
    table = page_table("shuffled", PROBLEM.contexts, 16, np.random.default_rng(5), prefixes=prefixes)
    assert table.shared_pages.tolist() == [4, 2, 4, 1]
    program = compile(PROBLEM, KNOBS, NPU, 0)
    tensors = list(program.tensors)
    tensors[TABLE] = replace(tensors[TABLE], contents=table.pages)
    program = replace(program, tensors=tuple(tensors))
    memory = Memory(program)
    rng = np.random.default_rng(3)
    pool = rng.standard_normal([program.tensors[KV].layout.size(axis) for axis in program.tensors[KV].layout.axes])
    memory.write("kv", pool)
    q = rng.standard_normal((4, 16, 128))
    memory.write("q", q)
    run(program, memory, CORES)
    stored = memory.read("kv").astype(float)
    keys, heads = [], []
    for sequence, context in enumerate(PROBLEM.contexts):
        tokens = stored[table.row(sequence)].transpose(1, 0, 3, 2, 4).reshape(2, -1, 4, 128)
        keys.append(tokens[0, :context])
        heads.append(tokens[1, :context])
    expected = exact(memory.read("q").astype(float), keys, heads, 128**-0.5)
    assert np.abs(memory.read("out").astype(float) - expected).max() < 0.03  # bf16 weights and results of size 3
    result = simulate(program, NPU)
    assert result.bound.total_fs / 1e9 <= result.time_us


LOCAL = Machine(
    load_machine("npu-sram-local").with_overrides(
        {"cores.count": 8, "distributed_sram.slices": 8, "distributed_sram.capacity": "64 MiB"}
    )
)
BESIDE = replace(KNOBS, placement="cores", schedule="beside", page_order="shuffled")


def written(problem: Problem, knobs: Knobs) -> np.ndarray[Any, Any]:
    """The results for caches whose tokens hold the same values, wherever their pages are."""
    program = compile(problem, knobs, LOCAL, 0)
    memory = Memory(program)
    table = program.tensors[TABLE].values
    assert table is not None
    pool = np.zeros([program.tensors[KV].layout.size(axis) for axis in program.tensors[KV].layout.axes])
    rng = np.random.default_rng(4)
    pool[table] = rng.standard_normal((len(table), *pool.shape[1:]))
    memory.write("kv", pool)
    memory.write("q", rng.standard_normal((len(problem.contexts), problem.heads_q, problem.head_dim)))
    run(program, memory, LOCAL.spec.cores.count)
    return memory.read("out")


@pytest.mark.parametrize("split_tokens", [0, 32])
@pytest.mark.parametrize("heads_kv", [1, 2, 4, 8, 16])
def test_attention_beside_its_cache_computes_the_same_values(heads_kv: int, split_tokens: int) -> None:
    problem = replace(PROBLEM, heads_kv=heads_kv)
    beside = replace(BESIDE, split_tokens=split_tokens)
    away = replace(beside, placement="interleaved", schedule="static")
    assert np.array_equal(written(problem, beside), written(problem, away))


@pytest.mark.parametrize(
    ("heads_kv", "order"), [(1, "shuffled"), (4, "first-fit"), (8, "contiguous"), (16, "shuffled")]
)
def test_of_attention_beside_its_cache_only_queries_and_results_cross_the_network(heads_kv: int, order: str) -> None:
    problem = Problem(16, heads_kv, 128, "bf16", (100, 37, 64, 20, 90, 128, 16, 70, 33, 64))
    for placement in ("cores", "interleaved"):
        program = compile(problem, replace(BESIDE, page_order=order, placement=placement), LOCAL, 0)
        result = simulate(program, LOCAL)
        moved = {t.name: t.load_fetched_bytes + t.store_written_bytes for t in result.traffic}
        rest = sum(size for name, size in moved.items() if name != "kv")
        crossing = result.levels["network"].asked - result.levels["network"].hit
        assert crossing <= rest if placement == "cores" else crossing > moved["kv"] // 2


def test_attention_beside_its_cache_takes_less_time_and_half_the_energy() -> None:
    machine = Machine(load_machine("npu-sram-local"))
    problem = Problem(32, 8, 128, "bf16", (512,) * 8)
    times, energies = {}, {}
    for dealt, placement in (("static", "interleaved"), ("beside", "cores")):
        result = simulate(compile(problem, Knobs(schedule=dealt, placement=placement), machine, 0), machine)
        times[placement] = result.makespan_fs - machine.spec.launch.latency
        assert result.energy is not None
        energies[placement] = result.energy.total_fj
        assert result.bound.total_fs <= result.makespan_fs
    assert times["cores"] < 0.75 * times["interleaved"]
    assert energies["cores"] < energies["interleaved"] / 2


def test_heads_that_do_not_share_the_cores_are_refused() -> None:
    for knobs in (replace(BESIDE, schedule="static"), replace(BESIDE, placement="interleaved")):
        with pytest.raises(ValueError, match="placement: 3 heads of keys and values on 8 cores; allowed: a multiple"):
            compile(Problem(6, 3, 128, "bf16", (40,)), knobs, LOCAL, 0)
    with pytest.raises(ValueError, match="placement: cores: tensor kv: core: npu-hbm3 has no memory that is a core's"):
        compile(PROBLEM, BESIDE, NPU, 0)
