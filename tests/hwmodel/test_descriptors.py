from __future__ import annotations

from itertools import pairwise, product
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.assembler import PhaseAssembler, Slot, block
from hwmodel.assembler import Region as Asked
from hwmodel.descriptors import Mode, TileCost, Tiles, boxes, descriptors, memory_order
from hwmodel.dma import Regions, cut_requests
from hwmodel.machine import Machine
from hwmodel.program import Program, Schedule, Tensor, walk
from hwmodel.spec import load_machine
from layouts import Layout, named

Region = tuple[list[tuple[Mode, ...]], list[int], list[int]]


@st.composite
def regions(draw: st.DrawFn) -> Region:
    """Draw axes of up to three digits in a compact tensor, and an interval of each."""
    counts = draw(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=3))
    order = draw(st.permutations([(axis, digit) for axis, own in enumerate(counts) for digit in range(len(own))]))
    strides, stride = {}, 1
    for axis, digit in order:
        strides[axis, digit] = stride
        stride *= counts[axis][digit]
    digits = [tuple((n, strides[axis, d]) for d, n in enumerate(own)) for axis, own in enumerate(counts)]
    starts = [draw(st.integers(0, prod(own) - 1)) for own in counts]
    extents = [draw(st.integers(1, prod(own) - start)) for own, start in zip(counts, starts, strict=True)]
    return digits, starts, extents


def offsets(region: Region) -> list[int]:
    """Return the element offsets of a region in the order of its tile, the last axis fastest."""
    found = []
    for index in product(*(range(s, s + n) for s, n in zip(region[1], region[2], strict=True))):
        offset = 0
        for coordinate, digits in zip(index, region[0], strict=True):
            for extent, stride in digits[:-1]:
                offset += coordinate % extent * stride
                coordinate //= extent
            offset += coordinate * digits[-1][1]
        found.append(offset)
    return found


@settings(max_examples=200)
@given(regions(), st.integers(1, 5))
def test_boxes_hold_every_element_once_and_take_as_many_descriptors_as_walks_of_their_modes(
    region: Region, dimensions: int
) -> None:
    found: list[int] = []
    walks = 0
    for offset, modes in boxes(*region):
        apart = sorted(range(len(modes)), key=lambda m: modes[m][0])[: max(0, len(modes) - dimensions)]
        for outer in product(*(range(modes[m][0]) for m in apart)):  # one descriptor each
            walks += 1
            base = offset + sum(i * modes[m][1] for i, m in zip(outer, apart, strict=True))
            inner = [modes[m] for m in range(len(modes)) if m not in apart]
            assert len(inner) <= dimensions
            for index in product(*(range(extent) for extent, _ in inner)):
                found.append(base + sum(i * stride for i, (_, stride) in zip(index, inner, strict=True)))
    assert sorted(found) == sorted(offsets(region))
    assert descriptors(boxes(*region), dimensions) == walks


@settings(max_examples=100)
@given(regions())
def test_the_order_in_memory_is_that_of_the_offsets(region: Region) -> None:
    there = offsets(region)
    order = memory_order(*region, block_rows=1000)
    columns = region[2][-1]
    if order is None:
        assert there == sorted(there)
    else:
        tile = [(place % 1000) * columns + place // 1000 for place in order.tolist()]
        assert sorted(tile) == list(range(len(there)))
        assert [there[place] for place in tile] == sorted(there) != there


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 6)), max_size=12), st.integers(1, 7), st.integers(1, 4))
def test_requests_are_cut_by_bytes_and_by_runs(runs: list[tuple[int, int]], most: int, most_runs: int) -> None:
    bursts = [32 * (start + i) for start, count in runs for i in range(count)]
    expected: list[int] = []
    request: list[int] = []
    for place, burst in enumerate(bursts):
        longer = [*request, burst]
        gaps = sum(after != before + 32 for before, after in pairwise(longer))
        if len(longer) > most or gaps + 1 > most_runs:
            expected.append(place)
            longer = [burst]
        request = longer
    expected += [len(bursts)] if bursts else []
    assert cut_requests(np.array(bursts, np.int64), 32, most, most_runs).tolist() == expected


def cost_of(
    region: Asked,
    tensors: list[Tensor],
    changes: dict[str, object],
    size: tuple[int, int],
    layout: Layout | None = None,
) -> tuple[TileCost, list[int]]:
    """Return what a load of a region costs on the npu with changes, and its bursts."""
    machine = Machine(load_machine("npu-hbm3").with_overrides(changes))
    phase = PhaseAssembler("p", tensors, ("c",))
    (buffer,) = phase.add_buffers([block("b", *size, "bf16", 1, layout)])
    phase.load(Slot(buffer, phase.begun), region)
    finished = phase.finish(np.zeros((1, 1), np.int64), Schedule(np.arange(1), np.array([0, 1])))
    program = Program("p", tuple(tensors), (finished,))
    regions = Regions(program, finished, machine.organisation.burst_bytes, machine.spec.cores.dma.min_transfer)
    ((instruction, variables),) = walk(finished, 0, [0])
    here = regions.region(instruction.tile, variables)
    return Tiles(program, finished, machine).cost(here, buffer, False), regions.bursts(here).tolist()


