"""What holds of every vector operation: it writes only what it says it touches, and more of it costs no less."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.assembler import block
from hwmodel.description import VectorSpec
from hwmodel.machine import Machine
from hwmodel.program import DTYPES, NONE, QUEUES, Buffer
from hwmodel.program_check import check_program
from hwmodel.spec import load_machine
from hwmodel.vector import OPERATIONS
from workloads.kernels import KERNELS

UNIT = VectorSpec(alu=1, exp=1, reduce=1, convert=1)
# operands (rows, columns, dtype) larger than what is touched, sizes, and sizes of twice as many rows
SIX: list[tuple[int, int, str]] = [(8, 9, "fp32")] * 6
CASES: dict[str, tuple[list[tuple[int, int, str]], tuple[int, ...], tuple[int, ...]]] = {
    "rms_norm": (SIX[:3], (2, 4), (4, 4)),
    "add_rms_norm": (SIX[:5], (2, 4), (4, 4)),
    "layer_norm": (SIX[:4], (2, 4), (4, 4)),
    "mul": (SIX[:3], (2, 4), (4, 4)),
    "div": (SIX[:3], (2, 4), (4, 4)),
    "pow": (SIX[:3], (2, 4), (4, 4)),
    "pow_scalar": (SIX[:2], (2, 4), (4, 4)),
    "gelu": (SIX[:2], (2, 4), (4, 4)),
    "softmax": (SIX[:2], (2, 4), (4, 4)),
    "swiglu": (SIX[:2], (2, 4), (4, 4)),
    "swiglu_pairs": (SIX[:2], (2, 4), (4, 4)),
    "rope_neox": (SIX[:3], (2, 2, 4), (2, 4, 4)),
    "rope_interleaved": (SIX[:3], (2, 2, 4), (2, 4, 4)),
    "top_k": ([SIX[0], (8, 9, "int32"), SIX[0]], (2, 5, 3, 0, 0), (4, 5, 3, 0, 0)),
    "merge_top_k": ([SIX[0], (8, 9, "int32"), SIX[0], (8, 9, "int32")], (2, 2, 3), (2, 4, 3)),
    "route_softmax": ([SIX[0], (8, 9, "int32"), SIX[0]], (2, 5, 3, 1), (4, 5, 3, 1)),
    "route_sigmoid": ([SIX[0], (8, 9, "int32"), SIX[0]], (2, 5, 3, 0), (4, 5, 3, 0)),
    "weighted_sum": (SIX[:3], (2, 2, 4), (2, 4, 4)),
    "add": (SIX[:3], (2, 4), (4, 4)),
    "sum_decays": (SIX[:1], (2, 4), (4, 4)),
    "fade_channels": ([*SIX, *SIX[:2]], (2, 4, 3), (4, 4, 3)),
    "pool_windows": ([*SIX, SIX[0]], (2, 4, 2, 2), (4, 4, 2, 2)),
    "stream_weights": (SIX[:5], (2, 2, 4, 3), (4, 2, 4, 3)),
    "collapse_streams": (SIX[:3], (2, 2, 4), (4, 2, 4)),
    "expand_streams": (SIX[:4], (2, 2, 4), (4, 2, 4)),
    "quantise": ([(8, 9, "fp8_e4m3"), *SIX[:2]], (2, 2, 4), (2, 4, 4)),
}


def buffers_of(operands: list[tuple[int, int, str]]) -> list[Buffer]:
    return [block(f"operand {i}", rows, columns, dtype) for i, (rows, columns, dtype) in enumerate(operands)]


def blocks_of(operands: list[tuple[int, int, str]]) -> list[Any]:
    rng = np.random.default_rng(4)
    return [rng.uniform(1, 9, (rows, columns)).astype(DTYPES[dtype]) for rows, columns, dtype in operands]


@pytest.mark.parametrize("name", CASES)
def test_an_operation_changes_nothing_outside_the_parts_that_it_writes(name: str) -> None:
    operands, sizes, _ = CASES[name]
    operation, blocks = OPERATIONS[name], blocks_of(operands)
    before = [b.copy() for b in blocks]
    operation.values(blocks, 5.0, *sizes)
    written = {t.operand: t for t in operation.touches(buffers_of(operands), *sizes) if t.writes}
    assert 0 in written
    for number, (old, new) in enumerate(zip(before, blocks, strict=True)):
        kept = np.ones(old.shape, bool)
        if number in written:
            kept[: written[number].rows, : written[number].columns] = False
            assert (old[~kept] != new[~kept]).any()
        np.testing.assert_array_equal(old[kept], new[kept])


@pytest.mark.parametrize("name", CASES)
def test_an_operation_reads_nothing_outside_the_parts_that_it_touches(name: str) -> None:
    operands, sizes, _ = CASES[name]
    operation = OPERATIONS[name]
    results = []
    for noise in (1, 2):
        blocks = blocks_of(operands)
        for number, found in enumerate(blocks):
            outside = np.ones(found.shape, bool)
            for touch in operation.touches(buffers_of(operands), *sizes):
                if touch.operand == number:
                    outside[: touch.rows, : touch.columns] = False
            found[outside] = noise
        operation.values(blocks, 5.0, *sizes)
        results.append(
            [
                blocks[t.operand][: t.rows, : t.columns].tobytes()
                for t in operation.touches(buffers_of(operands), *sizes)
                if t.writes
            ]
        )
    assert results[0] == results[1]


@pytest.mark.parametrize("name", CASES)
def test_twice_the_rows_cost_twice_as_much(name: str) -> None:
    operands, sizes, twice = CASES[name]
    operation, buffers = OPERATIONS[name], buffers_of(operands)
    cycles = operation.work(buffers, *sizes).cycles(UNIT)
    assert operation.work(buffers, *twice).cycles(UNIT) == 2 * cycles > 0


def test_quantised_values_are_held_within_the_largest_number() -> None:
    source = np.array([[1000.0, -1000.0, 3.0]], np.float32)
    out = np.zeros((1, 3), DTYPES["fp8_e4m3"])
    OPERATIONS["quantise"].values([out, source, np.array([[2.0]], np.float32)], 448.0, 1, 1, 3)
    assert out.astype(float).tolist() == [[448.0, -448.0, 1.5]]


def test_equal_values_are_chosen_by_the_lower_index_across_tiles() -> None:
    values, indices = np.zeros((1, 3), np.float32), np.zeros((1, 3), np.int32)
    for number, tile in enumerate(([5.0, 1.0, 5.0], [5.0, 7.0, 5.0])):
        OPERATIONS["top_k"].values([values, indices, np.array([tile], np.float32)], 0.0, 1, 3, 3, 3 * number, number)
    assert values.tolist() == [[7.0, 5.0, 5.0]]
    assert indices.tolist() == [[4, 0, 2]]


COSTED = {
    "causal_softmax_step": 4, "top_k": 3, "normalise": 3, "partial": 4, "rms_part": 2, "layer_part": 2,
    "softmax_part": 2,
}  # fmt: skip
# how many operands those operations have of which only the first sizes are costed


def test_every_operation_whose_last_sizes_cost_nothing_is_tried() -> None:
    assert set(COSTED) == {name for name, operation in OPERATIONS.items() if operation.costed is not None}


@given(st.sampled_from(sorted(COSTED)), st.lists(st.integers(0, 40), min_size=6, max_size=6))
def test_sizes_that_are_not_costed_change_neither_work_nor_touches(name: str, sizes: list[int]) -> None:
    operation = OPERATIONS[name]
    buffers = [block(f"operand {i}", 64, 64, "fp32") for i in range(COSTED[name] + 1)]
    first = sizes[: operation.costed]
    for count in operation.counts:
        assert operation.work(buffers, *sizes[:count]) == operation.work(buffers, *first)
        assert operation.touches(buffers, *sizes[:count]) == operation.touches(buffers, *first)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_program_whose_operation_has_another_number_of_sizes_is_refused(more: int) -> None:
    npu, softmax = Machine(load_machine("npu-hbm3")), KERNELS["softmax"]
    problem = softmax.shape(None, None, {"rows": 6, "columns": 300})
    program = softmax.compile(problem, softmax.Knobs(tile_columns=64), npu, 0)
    phase, queue = program.phases[0], QUEUES.index("vector")
    position = next(i for i, each in enumerate(phase.decoded[queue]) if each.function == "softmax_part")
    stream = phase.queues[queue].copy()
    sizes = stream[position]["size"]
    if more:
        sizes[3 if more > 0 else 2] = sizes[0] if more > 0 else NONE
    queues = tuple(stream if number == queue else other for number, other in enumerate(phase.queues))
    changed = replace(program, phases=(replace(phase, queues=queues), *program.phases[1:]))
    if more:
        with pytest.raises(ValueError, match=r"softmax_part of sizes .*; allowed: 3 of them"):
            check_program(changed)
    else:
        check_program(changed)
