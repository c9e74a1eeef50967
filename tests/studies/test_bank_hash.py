from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from hwmodel.engine import simulate
from workloads.kernels import gemm

SMALL = gemm.Problem(16, 512, 128, "bf16")


@pytest.fixture(scope="module")
def study(load_study: Callable[[str], ModuleType]) -> ModuleType:
    return load_study("bank_hash")


def row(name: str, pitch: int, rate: float, machine: str = "npu-hbm3") -> dict[str, Any]:
    return {"machine": machine, "hash": name, "pitch_bytes": pitch, "of_peak": rate, "time_us": 1 / rate}


def test_a_pitch_of_the_rows_own_length_is_the_plain_product(study: ModuleType) -> None:
    machine = study.machine_with("npu-hbm3", study.IRREDUCIBLE)
    plain = gemm.compile(SMALL, study.KNOBS, machine, 0)
    moved, own = (simulate(program, machine) for program in (study.pitched(plain, 256, machine), plain))
    assert (moved.makespan_fs, moved.stalls, moved.levels) == (own.makespan_fs, own.stalls, own.levels)


def test_every_pitch_reads_the_same_bytes(study: ModuleType) -> None:
    found = [study.measure(study.Case("npu-hbm3", study.NONE, pitch, SMALL)) for pitch in (0, 512, 16384)]
    assert len({row["read_bytes"] for row in found}) == 1
    assert all(0 < row["of_peak"] < 1 for row in found)


@pytest.mark.parametrize("winner", [0, 1])
def test_the_answer_names_the_hash_that_the_table_favours(study: ModuleType, winner: int) -> None:
    names = list(study.HASHES)
    rates = {name: 0.5 if place == winner else 0.1 for place, name in enumerate(names)}
    rows = study.with_shares([row(n, p, 0.5 if p == 0 else r) for n, r in rates.items() for p in (0, 64)])
    words = study.sentences(rows)
    assert words[0].startswith(
        f"On npu-hbm3 the hash that keeps the most at its slowest pitch is {names[winner]}: 1.00"
    )
    fallen = [sentence for sentence in words[1:] if "1 of 1 pitches" in sentence]
    assert len(fallen) == len(names) - 1
    assert not any(names[winner] + ":" in sentence for sentence in fallen)