def paged(notation: str, **sizes: int) -> list[Tensor]:
    table = np.array([3, 0, 2, 1], np.int32)
    entries = Tensor("table", named("entry", {"entry": 4}), "int32", 1 << 20, "hbm", table)
    return [Tensor("kv", named(notation, sizes), "bf16", 0), entries]


PAGES: dict[str, Any] = {"page_table": 1, "page_axis": "page", "position_axis": "token"}


@pytest.mark.parametrize(("gather", "count"), [(True, 1), (False, 4)])
def test_an_engine_without_gather_takes_a_descriptor_per_page(gather: bool, count: int) -> None:
    tensors = paged("page token dim", page=4, token=16, dim=64)
    region = Asked(0, {"token": (5, 50), "dim": (0, 64)}, **PAGES)  # 11, 16, 16 and 7 tokens
    cost, _ = cost_of(region, tensors, {"cores.dma.gather": gather}, (50, 64))
    assert (cost.descriptors, cost.indices) == (count, 4)
    assert cost.sram.phases == sum(-(-tokens * 128 // 1024) for tokens in (11, 16, 16, 7))


def test_a_gather_by_tokens_looks_up_every_row_and_moves_it_in_a_line_of_its_own() -> None:
    rows = Tensor("x", named("token dim", {"token": 4, "dim": 64}), "bf16", 0)
    region = Asked(0, {"token": (1, 3), "dim": (0, 64)}, 1, 0, "token", "token")
    cost, bursts = cost_of(region, [rows, paged("token", token=1)[1]], {}, (3, 64))
    assert (cost.descriptors, cost.indices, cost.sram.phases) == (1, 3, 3)
    assert bursts == [row * 128 + 32 * i for row in (0, 2, 1) for i in range(4)]


def test_a_tile_with_more_dimensions_than_a_descriptor_takes_several() -> None:
    tensors = [Tensor("t", named("a b c d", {"a": 3, "b": 4, "c": 5, "d": 8}), "bf16", 0)]
    region = Asked(0, {"a": (0, 2), "b": (0, 3), "c": (0, 4), "d": (0, 4)})
    counts = [cost_of(region, tensors, {"cores.dma.dimensions": n}, (24, 4))[0].descriptors for n in (1, 2, 3, 4, 5)]
    assert counts == [2 * 3 * 4, 2 * 3, 2, 1, 1]


def test_a_larger_least_transfer_fetches_whole_pieces() -> None:
    tensors = [Tensor("t", named("x y", {"x": 8, "y": 512}), "bf16", 0)]
    region = Asked(0, {"x": (0, 8), "y": (16, 16)})
    fetched = [cost_of(region, tensors, {"cores.dma.min_transfer": f"{n} B"}, (8, 16))[1] for n in (32, 128)]
    assert fetched[0] == [1024 * row + 32 for row in range(8)]
    assert fetched[1] == [1024 * row + 32 * i for row in range(8) for i in range(4)]


def test_a_tile_that_lies_across_is_turned_by_an_engine_that_can_and_scattered_by_one_that_cannot() -> None:
    tensors = [Tensor("t", named("k m", {"m": 32, "k": 64}), "bf16", 0)]
    region = Asked(0, {"m": (0, 32), "k": (0, 64)})
    turned, _ = cost_of(region, tensors, {}, (32, 64))
    scattered, _ = cost_of(region, tensors, {"cores.dma.transpose": False}, (32, 64))
    across, _ = cost_of(region, tensors, {"cores.dma.transpose": False}, (32, 64), Layout((32, 64), (1, 32)))
    assert turned.turned == turned.sram.wavefronts == 32 * 128 // 1024
    assert scattered.turned == across.turned == 0
    assert scattered.sram.wavefronts == 4 * 4  # 4 lines of 16 columns x 32 rows, and every eighth row is in one bank
    assert across.sram.wavefronts == turned.sram.wavefronts
    narrow = {"cores.dma.transpose": False, "cores.dma.write_bytes": "64 B"}
    by_column, _ = cost_of(region, tensors, narrow, (32, 64))
    assert by_column.sram.wavefronts == 64 * 4 * 2  # and 2 B of a granule of 4 B are a read and a write


def test_a_block_smaller_than_its_region_is_refused() -> None:
    tensors = [Tensor("t", named("x", {"x": 64}), "bf16", 0)]
    with pytest.raises(ValueError, match="phase p: buffer b: 1 rows x 64 columns are used of a block of 1 x 63"):
        cost_of(Asked(0, {"x": (0, 64)}), tensors, {}, (1, 63))
