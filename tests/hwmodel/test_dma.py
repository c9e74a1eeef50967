from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwmodel.assembler import PhaseAssembler, Slot, block
from hwmodel.assembler import Region as Asked
from hwmodel.dma import Regions
from hwmodel.program import DTYPES, NONE, Program, Schedule, Tensor, walk
from layouts import NamedLayout, named

BURST_BYTES = 32


@dataclass(frozen=True)
class Case:
    """A tensor with a region of it; `table` looks up the first axis where it is not empty."""

    notation: str
    sizes: dict[str, int]
    dtype: str
    base_bytes: int
    starts: dict[str, int]
    extents: dict[str, int]
    table: tuple[int, ...] = ()
    first_page: int = 0

    @property
    def layout(self) -> NamedLayout:
        return named(self.notation, self.sizes)


@st.composite
def layouts(draw: st.DrawFn, axes: tuple[str, ...]) -> tuple[str, dict[str, int]]:
    """Draw a notation whose axes are cut into up to three digits, in any order."""
    factors, sizes = [], {}
    for axis in axes:
        digits = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
        low, size = 1, int(np.prod(digits))
        for digit in digits:
            high = low * digit
            if digit > 1 or len(digits) == 1:
                factors.append(axis + (f"%{high}" if high < size else "") + (f"//{low}" if low > 1 else ""))
            low = high
        if not any(factor.split("%")[0].split("//")[0] == axis for factor in factors):
            factors.append(axis)
        sizes[axis] = size
    return " ".join(draw(st.permutations(factors))), sizes


@st.composite
def cases(draw: st.DrawFn, paged: bool) -> Case:
    axes = ("page", "token", *("head", "dim")[: draw(st.integers(0, 2))]) if paged else ("x", "y", "z")
    notation, sizes = draw(layouts(axes[: draw(st.integers(2 if paged else 1, len(axes)))]))
    starts, extents = {}, {}
    for axis, size in sizes.items():
        starts[axis] = draw(st.integers(0, size - 1))
        extents[axis] = draw(st.integers(0 if draw(st.integers(0, 9)) == 0 else 1, size - starts[axis]))
    table: tuple[int, ...] = ()
    first_page = 0
    if paged:
        starts["page"], extents["page"] = 0, 1
        pages = draw(st.lists(st.integers(0, sizes["page"] - 1), min_size=1, max_size=5))
        first_page = draw(st.integers(0, len(pages) - 1))
        tokens = (len(pages) - first_page) * sizes["token"]
        starts["token"] = draw(st.integers(0, tokens - 1))
        extents["token"] = draw(st.integers(1, tokens - starts["token"]))
        table = tuple(pages)
    dtype = draw(st.sampled_from(["bf16", "fp32"]))
    base = draw(st.integers(0, 200)) * DTYPES[dtype].itemsize
    return Case(notation, sizes, dtype, base, starts, extents, table, first_page)


def asked(case: Case) -> tuple[list[int], int, int]:
    """Return what the address generator gives: bursts in order, elements, page-table entries."""
    tensors = [Tensor("t", case.layout, case.dtype, case.base_bytes)]
    paging: dict[str, Any] = {}
    axes = {axis: (case.starts[axis], case.extents[axis]) for axis in case.sizes}
    if case.table:
        values = np.array(case.table, np.int32)
        tensors.append(Tensor("table", named("entry", {"entry": len(values)}), "int32", 1 << 20, "hbm", values))
        paging = {"page_table": 1, "first_page": case.first_page, "page_axis": "page", "position_axis": "token"}
        del axes["page"]
    phase = PhaseAssembler("p", tensors, ("c",))
    (buffer,) = phase.add_buffers([block("b", 1, 1, case.dtype)])
    phase.load(Slot(buffer, phase.begun), Asked(0, axes, **paging))
    finished = phase.finish(np.zeros((1, 1), np.int64), Schedule(np.arange(1), np.array([0, 1])))
    program = Program("p", tuple(tensors), (finished,))
    regions = Regions(program, finished, BURST_BYTES)
    ((instruction, variables),) = walk(finished, 0, [0])
    region = regions.region(instruction.tile, variables)
    return regions.bursts(region).tolist(), region.elements, region.pages


def expected(case: Case) -> tuple[list[int], int, int]:
    """Return the same by looking up every byte of every element."""
    by_page: dict[int, set[int]] = {}
    elements = 0
    ranges = [range(case.starts[axis], case.starts[axis] + case.extents[axis]) for axis in case.sizes]
    for index in product(*ranges):
        coordinate = dict(zip(case.sizes, index, strict=True))
        entry = NONE
        if case.table:
            entry = case.first_page + coordinate["token"] // case.sizes["token"]
            coordinate |= {"page": case.table[entry], "token": coordinate["token"] % case.sizes["token"]}
        size = DTYPES[case.dtype].itemsize
        first = case.base_bytes + case.layout.offset(**coordinate) * size
        bursts = by_page.setdefault(entry, set())
        bursts |= {byte // BURST_BYTES * BURST_BYTES for byte in range(first, first + size)}
        elements += 1
    order = [burst for entry in sorted(by_page) for burst in sorted(by_page[entry])]
    return order, elements, len(by_page) if case.table else 0


@settings(max_examples=300)
@given(cases(paged=False))
@example(Case("x", {"x": 12}, "bf16", 2, {"x": 1}, {"x": 0}))
@example(Case("x%4 x//4", {"x": 12}, "bf16", 0, {"x": 3}, {"x": 6}))
@example(Case("x%12//4 x%4 x//12", {"x": 24}, "fp32", 28, {"x": 5}, {"x": 19}))
def test_a_region_fetches_every_burst_of_its_elements_once_in_address_order(case: Case) -> None:
    assert asked(case) == expected(case)


@settings(max_examples=300)
@given(cases(paged=True))
@example(
    Case("token page", {"page": 3, "token": 5}, "bf16", 0, {"page": 0, "token": 4}, {"page": 1, "token": 7}, (2, 0, 2))
)
def test_a_paged_region_fetches_page_after_page_every_burst_once_per_page(case: Case) -> None:
    assert asked(case) == expected(case)


def test_a_region_between_two_bursts_over_fetches_both() -> None:
    case = Case("x", {"x": 64}, "bf16", 0, {"x": 15}, {"x": 2})
    assert asked(case) == ([0, 32], 2, 0)


def test_many_bursts_grow_the_list() -> None:
    rows = Case("x y", {"x": 500, "y": 16}, "bf16", 0, {"x": 0, "y": 3}, {"x": 500, "y": 1})
    assert asked(rows) == ([32 * i for i in range(500)], 500, 0)
