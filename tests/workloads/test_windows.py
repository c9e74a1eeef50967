from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.engine import simulate
from hwmodel.machine import Machine
from hwmodel.program import QUEUES, Schedule
from hwmodel.spec import load_machine
from workloads import windows
from workloads.kernels import KERNELS, decode_attention, elementwise, gemm, prefill_attention
from workloads.traffic import QUEUES_OF_MEMORY, phase_bytes, queue_bytes, shortened, tiles_of
from workloads.window_lengths import MEDIUM, SHORT, Axis, Lengths
from workloads.windows import WINDOWS, PhasePlan, plan

LATE = WINDOWS[4]
MACHINE = Machine(load_machine("h100-sxm").with_overrides({"cores.count": 8}))
CORES = MACHINE.spec.cores.count


def compiled(kernel: str, problem: Any, knobs: Any) -> Any:
    return KERNELS[kernel].compile(problem, knobs, MACHINE, 0)


def by_windows(program: Any, whole_bytes: int) -> tuple[float, int]:
    """Return the time by windows, and how many there were."""
    found = plan(program, MACHINE, Lengths(whole_bytes))
    times = {w: [phase.fs for phase in simulate(found.window(w), MACHINE).phases] for w in found.windows}
    return found.time(times), len(times)


def whole(program: Any) -> int:
    return sum(phase.fs for phase in simulate(program, MACHINE).phases)


GEMM = compiled("gemm", gemm.Problem(1024, 640, 4096, "bf16"), gemm.Knobs(order="grouped"))
SPLIT = compiled("gemm", gemm.Problem(128, 128, 16384, "bf16"), gemm.Knobs(split_k=8))
DECODE = compiled(
    "decode-attention",
    decode_attention.Problem(16, 4, 128, "bf16", (4096,) * 10),
    decode_attention.Knobs(page_size=64, page_order="contiguous"),
)
CAUSAL = compiled(
    "prefill-attention",
    prefill_attention.Problem(8, 2, 128, "bf16", (4096,)),
    prefill_attention.Knobs(schedule="balanced"),
)


SHORT_CAUSAL = compiled(
    "prefill-attention",
    prefill_attention.Problem(8, 8, 128, "bf16", (256,) * 24),
    prefill_attention.Knobs(schedule="balanced"),
)
WIDE = prefill_attention.Knobs(tile_q=128, tile_kv=16, schedule="balanced", packing="head")
WIDE_DIAGONAL = compiled("prefill-attention", prefill_attention.Problem(4, 4, 128, "bf16", (4096,)), WIDE)
STORING = compiled("elementwise", elementwise.Problem(1 << 17, 2048, "fp32", "relu"), elementwise.Knobs(tile_rows=2))


def test_a_short_program_is_one_window_that_is_itself() -> None:
    found = plan(GEMM, MACHINE, Lengths(1 << 40))
    assert found.windows == [WINDOWS[0]]
    assert found.window(WINDOWS[0]).hash == GEMM.hash
    assert by_windows(GEMM, 1 << 40) == (whole(GEMM), 1)


@pytest.mark.parametrize(
    ("program", "count", "within"),
    [
        (GEMM, 8, 0.06),  # four of them find a and b in the cache
        (SPLIT, 2, 0.06),
        (DECODE, 4, 0.06),
        (CAUSAL, 3, 0.06),
        (SHORT_CAUSAL, 2, 0.1),  # two windows cannot tell items from tiles
        (WIDE_DIAGONAL, 3, 0.06),
    ],
    ids=["gemm", "split", "decode", "causal", "short causal", "wide diagonal"],
)
def test_windows_tell_the_time_of_the_whole_within_a_few_percent(program: Any, count: int, within: float) -> None:
    time, used = by_windows(program, 1 << 20)
    assert used == count
    assert time == pytest.approx(whole(program), rel=within)


@pytest.mark.slow
def test_windows_of_a_step_tell_the_time_where_few_cores_move_little_in_the_shortest_ones() -> None:
    machine = Machine(load_machine("npu-hbm3"))
    problem = decode_attention.Problem(32, 8, 128, "bf16", (8192,) * 16)
    kernel = KERNELS["decode-attention"]
    program = kernel.compile(problem, kernel.Knobs(), machine, 0)
    exact = sum(phase.fs for phase in simulate(program, machine).phases)

    def error(lengths: Lengths) -> float:
        found = plan(program, machine, lengths)
        times = {w: [phase.fs for phase in simulate(found.window(w), machine).phases] for w in found.windows}
        return abs(found.time(times) / exact - 1)

    assert error(MEDIUM) < 0.05 < error(SHORT)


