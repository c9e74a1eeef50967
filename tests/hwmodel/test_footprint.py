from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel import engine, footprint
from hwmodel.bounds import lower_bound
from hwmodel.footprint import _disjoint_elements, _in_memory, _keeps_apart, _may_share
from hwmodel.machine import Machine
from hwmodel.program import Program, Tensor
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from layouts import Layout, NamedLayout
from workloads.kernels import compressed_attention as compressed
from workloads.kernels import decode_attention as attention
from workloads.kernels import gemm, sparse_gqa
from workloads.kernels import sparse_attention as sparse
from workloads.kernels.latent import Heads
from workloads.paging import page_table
from workloads.prefix import Prefixes

ONE_PARTITION: dict[str, object] = {"shared_cache.partitions": 1}
TINY_CACHE = ONE_PARTITION | {"shared_cache.capacity": "160 KiB", "shared_cache.outstanding_misses": 40}
MULTICAST: dict[str, object] = {"noc.multicast_window": "100 ns", "noc.bisection": "500 GB/s"}
MACHINES: dict[str, tuple[str, dict[str, object]]] = {
    "large cache": ("h100-sxm", {}),
    "tiny cache": ("h100-sxm", TINY_CACHE),
    "cache of large sectors": ("h100-sxm", {"shared_cache.sector": "128 B", "shared_cache.capacity": "320 KiB"}),
    "cache of lines across tensors": (
        "h100-sxm",
        {"shared_cache.line": "96 B", "shared_cache.ways": 3, "shared_cache.capacity": "2304000 B"},
    ),
    "tiny cache, slow memory": ("h100-sxm", TINY_CACHE | {"hbm.pin_rate": "1 Gb/s"}),
    "multicast": ("npu-hbm3", MULTICAST),
    "multicast and cache": ("h100-sxm", MULTICAST | {"shared_cache.capacity": "1280 KiB"}),
    "on-chip memory": ("npu-sram", {}),
    "slow on-chip memory": ("npu-sram", {"distributed_sram.bandwidth": "100 GB/s", "noc.multicast_window": "0 s"}),
}


def machine_of(name: str) -> Machine:
    shipped, changes = MACHINES[name]
    return Machine(load_machine(shipped).with_overrides(changes))


def product(machine: Machine, **knobs: Any) -> Any:
    return gemm.compile(gemm.Problem(500, 700, 300, "bf16"), gemm.Knobs(**knobs), machine, 0)


def decode(machine: Machine, **knobs: Any) -> Any:
    problem = attention.Problem(8, 2, 64, "bf16", (300, 37, 190, 64))
    return attention.compile(problem, attention.Knobs(**knobs), machine, 0)


def shared_decode(
    machine: Machine, shared: int = 9, pages: int = 12, sequences: int = 4, heads: int = 2, dim: int = 64
) -> Program:
    """Sequences whose first `shared` pages are the same, and whose last is not full."""
    problem = attention.Problem(4 * heads, heads, dim, "bf16", (pages * 16 - 7,) * sequences)
    own = [range(pages * (1 + sequence) + shared, pages * (2 + sequence)) for sequence in range(sequences)]
    prefixes = Prefixes(16, tuple((*range(shared), *blocks) for blocks in own), problem.contexts)
    table = page_table("shuffled", problem.contexts, 16, np.random.default_rng(2), prefixes=prefixes)
    program = attention.compile(problem, attention.Knobs(tile=24), machine, 0)
    tensors = [replace(t, contents=table.pages) if t.name == "page table" else t for t in program.tensors]
    return replace(program, tensors=tuple(tensors))


def sparse_decode(machine: Machine) -> Program:
    problem = sparse.Problem(Heads(16, 64, 32, 64, 0.1, "bf16"), 100, 3, (300, 37, 190))
    return sparse.compile(problem, sparse.Knobs(tile=16, stages=2), machine, 0)


def sparse_grouped_decode(machine: Machine) -> Program:
    problem = sparse_gqa.Problem(8, 2, 64, 50, 3, "bf16", (300, 37, 190))
    return sparse_gqa.compile(problem, sparse_gqa.Knobs(tile=16), machine, 0)


def compressed_decode(machine: Machine) -> Program:
    heads = compressed.heads_of(16, 128, 32, "bf16")
    problem = compressed.Problem(heads, 24, 4, 20, 3, (300, 37, 190))
    return compressed.compile(problem, compressed.Knobs(tile=16, stages=2), machine, 0)


