"""A simulator of one formula: the time of a point is known in closed form, and so is the best point.

Its functions are module-level, so that a process pool carries them. Each simulation adds a line to the file
that FAKE_LOG names and takes FAKE_SECONDS, so that a test can count simulations across processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from functools import partial

import numpy as np

from explorer.evaluate import Evaluator, Metric, Outcome
from explorer.query import Query, Scalar
from explorer.questions.answer import Answer, answer_of
from explorer.questions.fidelity import Measured
from explorer.questions.validated import Validation
from explorer.questions.variants import Asker
from explorer.space.bounding import bound_of
from explorer.study.settings import Settable

KNOBS: dict[str, Scalar] = {"layout": "page head", "tile": 32, "stages": 2}
LAYOUTS = {"page head": 7, "head page": 3, "head  page": 3, "page  head": 7}
SRAM_BYTES = 4 * 128 * 3


def defaults(kernel: str) -> dict[str, Scalar]:
    if kernel != "fake":
        raise ValueError(f"unknown kernel {kernel!r}: allowed: fake")
    return dict(KNOBS)


def settable(kernel: str) -> Settable:
    return Settable(defaults(kernel), {})


def _settings(query: Query) -> tuple[str, int, int]:
    knobs = KNOBS | dict(query.knobs)
    layout, tile, stages = str(knobs["layout"]), int(knobs["tile"]), int(knobs["stages"])
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r}: unknown axis; allowed: page, head")
    return layout, tile, stages


def stacks(query: Query) -> int:
    overrides = dict(query.machine_overrides)
    if set(overrides) - {"hbm.stacks"}:
        raise ValueError(f"unknown machine path {next(iter(overrides))!r}; known: hbm.stacks")
    return int(overrides.get("hbm.stacks", "4"))


def key(query: Query) -> str:
    layout, tile, stages = _settings(query)
    return f"{' '.join(layout.split())}/{tile}/{stages}/{stacks(query)}"


def bound_us(query: Query) -> float:
    layout, tile, stages = _settings(query)
    needed = 4 * tile * stages
    if needed > SRAM_BYTES:
        raise ValueError(f"tile {tile}: needs {needed} B of SRAM, there are {SRAM_BYTES} B")
    return (400.0 + 10 * LAYOUTS[layout] + 20 * abs(stages - 3)) * 4 / stacks(query)


def bound_pj(query: Query) -> float:
    """The energy grows with the tile and the time falls, so the cheapest point is another than the fastest."""
    if query.machine == "nowhere":
        raise ValueError("machine nowhere: energy: missing; the objective energy_pj needs it")
    return 1e6 * (10 + _settings(query)[1])


def time_us(query: Query) -> float:
    _, tile, _ = _settings(query)
    return bound_us(query) + 5 + (128 - tile) * 0.2


def simulate(query: Query) -> Outcome:
    taken = time_us(query)
    if "FAKE_LOG" in os.environ:
        with open(os.environ["FAKE_LOG"], "a", encoding="utf-8") as log:
            log.write(key(query) + "\n")
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
    layout, tile, _ = _settings(query)
    metrics: dict[str, Metric] = {
        "time_us": taken,
        "cycles": round(taken * 1755),
        "bound_us": bound_us(query),
        "hbm_read_bytes": 10**9 + 1000 * tile,
        "hbm_useful_bytes": 10**9,
        "hbm_bandwidth_fraction": bound_us(query) / taken,
        "row_hits": 1000 - 50 * LAYOUTS[layout],
        "row_misses": 10 * LAYOUTS[layout],
        "row_conflicts": 40 * LAYOUTS[layout],
        "limited_by": "hbm",
        "stalls": {"load": {"useful": 5, "memory": 7}},
    }
    metrics |= _energies(query)
    bins = np.arange(10.0)
    banks = np.full((4, 16), LAYOUTS[layout])
    return Outcome(
        metrics,
        {"time_us": bins, "bytes_per_second": bins * 1e11},
        {"bursts": banks * np.arange(1, 5)[:, None], "activates": banks, "conflicts": banks * 2},
    )


def _energies(query: Query) -> dict[str, Metric]:
    if query.machine == "nowhere":
        return {"energy_pj": None, "energy_bound_pj": None, "energy_by_component_pj": None}
    layout, _, stages = _settings(query)
    bound = bound_pj(query)
    parts = {"hbm activate": 1000 * LAYOUTS[layout] * stages, "sram": bound}
    return {"energy_pj": sum(parts.values()), "energy_bound_pj": bound, "energy_by_component_pj": parts}


def inputs(query: Query) -> dict[str, str]:
    return {"machine": f"{stacks(query)} stacks"}


def describe(query: Query, swept: Collection[str] = ()) -> str:
    return f"{query.kernel} · {query.machine}"


EVALUATOR = Evaluator(defaults, key, bound_us, simulate, inputs, describe, bound_pj)


def measure(query: Query, fidelity: str) -> Measured:
    return Measured(dict(simulate(query).metrics) | {"program_hash": key(query), "machine_hash": "fake"}, "whole")


def answer(query: Query, measured: Measured) -> Answer:
    validation = Validation(False, f"not validated: no measurement of {query.machine}")
    return answer_of(query, describe(query), query.settings(), measured, "fake", validation)


ASKER = Asker(settable, bound_us, measure, answer, describe, partial(bound_of, EVALUATOR))
