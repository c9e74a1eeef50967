"""Where should experts live when some are hotter: dealt round, in blocks, balanced by load, or as a search finds?

    python studies/expert_placement.py --page studies/expert_placement.md

The product of gate and up of a layer of experts, on a machine whose SRAM is the cores' own (experts lie beside the core
that multiplies them) and on one with HBM (experts lie in its stacks). Tokens choose experts by a popularity that is
uniform or Zipf's. Loads are counted on one part of the tokens; every placement is judged on other tokens, drawn from
the same popularity: what it would gain by knowing the tokens that it is judged on is shown beside it. The search swaps
experts between two of the fullest and emptiest places, simulates the product on tokens of the first part, and keeps
what is faster. All places hold equally many experts; a placement is a permutation of the experts' names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from explorer.programs import machine_of
from explorer.study_page import (
    Answer,
    Picture,
    Row,
    Table,
    command,
    compared,
    in_parallel,
    least,
    listed,
    number,
    ties,
    where,
)
from hwmodel.engine import simulate
from hwmodel.result import Result
from workloads.kernels import moe_gemm
from workloads.routing import Routing, draw, popularity

EXPERTS, TOPK, HIDDEN, CHANNELS = 128, 8, 2048, 768  # config.json of Qwen3-30B-A3B
DEVICES = 8  # that share the channels of every expert
TOKENS, MEASURED, JUDGED = 128, 16, 2  # tokens of a step, steps on which loads are counted, steps that are judged
SKEWS = {"uniform": ("uniform", 0.0), "Zipf 0.3": ("zipf", 0.3), "Zipf 0.6": ("zipf", 0.6)}
SWAPS = 8  # that the search tries
SEED = 0
TILES: dict[str, Any] = {"tile_m": 16, "tile_n": 64, "tile_k": 256}

NOWHERE, BLOCKS, ROUND, BALANCED = "interleaved", "in blocks", "dealt round", "balanced by load"
SEARCHED, FORESEEN = "searched", "balanced by the judged tokens"
PLACEMENTS = (NOWHERE, BLOCKS, ROUND, BALANCED, SEARCHED, FORESEEN)
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Home:
    """A machine, in how many places its memory keeps experts, and the knobs that keep them there."""

    machine: str
    places: int
    placement: str
    schedule: str


HOMES = {
    "beside cores": Home("npu-sram-local", 64, "cores", "pinned"),
    "in stacks": Home("npu-hbm3", 4, "stacks", "dynamic"),
}


@dataclass(frozen=True)
class Case:
    """One placement of experts under one popularity."""

    home: str
    skew: str
    placement: str
    tokens: int = TOKENS
    measured: int = MEASURED
    judged: int = JUDGED
    swaps: int = SWAPS


def steps_of(skew: str, tokens: int, steps: int, seed: int) -> list[Routing]:
    """Return the choices of so many steps; all steps of a skew have one popularity, whatever the seed."""
    name, exponent = SKEWS[skew]
    popular = popularity(name, EXPERTS, exponent, np.random.default_rng(SEED))
    rng = np.random.default_rng((SEED, seed))
    return [draw(tokens, TOPK, popular, rng) for _ in range(steps)]


def counted(steps: Sequence[Routing]) -> Array:
    """Return the tokens of every expert in all of the steps."""
    return np.sum([step.counts for step in steps], axis=0)


def in_blocks(places: int) -> Array:
    """Return the place of every expert: as many neighbours in each."""
    return np.arange(EXPERTS) // (EXPERTS // places)


def balanced(load: Array, places: int) -> Array:
    """Return the place of every expert: the next heaviest goes to the place with the least load that has room."""
    found, sums, room = np.empty(EXPERTS, np.int64), np.zeros(places), np.full(places, EXPERTS // places)
    for expert in np.argsort(-load, kind="stable").tolist():
        place = int(np.argmin(np.where(room > 0, sums, np.inf)))
        found[expert], sums[place], room[place] = place, sums[place] + load[expert], room[place] - 1
    return found


def renamed(step: Routing, place: Array, places: int) -> Routing:
    """Return the choices with experts named so that number e is in place e modulo the places."""
    order = np.argsort(place, kind="stable")
    rank = np.empty(EXPERTS, np.int64)
    rank[order] = np.arange(EXPERTS) - np.searchsorted(place[order], place[order])
    return Routing(EXPERTS, (rank * places + place)[step.ids], step.weights)


def run(home: Home, step: Routing, place: Array | None) -> Result:
    """Return the product of one step with experts in these places; None: weights lie over all of memory."""
    machine = machine_of(home.machine)
    sizes = {"tokens": step.tokens, "experts": EXPERTS, "topk": TOPK, "n": 2 * CHANNELS // DEVICES, "k": HIDDEN}
    kept = moe_gemm.shape(None, None, sizes | {"format": "fp8"})
    if place is None:
        return simulate(moe_gemm.compile(replace(kept, routing=step), moe_gemm.Knobs(**TILES), machine, 0), machine)
    problem = replace(kept, routing=renamed(step, place, home.places))
    knobs = moe_gemm.Knobs(**TILES, placement=home.placement, schedule=home.schedule)
    return simulate(moe_gemm.compile(problem, knobs, machine, 0), machine)


def searched(home: Home, steps: Sequence[Routing], swaps: int) -> Array:
    """Return the places that a local search finds on the first of the steps, from those balanced by all of them."""
    load, step = counted(steps), steps[0]
    place, rng = balanced(load, home.places), np.random.default_rng(SEED)
    best = run(home, step, place).makespan_fs
    for _ in range(swaps):
        sums = np.bincount(place, weights=step.counts, minlength=home.places)
        full = int(rng.choice(np.argsort(-sums, kind="stable")[:4]))
        other = int(rng.choice(np.argsort(sums, kind="stable")[: max(2, home.places // 4)]))
        if full == other:
            continue
        here, there = (rng.choice(np.flatnonzero(place == number)) for number in (full, other))
        tried = place.copy()
        tried[[here, there]] = place[[there, here]]
        if (time_fs := run(home, step, tried).makespan_fs) < best:
            place, best = tried, time_fs
    return place


def placed(case: Case, judged: Sequence[Routing]) -> Array | None:
    """Return the places of a case; only FORESEEN looks at the tokens that are judged."""
    home = HOMES[case.home]
    steps = steps_of(case.skew, case.tokens, case.measured, seed=1)
    if case.placement == SEARCHED:
        return searched(home, steps, case.swaps)
    return {
        NOWHERE: None,
        BLOCKS: in_blocks(home.places),
        ROUND: np.arange(EXPERTS) % home.places,
        BALANCED: balanced(counted(steps), home.places),
        FORESEEN: balanced(counted(judged), home.places),
    }[case.placement]


def measure(case: Case) -> Row:
    """Return the mean time of the judged steps, and the mean of their fullest places over the even share."""
    home, judged = HOMES[case.home], steps_of(case.skew, case.tokens, case.judged, seed=2)
    place = placed(case, judged)
    results = [run(home, step, place) for step in judged]
    where_from = in_blocks(home.places) if place is None else place
    loads = [np.bincount(where_from, weights=step.counts, minlength=home.places) for step in judged]
    crossed = [result.levels["network"].asked - result.levels["network"].hit for result in results]
    return {
        "home": case.home,
        "popularity": case.skew,
        "placement": case.placement,
        "time_us": float(np.mean([result.time_us for result in results])),
        "slowest_us": max(result.time_us for result in results),
        "bound_us": float(np.mean([result.bound.total_fs / 1e9 for result in results])),
        "fullest_place": None if place is None else float(np.mean([load.max() / load.mean() for load in loads])),
        "crossed_bytes": int(np.mean(crossed)),
    }


def sentences(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the answer in words."""
    found = []
    for home, skew in dict.fromkeys((str(row["home"]), str(row["popularity"])) for row in rows):
        mine = {str(row["placement"]): row for row in where(rows, home=home, popularity=skew)}
        fair = [row for name, row in mine.items() if name != FORESEEN]
        best = least(fair, "time_us")
        best_us = number(best, "time_us")
        against = (
            f"{name} {compared(number(row, 'time_us'), best_us)}" for name, row in mine.items() if row is not best
        )
        found.append(
            f"Experts {home}, popularity {skew}: the fastest that does not know the judged tokens is "
            f"{listed([row['placement'] for row in ties(fair, 'time_us')])}, {best_us:.2f} us; against it, "
            f"{listed(list(against))}."
        )
    return tuple(found)


