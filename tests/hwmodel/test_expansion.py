from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwmodel import expansion
from hwmodel.bounds import lower_bound
from hwmodel.energy import instructions
from hwmodel.expansion import add_by, alike, counted, executions, grouped, regions, tile_bytes
from hwmodel.machine import Machine
from hwmodel.program import NONE, QUEUES, Instruction, Op, Phase, Program, walk
from hwmodel.spec import load_machine
from workloads.kernels import decode_attention as attention
from workloads.kernels import gemm, mla_decode
from workloads.kernels.latent import Heads

H100 = Machine(load_machine("h100-sxm"))


def product(m: int = 500, n: int = 700, k: int = 300) -> Program:
    return gemm.compile(gemm.Problem(m, n, k, "bf16"), gemm.Knobs(), H100, 0)


def decode() -> Program:
    problem = attention.Problem(8, 2, 64, "bf16", (300, 37, 190, 64))
    return attention.compile(problem, attention.Knobs(), H100, 0)


PROGRAMS = {"product": product, "decode": decode}


def sizes_of(phase: Phase, instruction: Instruction) -> list[Any]:
    numbers = phase.tiles[instruction.tile]["extent"] if instruction.op in (Op.LOAD, Op.STORE) else ()
    return [*instruction.sizes, *(phase.expression(number) for number in numbers if number != NONE)]


def steps(phase: Phase, queue: int) -> list[list[int]]:
    """Return which instruction is executed for which task with which sizes, in any order."""
    found = [
        [task, phase.decoded[queue].index(instruction), *(size(variables) for size in sizes_of(phase, instruction))]
        for task in range(len(phase.tasks))
        for instruction, variables in walk(phase, queue, [task])
    ]
    return sorted(found)


@pytest.mark.parametrize("part", [3, 64, expansion.MAX_PART])
@pytest.mark.parametrize("name", PROGRAMS)
def test_executions_are_those_that_a_core_walks(name: str, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expansion, "MAX_PART", part)
    for phase in PROGRAMS[name]().phases:
        for queue in range(len(QUEUES)):
            found = []
            for instruction, task, variables in executions(phase, queue):
                assert len(task) <= part
                number = phase.decoded[queue].index(instruction)
                for of, row in zip(task.tolist(), variables.tolist(), strict=True):
                    found.append([of, number, *(size(row) for size in sizes_of(phase, instruction))])
            assert sorted(found) == steps(phase, queue)


@pytest.mark.parametrize("name", PROGRAMS)
def test_tasks_that_are_alike_take_the_same_steps(name: str) -> None:
    for phase in PROGRAMS[name]().phases:
        for queue in range(len(QUEUES)):
            tasks, which = alike(phase, queue)
            of_kind: dict[int, list[list[int]]] = {kind: [] for kind in range(len(tasks))}
            for instruction, task, variables in executions(phase, queue, tasks):
                number = phase.decoded[queue].index(instruction)
                for of, row in zip(task.tolist(), variables.tolist(), strict=True):
                    of_kind[of].append([number, *(size(row) for size in sizes_of(phase, instruction))])
            all_tasks = ([task, *step] for task, kind in enumerate(which.tolist()) for step in of_kind[kind])
            assert sorted(all_tasks) == steps(phase, queue)


def test_tiles_of_a_product_are_of_few_kinds() -> None:
    (phase,) = product().phases
    edges = 2 * 2  # whole and last rows, whole and last columns
    for queue in range(len(QUEUES)):
        assert len(alike(phase, queue)[0]) <= edges < len(phase.tasks)


def boxes(phase: Phase, instruction: Instruction, variables: Any) -> set[tuple[int, ...]]:
    tile = phase.tiles[instruction.tile]
    numbers = [n for part in (tile["start"], tile["extent"], [tile["index_start"]]) for n in part if n != NONE]
    return {tuple(phase.expression(number)(row) for number in numbers) for row in variables.tolist()}