KERNELS = {
    "gemm": lambda machine: product(machine, tile_m=64, tile_n=64),
    "split gemm": lambda machine: product(machine, tile_m=64, tile_n=64, split_k=3),
    "attention": lambda machine: decode(machine),
    "attention to a shared prefix": lambda machine: shared_decode(machine),
    "attention to single tokens": lambda machine: sparse_decode(machine),
    "attention to single tokens of heads": lambda machine: sparse_grouped_decode(machine),
    "attention to a window and entries": lambda machine: compressed_decode(machine),
    "split attention": lambda machine: decode(machine, split_tokens=48, page_order="shuffled"),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", MACHINES)
def test_the_bound_holds_and_every_byte_is_accounted_for_whatever_stands_before_memory(name: str, kernel: str) -> None:
    machine = machine_of(name)
    result = simulate(KERNELS[kernel](machine), machine)  # asserts it, and follows the bytes from level to level
    assert 0 < result.bound.total_fs <= result.makespan_fs


def test_a_tiny_cache_moves_more_bytes_and_takes_longer_than_a_large_one() -> None:
    results = {}
    for name in ("tiny cache", "large cache"):
        machine = machine_of(name)
        results[name] = simulate(KERNELS["gemm"](machine), machine)
    tiny, large = results["tiny cache"], results["large cache"]
    assert large.hbm_read_bytes == 2 * 300 * (500 + 700)  # each operand once: rows of whole bursts
    assert large.hbm_write_bytes == 0  # the product stays in the cache
    assert tiny.hbm_read_bytes > 1.5 * large.hbm_read_bytes
    assert tiny.hbm_write_bytes > 0
    assert tiny.makespan_fs > large.makespan_fs


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if not kernel.startswith("split")])
def test_the_bound_of_a_cold_cache_is_every_byte_once_at_the_peak(kernel: str) -> None:
    """The grid of tiles loses nothing: what must be moved is what a run with a large cache moves."""
    machine = machine_of("large cache")
    program = KERNELS[kernel](machine)
    moved_fs = simulate(program, machine).hbm_read_bytes / float(machine.hbm_peak_bytes_per_second) * 1e15
    assert moved_fs < lower_bound(program, machine).by_resource["hbm"] < moved_fs + 1e9


@pytest.mark.parametrize("shared", [0, 5, 11])
def test_pages_that_sequences_share_count_once_in_the_bound(shared: int) -> None:
    machine = machine_of("large cache")
    tokens = 16 * shared + 4 * (12 * 16 - 7 - 16 * shared)
    bound = lower_bound(shared_decode(machine, shared), machine)
    assert bound.bursts["load"] * machine.burst_bytes == tokens * 2 * 2 * 64 * 2  # K and V of two heads, nothing else


def test_pieces_beyond_those_there_is_room_for_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = machine_of("large cache")
    whole = lower_bound(shared_decode(machine), machine).bursts["load"]
    monkeypatch.setattr(footprint, "MOST_PIECES", 40)
    assert 0 < lower_bound(shared_decode(machine), machine).bursts["load"] < whole
    monkeypatch.setattr(footprint, "MOST_PIECES", 0)
    assert lower_bound(shared_decode(machine), machine).bursts["load"] == 0
    assert lower_bound(shared_decode(machine, shared=0), machine).bursts["load"] > 0  # there are no pieces


def test_where_memory_is_slow_the_bound_of_a_shared_prefix_is_nearly_the_time() -> None:
    machine = Machine(load_machine("h100-sxm").with_overrides({"hbm.pin_rate": "1 Gb/s"}))
    result = engine.simulate(shared_decode(machine, shared=12, pages=24, sequences=8, heads=8, dim=128), machine)
    assert result.bound.limited_by == "hbm"
    assert 0.85 * result.makespan_fs < result.bound.total_fs <= result.makespan_fs


def test_a_later_phase_may_find_all_in_the_cache_and_the_bound_knows() -> None:
    machine = machine_of("large cache")
    program = KERNELS["gemm"](machine)
    twice = type(program)(program.name, program.tensors, program.phases * 2)
    assert lower_bound(twice, machine).by_resource["hbm"] == lower_bound(program, machine).by_resource["hbm"]
    result = simulate(twice, machine)
    assert result.hbm_read_bytes == simulate(program, machine).hbm_read_bytes


