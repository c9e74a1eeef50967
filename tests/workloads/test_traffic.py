from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwmodel.machine import Machine
from hwmodel.program import QUEUES, Program, Schedule
from hwmodel.spec import load_machine
from workloads.kernels import decode_attention, gemm, prefill_attention
from workloads.traffic import QUEUES_OF_MEMORY, program_bytes, queue_bytes

MACHINE = Machine(load_machine("h100-sxm"))


def counted(program: Program) -> int:
    """Return the bytes of all executions."""
    return sum(
        int(queue_bytes(program, phase, QUEUES.index(name)).sum())
        for phase in program.phases
        for name in QUEUES_OF_MEMORY
    )


def product(m: int, n: int, k: int, **knobs: Any) -> Program:
    return gemm.compile(gemm.Problem(m, n, k, "bf16"), gemm.Knobs(**knobs), MACHINE, 0)


def test_bytes_of_a_product_are_both_operands_of_every_tile_and_the_result() -> None:
    assert program_bytes(product(512, 384, 640)) == 4 * 3 * 2 * 128 * 640 * 2 + 512 * 384 * 2


def test_bytes_of_all_phases_add_up() -> None:
    split = product(128, 128, 16384, split_k=8)
    assert len(split.phases) > 1
    assert program_bytes(split) == pytest.approx(counted(split), rel=0.02)


def test_a_sample_tells_the_bytes_of_items_of_unequal_length() -> None:
    lengths = tuple(int(n) for n in np.random.default_rng(0).integers(100, 4000, 200))
    decode = decode_attention.compile(
        decode_attention.Problem(8, 2, 64, "bf16", lengths), decode_attention.Knobs(), MACHINE, 0
    )
    causal = prefill_attention.compile(
        prefill_attention.Problem(8, 8, 64, "bf16", (1500,) * 8), prefill_attention.Knobs(), MACHINE, 0
    )
    for program in (decode, causal):
        assert max(len(phase.tasks) for phase in program.phases) > 256
        assert program_bytes(program) == pytest.approx(counted(program), rel=0.1)


def test_a_phase_without_items_moves_nothing() -> None:
    program = product(128, 128, 128)
    (phase,) = program.phases
    empty = replace(phase, tasks=phase.tasks[:0], schedule=Schedule(np.zeros(0, np.int64), np.zeros(0, np.int64)))
    assert program_bytes(replace(program, phases=(empty,))) == 0
