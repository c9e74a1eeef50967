from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from workloads.batch import uniform
from workloads.kernels import mla_decode


@pytest.fixture(scope="module")
def study(load_study: Callable[[str], ModuleType]) -> ModuleType:
    return load_study("mla_records")


@pytest.mark.parametrize("fields", ["together", "apart in a page", "pools of their own"])
def test_no_two_fields_share_a_byte_wherever_they_lie(study: ModuleType, fields: str) -> None:
    machine = study.machine_of("npu-hbm3")
    problem = mla_decode.shape(None, uniform(2, 64), {"heads": 16})
    program = mla_decode.compile(problem, mla_decode.Knobs(record="fp8_ds_mla", page_size=16), machine, 0)
    own = [t for t in study.apart(program, fields, machine).tensors if t.name.startswith("cache ")]
    starts = [(t.base_bytes + t.layout.layout.table().reshape(-1) * t.element_bytes, t.element_bytes) for t in own]
    taken = np.concatenate([(first[:, None] + np.arange(width)).reshape(-1) for first, width in starts])
    assert len(own) == 3
    assert len(np.unique(taken)) == len(taken) == 128 * 656


def test_a_record_reads_less_than_a_plain_cache(study: ModuleType) -> None:
    plain, record = (
        study.measure(study.Case("npu-hbm3", 16, name, 16, 0, sequences=2, context=64))
        for name in (study.PLAIN, "656 B, fields apart in a page")
    )
    saved = (1152 - 656) * 2 * 64
    assert plain["hbm_useful_bytes"] - record["hbm_useful_bytes"] == saved


def test_what_does_not_fit_the_scratchpad_is_left_out(study: ModuleType) -> None:
    assert study.measure(study.Case("h100-sxm", 128, study.PLAIN, 16, 0, sequences=1, context=64)) is None


@pytest.mark.parametrize("record_us", [5.0, 20.0])
def test_the_answer_turns_round_with_the_table(study: ModuleType, record_us: float) -> None:
    def row(cache: str, page: int, schedule: int) -> dict[str, Any]:
        time_us = 10.0 if "plain" in cache else record_us
        read = {"hbm_read_bytes": 100, "page_size": page, "schedule": schedule}
        return {"machine": "m", "heads": 16, "cache": cache, "time_us": time_us + page / 100 + schedule} | read

    measured = [row(cache, page, schedule) for cache in study.CACHES for page in (1, 2) for schedule in (0, 1)]
    rows = study.fastest([*measured, None])
    assert {row["schedule"] for row in rows} == {0}
    words = study.sentences(rows)
    assert ("less time" in words[0]) == (record_us < 10)
    assert ("the fastest, 10.01 us, 1152 B, plain." in words[0]) == (record_us > 10)
    assert "from 1 tokens (fastest) to 2 (slowest)" in words[-1]