def test_a_window_keeps_the_remainder_of_the_last_wave() -> None:
    found = plan(GEMM, MACHINE, Lengths(1 << 20))  # 40 items on 8 cores, 5 each
    assert found.phases[0].waves == Axis(5, 1, 2)
    assert [len(found.window(which).phases[0].tasks) for which in WINDOWS[:4]] == [8, 16, 8, 16]
    uneven = plan(replace(GEMM, phases=(replaced(GEMM.phases[0], 35),)), MACHINE, Lengths(1 << 20))
    assert [len(uneven.window(which).phases[0].tasks) for which in WINDOWS[:4]] == [3, 11, 3, 11]


def replaced(phase: Any, items: int) -> Any:
    """Return a phase of the first items, dealt round."""
    shares = [np.arange(core, items, CORES) for core in range(CORES)]
    start = np.cumsum([0, *map(len, shares)]).astype(np.int64)
    schedule = replace(phase.schedule, order=np.concatenate(shares).astype(np.int64), start=start)
    return replace(phase, tasks=phase.tasks[:items], schedule=schedule)


def test_masked_tiles_stay_and_tiles_in_full_view_are_left_out() -> None:
    found = plan(CAUSAL, MACHINE, Lengths(1 << 20))
    phase = found.window(WINDOWS[0]).phases[0]
    columns = {name: phase.tasks[:, phase.columns.index(name)] for name in ("tiles", "edge", "full")}
    assert columns["tiles"].max() == found.phases[0].tiles.short
    assert (columns["edge"] + columns["full"] <= columns["tiles"]).all()
    assert found.phases[0].ragged


@settings(deadline=None)
@given(
    st.tuples(*[st.floats(1, 100)] * 4),
    st.tuples(st.integers(4, 40), st.integers(30, 400)),
)
def test_what_is_affine_in_waves_and_tiles_comes_out_exactly(
    law: tuple[float, float, float, float], sizes: tuple[int, int]
) -> None:
    start, by_wave, by_tile, both = law
    waves, tiles = Axis(sizes[0], 1, 2), Axis(sizes[1], 4, 8)
    found = PhasePlan(waves, tiles, False, np.zeros(1), np.zeros(1))

    def time(w: int, t: int) -> float:
        return start + by_wave * w + by_tile * t + both * w * t

    times = {(a, b, late): time(waves.kept(a), tiles.kept(b)) for a, b, late in found.windows}
    assert found.time(times) == pytest.approx(time(*sizes))
    mixed = replace(found, early=0.25)
    times = {(a, b, late): (1 + 2 * late) * time(waves.kept(a), tiles.kept(b)) for a, b, late in mixed.windows}
    assert len(times) == 2 * len(found.windows)
    assert mixed.time(times) == pytest.approx(2.5 * time(*sizes))


@pytest.mark.parametrize("program", [CAUSAL, SHORT_CAUSAL, WIDE_DIAGONAL], ids=["long", "short", "wide diagonal"])
def test_of_items_of_unequal_length_the_busiest_core_counts(program: Any) -> None:
    start, per_item, per_tile = 1000.0, 70.0, 30.0
    found = plan(program, MACHINE, Lengths(1 << 18))
    (phase,) = found.phases
    assert phase.ragged
    assert len(found.windows) > 1
    if phase.tiles.is_whole:
        per_item = 0.0  # two windows cannot tell items from tiles

    def law(window: Any) -> float:
        counts, sums = windows._loads(window.phases[0], CORES)
        return float(start + (per_item * counts + per_tile * sums).max())

    assert found.time({which: [law(found.window(which))] for which in found.windows}) == pytest.approx(law(program))


