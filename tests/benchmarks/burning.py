"""A simulator that takes 50 ms of a core for every point, and says from when to when it had one, or none.

    python burning.py FOLDER SAMPLER

prints the milliseconds of a core that a point costs a search whose simulations cost nothing.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from explorer.evaluate import Evaluator, Outcome
from explorer.explore import explore
from explorer.progress import silent
from explorer.query import Query, Scalar
from explorer.storage.memo import Memo
from explorer.study.study import Study

CPU_S = 0.05
KNOBS: dict[str, Scalar] = {"a": 0, "b": 0, "c": 0}


def defaults(kernel: str) -> dict[str, Scalar]:
    return dict(KNOBS)


def key(query: Query) -> str:
    return str(sorted(query.settings().items()))


def bound_us(query: Query) -> float:
    return 1.0


def bound_pj(query: Query) -> float:
    return 0.0


def _outcome(query: Query, **more: float) -> Outcome:
    places = [int(value) for value in query.settings().values()]
    arrays = {"time_us": np.arange(100.0), "bytes_per_second": np.arange(100.0)}
    banks = {"activates": np.ones((16, 64), np.int64), "conflicts": np.ones((16, 64), np.int64)}
    return Outcome({"time_us": 2.0 + sum(places) % 7, "bound_us": 1.0, **more}, arrays, banks)


def burn(query: Query) -> Outcome:
    begin_s, end_cpu_s = time.perf_counter(), time.process_time() + CPU_S
    while time.process_time() < end_cpu_s:
        pass
    return _outcome(query, begin_s=begin_s, end_s=time.perf_counter())


def inputs(query: Query) -> dict[str, str]:
    return {}


def describe(query: Query) -> str:
    return "burning"


BURNING = Evaluator(defaults, key, bound_us, burn, inputs, describe, bound_pj)
IDLE = Evaluator(defaults, key, bound_us, _outcome, inputs, describe, bound_pj)


def study(points: int, sampler: str) -> Study:
    knobs = {name: list(range(10)) for name in "abc"}
    content = {"name": "speed", "machine": "none", "kernel": "none", "knobs": knobs, "sampler": sampler}
    return Study.model_validate(content | {"budget": {"points": points, "batch": 8}})


def spent(folder: Path, sampler: str, points: int) -> float:
    begin_s = time.process_time()
    summary = explore(
        study(points, sampler), folder / str(points), 1, IDLE, silent, memo=Memo(folder / f"memo {points}")
    )
    assert summary.points == points
    return time.process_time() - begin_s


if __name__ == "__main__":
    few_s, many_s = (spent(Path(sys.argv[1]), sys.argv[2], points) for points in (50, 450))
    print(1000 * (many_s - few_s) / 400)