@pytest.mark.parametrize("name", PROGRAMS)
def test_regions_are_those_of_all_executions(name: str) -> None:
    for phase in PROGRAMS[name]().phases:
        for queue in (QUEUES.index("load"), QUEUES.index("store")):
            of_all: dict[int, set[tuple[int, ...]]] = {}
            for instruction, _, variables in executions(phase, queue):
                if instruction.op in (Op.LOAD, Op.STORE):
                    of_all.setdefault(instruction.tile, set()).update(boxes(phase, instruction, variables))
            found: dict[int, set[tuple[int, ...]]] = {}
            for instruction, variables in regions(phase, queue):
                found.setdefault(instruction.tile, set()).update(boxes(phase, instruction, variables))
            assert found == of_all


def test_regions_of_a_product_leave_out_what_tiles_read_again() -> None:
    program = product()
    (phase,) = program.phases
    load = QUEUES.index("load")
    looked_at = sum(int(tile_bytes(program, phase, i, variables).sum()) for i, variables in regions(phase, load))
    assert looked_at == 2 * (500 * 300 + 300 * 700)
    assert looked_at < sum(
        int(tile_bytes(program, phase, i, variables).sum())
        for i, _, variables in executions(phase, load)
        if i.op is Op.LOAD
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_bounds_and_counts_do_not_depend_on_the_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = PROGRAMS[name]()
    whole = lower_bound(program, H100), instructions(program)
    monkeypatch.setattr(expansion, "MAX_PART", 5)
    assert (lower_bound(program, H100), instructions(program)) == whole


def test_a_large_product_is_bounded_at_once() -> None:
    """A head of a language model: 16 million pairs of tiles, of which a few hundred thousand regions are distinct."""
    program = product(16384, 128256, 8192)
    kinds = [len(alike(phase, queue)[0]) for phase in program.phases for queue in range(len(QUEUES))]
    looked_at = sum(len(v) for phase in program.phases for queue in (0, 3) for _, v in regions(phase, queue))
    assert len(program.phases[0].tasks) > 100_000
    assert max(kinds) <= 4
    assert looked_at < 500_000
    bound = lower_bound(program, H100)
    flop_fs = 2 * 16384 * 128256 * 8192 / 1000  # at a peak of a thousand TFLOP/s
    assert flop_fs / 2 < bound.by_resource["matrix"] <= bound.total_fs


def test_grouped_says_what_unique_rows_are() -> None:
    rng = np.random.default_rng(0)
    for high in (3, 1 << 22, 1 << 40):
        rows = rng.integers(0, 3, (50, 3)) * high
        first, which = grouped(rows)
        distinct, inverse = np.unique(rows, axis=0, return_inverse=True)
        assert (rows[first] == distinct).all()
        assert (which == inverse.reshape(-1)).all()


def test_counted_sums_the_times() -> None:
    assert counted(np.array([[1, 2], [3, 4], [1, 2]]), np.array([5, 6, 7])) == [((1, 2), 12), ((3, 4), 6)]


def test_add_by_adds_to_what_is_there() -> None:
    total = np.array([1, 10, 100])
    add_by(total, np.array([0, 0, 2]), np.array([2, 3, 4]))
    add_by(total, np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert total.tolist() == [6, 10, 104]


def test_tasks_of_a_masked_prefill_are_alike_where_they_walk_as_many_tokens_wherever_their_mask_lies() -> None:
    heads = Heads(4, 512, 64, 512, 1.0, "bf16")
    problem = mla_decode.Problem(heads, 2048, (2048,) * 3)
    program = mla_decode.compile(problem, mla_decode.Knobs(head_tile=32, tile=16, stages=2, queries=1), H100, 0)
    (phase,) = [phase for phase in program.phases if len(phase.tasks) > 100]
    tasks, _ = alike(phase, QUEUES.index("vector"))
    tokens = phase.tasks[:, phase.columns.index("tokens")]
    assert len(tasks) == len(np.unique(tokens)) < len(phase.tasks)