@pytest.mark.parametrize("dynamic", [False, True])
def test_items_may_come_the_longest_last(dynamic: bool) -> None:
    phase = CAUSAL.phases[0]
    share = np.argsort(tiles_of(phase), kind="stable")
    shares = [share[core::CORES] for core in range(CORES)]
    start = np.cumsum([0, *map(len, shares)])
    schedule = Schedule(share, np.zeros(0, np.int64)) if dynamic else Schedule(np.concatenate(shares), start)
    rising = replace(CAUSAL, phases=(replace(phase, schedule=schedule),))
    time, used = by_windows(rising, 1 << 20)
    assert used == 3
    assert time == pytest.approx(whole(rising), rel=0.06)


def test_a_phase_whose_windows_cannot_tell_items_from_tiles_is_run_whole() -> None:
    phase = WIDE_DIAGONAL.phases[0]
    tiles = tiles_of(phase)
    longest = phase.tasks[[tiles.argmax()]]
    tasks = np.concatenate([longest, np.repeat(shortened(phase, longest, 1), 200, axis=0)])
    order = np.arange(len(tasks), dtype=np.int64)
    start = np.array([0, 1] + [len(tasks)] * (CORES - 1))  # one core has a long item only, another all the short ones
    uneven = replace(phase, tasks=tasks, schedule=Schedule(order, start))
    assert plan(replace(WIDE_DIAGONAL, phases=(uneven,)), MACHINE, Lengths(1 << 10)).windows == [WINDOWS[0]]


def test_masked_tiles_are_left_out_where_there_are_more_of_them_than_a_window_has() -> None:
    found = plan(WIDE_DIAGONAL, MACHINE, Lengths(1 << 18))
    phase = found.window(WINDOWS[0]).phases[0]
    tiles, edge, full = (phase.tasks[:, phase.columns.index(name)] for name in ("tiles", "edge", "full"))
    assert tiles.max() == found.phases[0].tiles.short
    assert (edge >= 0).all()
    assert (edge + full <= tiles).all()


def test_a_late_window_of_a_stream_that_overflows_the_cache_writes_back_what_it_stores() -> None:
    found = plan(STORING, MACHINE)
    assert MACHINE.spec.shared_cache is not None
    assert found.phases[0].early == MACHINE.spec.shared_cache.distinct_bytes / (2 << 30)
    window = found.window(LATE)
    assert window.earlier_stores == 0.5
    cache = simulate(window, MACHINE).levels["shared cache"]
    assert cache.stored == queue_bytes(window, window.phases[0], QUEUES.index("store")).sum()
    assert cache.stored < cache.dirty / 10  # far less than what an empty cache would keep back
    assert cache.written_back == pytest.approx(cache.stored, rel=0.2)


def test_bytes_that_are_read_again_fill_no_cache() -> None:
    assert MACHINE.spec.shared_cache is not None
    problem = gemm.Problem(5888, 2048, 64, "bf16")  # with its result nine tenths of the cache
    program = compiled("gemm", problem, gemm.Knobs(tile_m=64, tile_n=64, order="grouped"))
    phase = program.phases[0]
    moved = phase_bytes(program, phase)
    exact = [queue_bytes(program, phase, QUEUES.index(name)).sum() for name in QUEUES_OF_MEMORY]
    assert moved.sum(axis=1) == pytest.approx(exact, rel=0.02)
    assert moved.sum() > MACHINE.spec.shared_cache.distinct_bytes > sum(tensor.size_bytes for tensor in program.tensors)
    found = plan(program, MACHINE, Lengths(1 << 20))
    assert LATE in found.windows
    assert found.window(LATE).earlier_stores is None  # not of a cache full of stores
    assert found.phases[0].stored > windows.STORES * found.phases[0].moved


def test_where_the_cache_is_full_of_older_stores_late_windows_are_not_warm() -> None:
    assert plan(GEMM, MACHINE, Lengths(1 << 20)).is_warm
    assert not plan(replace(GEMM, earlier_stores=0.5), MACHINE, Lengths(1 << 20)).is_warm


def test_a_phase_that_the_cache_has_room_for_has_no_late_windows() -> None:
    small = compiled("elementwise", elementwise.Problem(1024, 2048, "fp32", "relu"), elementwise.Knobs(tile_rows=2))
    found = plan(small, MACHINE, Lengths(1 << 20))
    assert len(found.windows) == 2
    assert found.window(WINDOWS[0]).earlier_stores is None