def study(jobs: int) -> Answer:
    """Return the answer of the whole study."""
    cases = [Case(home, skew, placement) for home in HOMES for skew in SKEWS for placement in PLACEMENTS]
    rows = tuple(in_parallel(measure, cases, jobs))
    tables = [
        Table(f"Experts {home}", tuple(where(rows, home=home)), (Picture("placement", "time_us", "popularity"),))
        for home in HOMES
    ]
    return Answer(
        "expert_placement",
        "Where should experts live when some are hotter than others?",
        (
            f"{len(cases)} placements: gate and up of {EXPERTS} experts, {TOPK} per token, {HIDDEN} elements, "
            f"{CHANNELS} channels over {DEVICES} devices, in fp8 (sizes of Qwen3-30B-A3B).",
            f"Loads are counted on {MEASURED} steps of {TOKENS} tokens; times are means over {JUDGED} other steps. The "
            f"search tries {SWAPS} swaps, on one of the first steps.",
            *(
                f"Experts {name}: {home.places} places of {home.machine}, schedule {home.schedule}."
                for name, home in HOMES.items()
            ),
            f"{NOWHERE}: weights lie over all of memory, tiles are dealt round.",
        ),
        sentences(rows),
        tuple(tables),
        (
            "Choices are drawn, token by token independently; recorded ones differ in how hot experts change from step "
            "to step, and no recording is at hand here.",
            "Copies of hot experts (knob copies), the exchange of tokens between devices, and the other product of the "
            "layer were not simulated.",
            "Both machines are sketches; nothing here was held against a measured part.",
        ),
    )


if __name__ == "__main__":
    command(study, __doc__)