def test_bytes_that_two_tensors_name_count_once_and_not_at_all_where_one_of_them_is_in_the_cache() -> None:
    """Keys that are values, too, or that lie between the rows of what is in the cache."""
    machine = machine_of("large cache")
    program = product(machine)
    a, b = (next(t for t in program.tensors if t.name == name) for name in "ab")

    def loads(**changes: Any) -> int:
        tensors = tuple(replace(t, **changes) if t.name == "b" else t for t in program.tensors)
        return lower_bound(replace(program, tensors=tensors), machine).bursts["load"] * machine.burst_bytes

    assert loads() == a.size_bytes + b.size_bytes
    assert loads(base_bytes=a.base_bytes) == max(a.size_bytes, b.size_bytes)
    assert loads(resident="cache") == a.size_bytes
    assert loads(resident="cache", base_bytes=a.base_bytes + a.size_bytes - 1) == 0


def test_elements_of_a_layout_that_puts_two_in_one_place_are_not_counted() -> None:
    overlapping = Layout((3, 3), (2, 2))
    assert overlapping.cosize == overlapping.size  # wide enough, but every other place is empty
    assert not _keeps_apart(overlapping)
    assert _keeps_apart(Layout((3, 3), (4, 1)))


@given(data=st.data())
def test_pieces_of_pages_cover_what_the_boxes_cover_by_the_table(data: st.DataObject) -> None:
    page_size, pages = data.draw(st.integers(1, 4)), data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=6))
    positions = page_size * len(pages)
    drawn = data.draw(st.lists(st.tuples(st.integers(0, positions - 1), st.integers(1, positions)), min_size=1))
    cut = [((7, 2), (start, min(extent, positions - start))) for start, extent in drawn]
    pieces = _in_memory(np.array(cut, np.int64), np.array(pages, np.int64), 1, page_size)
    assert all(piece[0].tolist() == [7, 2] for piece in pieces)
    found = {x for _, (start, extent) in pieces.tolist() for x in range(start, start + extent)}
    places = {x for _, (start, extent) in cut for x in range(start, start + extent)}
    assert found == {pages[x // page_size] * page_size + x % page_size for x in places}


boxes = st.lists(st.tuples(*[st.tuples(st.integers(0, 6), st.integers(0, 3))] * 2), min_size=1, max_size=12)


@given(boxes=boxes)
def test_disjoint_boxes_are_never_more_than_what_all_cover(boxes: list[tuple[tuple[int, int], ...]]) -> None:
    covered = {
        (x, y) for (x0, width), (y0, height) in boxes for x in range(x0, x0 + width) for y in range(y0, y0 + height)
    }
    found = _disjoint_elements(np.array(boxes, np.int64))
    assert found <= len(covered)
    assert (found > 0) == (len(covered) > 0)


@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1), st.integers(1, 4), st.integers(1, 4))
def test_tiles_of_one_grid_are_all_counted_once(tiles: set[tuple[int, int]], width: int, height: int) -> None:
    grid = [((x * width, width), (y * height, height)) for x, y in sorted(tiles)] * 2
    assert _disjoint_elements(np.array(grid, np.int64)) == len(tiles) * width * height


BOXES = st.tuples(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 3, 4, 6, 8, 12])), min_size=1, max_size=3),
    st.integers(0, 20),
)


@given(BOXES, BOXES)
def test_tensors_that_share_no_byte_for_sure_have_none_in_common(one: Any, other: Any) -> None:
    tensors, touched = [], []
    for modes, base in (one, other):
        extents, strides = zip(*modes, strict=True)
        layout = Layout(extents, strides)
        tensors.append(Tensor("x", NamedLayout(tuple(f"a{i}" for i in range(len(modes))), layout), "uint8", base))
        touched.append({base + int(offset) for offset in layout.table().reshape(-1)})
    assert _may_share(tensors[0], tensors[1]) or touched[0].isdisjoint(touched[1])


def test_records_side_by_side_share_no_byte() -> None:
    """Keys of 512, scales of 16 and tails of 128 bytes, one token after another."""
    parts = (("a", 512, 0), ("b", 16, 512), ("c", 128, 528))
    tensors = [
        Tensor(name, NamedLayout(("token", "dim"), Layout((40, width), (656, 1))), "uint8", 256 + at)
        for name, width, at in parts
    ]
    assert not any(_may_share(one, other) for one in tensors for other in tensors if one is not other)
    assert _may_share(tensors[0], replace(tensors[1], base_bytes=767))


def test_of_many_boxes_some_count(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = machine_of("multicast")
    program = product(machine)
    whole = lower_bound(program, machine).bursts["load"]
    bursts = []
    for most in (0, 4, 1 << 23):
        monkeypatch.setattr(footprint, "MOST_BOXES", most)
        bursts.append(lower_bound(program, machine).bursts["load"])
    assert bursts[0] == 0 < bursts[1] < bursts[2] == whole