def test_only_tensors_that_a_window_loads_lie_in_the_cache_and_none_where_a_stream_has_passed() -> None:
    tensors = tuple(replace(tensor, resident="cache") for tensor in GEMM.tensors)
    window = plan(replace(GEMM, tensors=tensors), MACHINE, Lengths(1 << 20)).window(WINDOWS[0])
    assert [tensor.resident for tensor in window.tensors] == ["cache", "cache", "hbm"]
    stream = plan(replace(STORING, tensors=tuple(replace(t, resident="cache") for t in STORING.tensors)), MACHINE)
    assert {tensor.resident for tensor in stream.window(LATE).tensors} == {"hbm"}


def test_a_phase_whose_windows_would_be_most_of_it_is_run_whole() -> None:
    short = compiled("gemm", gemm.Problem(1024, 640, 512, "bf16"), gemm.Knobs(order="grouped"))
    assert plan(short, MACHINE, Lengths(0)).windows == [WINDOWS[0]]


def test_phases_that_are_whole_are_in_the_first_window_only() -> None:
    found = plan(SPLIT, MACHINE, Lengths(1 << 20))
    assert [found.phases_of(which) for which in WINDOWS[:4]] == [[0, 1], [], [0], []]


def test_late_windows_find_in_a_large_cache_what_the_first_items_have_touched() -> None:
    """With cold windows alone 40 % slower: each of their items waits for what only the first ones wait for."""
    machine = Machine(load_machine("mi300x"))
    problem = gemm.Problem(4096, 4096, 1024, "bf16")
    knobs = gemm.Knobs(tile_m=64, tile_n=64, order="grouped")
    program = KERNELS["gemm"].compile(problem, knobs, machine, 0)
    found = plan(program, machine)
    assert found.is_warm
    assert found.phases[0].early < windows.COLD
    assert {tensor.resident for tensor in found.window(LATE).tensors if tensor.name in "ab"} == {"cache"}
    times = {w: [phase.fs for phase in simulate(found.window(w), machine).phases] for w in found.windows}
    exact = sum(phase.fs for phase in simulate(program, machine).phases)
    assert found.time(times) == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("heads", [4, 8], ids=["all fits the cache", "keys and values fit it"])
def test_late_windows_of_items_of_unequal_length_find_keys_and_values_in_the_cache(heads: int) -> None:
    """With cold windows alone a quarter to a third slower."""
    problem = prefill_attention.Problem(heads, heads, 128, "bf16", (4096,))
    program = compiled("prefill-attention", problem, WIDE)
    program = replace(program, tensors=tuple(replace(tensor, resident="hbm") for tensor in program.tensors))
    found = plan(program, MACHINE, Lengths(1 << 20))
    names = [tensor.name for tensor in found.window(LATE).tensors if tensor.resident == "cache"]
    assert names == ["k", "v"]
    assert by_windows(program, 1 << 20)[0] == pytest.approx(whole(program), rel=0.04)


def test_what_lies_in_the_cache_from_the_start_needs_no_late_windows() -> None:
    machine = Machine(load_machine("mi300x"))
    problem = gemm.Problem(4096, 4096, 1024, "bf16")
    knobs = gemm.Knobs(tile_m=64, tile_n=64, order="grouped")
    program = KERNELS["gemm"].compile(problem, knobs, machine, 0)
    there = replace(program, tensors=tuple(replace(tensor, resident="cache") for tensor in program.tensors))
    found = plan(there, machine)
    assert not found.is_warm
    hashes = [found.window(which).hash for which in found.windows]
    assert len(set(hashes)) == len(hashes)


def test_late_windows_hold_no_more_than_the_cache_has_room_for() -> None:
    machine = Machine(load_machine("mi300x"))
    kernel = KERNELS["moe"]
    sizes = {"tokens": 2048, "experts": 2, "topk": 1, "inter": 5120, "hidden": 4096}
    problem = kernel.shape(None, None, sizes)
    program = kernel.compile(
        problem, kernel.Knobs(tile_m=64, tile_n=64, tile_k=64, stages=2, tile_columns=512), machine, 0
    )
    found = plan(program, machine)
    assert machine.spec.shared_cache is not None
    for which in found.windows:
        held = sum(t.size_bytes for t in found.window(which).tensors if t.resident == "cache")
        assert held <= machine.spec.shared_cache.distinct_bytes
