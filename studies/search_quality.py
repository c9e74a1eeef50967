"""How good are the samplers? Regret and hypervolume beside the truth, on four spaces, with many seeds.

    python studies/search_quality.py [--jobs N] [--seeds N] [--out FILE]

Every point of each space is simulated once (the truth); then every sampler that is installed searches each space with
every seed, its simulations answered from the truth, so that they cost nothing. Bounds are used as in any search: what
cannot be better is pruned and is no simulation. Per space and sampler:

- found: the simulations until the optimum of the time was found, in parts of the points of the space; 100 % where a
  search of a quarter of the points has not found it;
- regret: by how much the best found after 5 % and 10 % of the points is above the optimum;
- hypervolume: of the front of time and energy of a search of 10 % of the points, in parts of that of the true front,
  seen from the worst of all points.

Numbers are medians over the seeds; beside them stand the interval that has the median with 95 % confidence, from the
ranks of the seeds, and the range from the 5 % to the 95 % quantile of the seeds. They hold for these spaces, whose
bounds are those of the simulator, and four points under way. The table is written to studies/search_quality.md.
"""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom

from explorer.evaluate import EVALUATOR, Evaluator, Outcome
from explorer.progress import silent
from explorer.query import Query
from explorer.search.driver import Search
from explorer.search.frontier import Values
from explorer.search.pareto import front, hypervolume
from explorer.search.samplers import SAMPLERS, check
from explorer.space.bounding import bound_space, name_points, probe
from explorer.space.space import Space, span
from explorer.storage.row import Row, Status
from explorer.study.objective import OBJECTIVES
from explorer.study.study import Study
from explorer.workers import Refused, attempt, workers

PAGE = Path(__file__).with_name("search_quality.md")
SKIPPED = ("auto", "gp")  # auto is one of the others; gp takes a second per point
CONFIDENCE = 0.95
UNDER_WAY = 4
SEEDS = 100
LLAMA = {"machine": "npu-hbm3", "model": "llama-3.1-8b"}
SPACES: Mapping[str, Mapping[str, Any]] = {
    "decode attention": LLAMA
    | {
        "kernel": "decode-attention",
        "batch": {"sequences": 3, "context": 700},
        "knobs": {
            "layout": ["page kv token head dim", "page kv head token dim", "kv page token head dim"],
            "page_size": {"from": 16, "to": 64, "times": 2},
            "tile": {"from": 32, "to": 128, "times": 2},
            "stages": [2, 3],
            "split_tokens": [0, 128, 256],
            "schedule": ["static", "balanced"],
        },
        "fixed": {"page_order": "shuffled"},
    },
    "gemm": {
        "machine": "npu-hbm3",
        "kernel": "gemm",
        "options": {"m": 128, "n": 512, "k": 512},
        "knobs": {
            "layout_a": ["m k", "k m"],
            "layout_b": ["n k", "k n"],
            "tile_m": [32, 64, 128],
            "tile_n": [32, 64, 128],
            "tile_k": [64, 128, 256],
            "stages": [2, 3],
        },
    },
    "prefill attention": LLAMA
    | {
        "kernel": "prefill-attention",
        "batch": {"sequences": 1, "context": 256},
        "knobs": {
            "tile_q": [16, 32, 64],
            "tile_kv": [32, 64, 128],
            "stages": [1, 2, 3],
            "packing": ["group", "head"],
            "epilogue": ["overlapped", "serial"],
            "layout_k": ["token head dim", "head token dim"],
        },
    },
    "machine": {
        "machine": "npu-hbm3",
        "kernel": "gemm",
        "options": {"m": 64, "n": 512, "k": 512},
        "knobs": {
            "machine.hbm.stacks": [1, 2, 4, 8],
            "machine.cores.sram.capacity": {"from": 256, "to": 1024, "times": 2, "unit": "KiB"},
            "tile_n": [32, 64, 128],
            "tile_k": [64, 128, 256],
            "stages": [2, 4],
        },
    },
}


@dataclass(frozen=True, repr=False)
class Truth:
    """A space with every outcome: `values` time and energy by query, None where it cannot run."""

    study: Study
    space: Space
    values: Mapping[Query, tuple[float, float] | None]

    @property
    def table(self) -> np.ndarray:
        """Time and energy of all points that can run."""
        return np.array([values for values in self.values.values() if values])


def measure(name: str, executor: Executor) -> Truth:
    """Simulate every point of a space."""
    content = {"name": name.replace(" ", "-"), "objectives": ["time_us", "energy_pj"], "budget": {"batch": UNDER_WAY}}
    study = Study.model_validate(content | dict(SPACES[name]))
    space = span(study, EVALUATOR)
    name_points(space, EVALUATOR, {}, columns=False)
    probe(space, EVALUATOR)
    bound_space(space, EVALUATOR, {}, executor, silent, columns=False)
    queries = [space.queries(int(index))[0] for index in np.flatnonzero(space.alive)]
    answers = [executor.submit(_values, query) for query in queries]
    return Truth(study, space, {query: answer.result() for query, answer in zip(queries, answers, strict=True)})


def _values(query: Query) -> tuple[float, float] | None:
    answer = attempt(EVALUATOR.simulate, query)
    if isinstance(answer, Refused):
        return None
    return float(answer.metrics["time_us"]), float(answer.metrics["energy_pj"])  # type: ignore[arg-type]


class _NoLog:
    def recall(self, key: str) -> Row | None:
        return None

    def append(self, row: Row, outcome: Outcome | None, best: bool) -> None:
        pass


def search(truth: Truth, sampler: str, objectives: Sequence[str], seed: int, points: int) -> list[Values]:
    """Return what was simulated, in order, in a search of so many points, or until the best is proven."""
    budget = truth.study.budget.model_copy(update={"points": points})
    update = {"sampler": sampler, "objectives": tuple(objectives), "seed": seed, "budget": budget}
    study = truth.study.model_copy(update=update)
    whole = truth.space
    columns = [whole.measured.index(OBJECTIVES[name]) for name in dict.fromkeys(["time_us", *objectives])]
    space = replace(
        whole,
        objectives=tuple(OBJECTIVES[name] for name in objectives),
        first=whole.first.copy(),
        bounds=whole.bounds[:, columns].copy(),
        keys=dict(whole.keys),
    )

    def simulate(query: Query) -> Outcome:
        values = truth.values[query]
        if values is None:
            raise ValueError("cannot run")
        return Outcome({"time_us": values[0], "energy_pj": values[1]}, {}, {})

    evaluator: Evaluator = replace(EVALUATOR, simulate=simulate)
    with workers(1) as executor:
        rows = Search(study, space, evaluator, _NoLog(), silent).run(executor)
    done = [row for row in rows if row.status is Status.SIMULATED]
    return [tuple(float(row.metrics[name]) for name in objectives) for row in done]


def judge(truth: Truth, sampler: str, seed: int) -> dict[str, float]:
    """Return the numbers of one sampler and one seed; see the top of the file."""
    table = truth.table
    times = [values[0] for values in search(truth, sampler, ["time_us"], seed, len(table) // 4)]
    best = float(table[:, 0].min())
    found = {"found": (times.index(best) + 1) / len(table) if best in times else 1.0}
    for percent in (5, 10):
        few = times[: max(1, len(table) * percent // 100)]
        found[f"regret {percent} %"] = min(few) / best - 1
    if sampler != "cmaes":
        seen = np.array(search(truth, sampler, ["time_us", "energy_pj"], seed, len(table) // 10))
        worst = table.max(axis=0)
        found["hypervolume"] = hypervolume(seen, worst) / hypervolume(table[front(table)], worst)
    return found


def samplers() -> list[str]:
    """Return the samplers that are compared: those whose library is installed, but for the skipped ones."""
    found = []
    for name in SAMPLERS:
        try:
            check(name, objectives=1)
        except ValueError:
            continue
        found.append(name)
    return [name for name in found if name not in SKIPPED]


def median_interval(numbers: Sequence[float]) -> tuple[float, float]:
    """Return two of the numbers between which the median of what they are drawn from lies, with CONFIDENCE at least.

    As many draws of a fair coin as there are numbers say how many of them are below the median. Of few numbers (5 or
    less) all of them are not enough.
    """
    ordered, count = sorted(numbers), len(numbers)
    rank = max(1, int(binom.ppf((1 - CONFIDENCE) / 2, count, 0.5)))
    return ordered[rank - 1], ordered[count - rank]


def _cell(numbers: Sequence[float]) -> str:
    if not numbers:
        return "none"
    low, middle, high = (100 * float(np.quantile(numbers, part)) for part in (0.05, 0.5, 0.95))
    first, last = (100 * number for number in median_interval(numbers))
    return f"{middle:.1f} [{first:.1f}, {last:.1f}] ({low:.1f} to {high:.1f})"


def report(truths: Mapping[str, Truth], judged: Mapping[tuple[str, str], Sequence[Mapping[str, float]]]) -> str:
    """Return the table."""
    columns = ("found", "regret 5 %", "regret 10 %", "hypervolume")
    lines = ["# How good the samplers are", "", *_preface(judged), ""]
    for name, truth in truths.items():
        best = truth.table.min(axis=0)
        lines += [f"## {name}: {len(truth.table)} points, least time {best[0]:.3f} us", ""]
        lines += ["| sampler | " + " | ".join(f"{column} [%]" for column in columns) + " |", "|---" * 5 + "|"]
        for (space, sampler), runs in judged.items():
            if space == name:
                cells = [_cell([run[column] for run in runs if column in run]) for column in columns]
                lines.append(f"| {sampler} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _preface(judged: Mapping[tuple[str, str], Sequence[Mapping[str, float]]]) -> list[str]:
    seeds, found = len(next(iter(judged.values()))), dict[str, list[float]]()
    for (_, sampler), runs in judged.items():
        found.setdefault(sampler, []).extend(run["found"] for run in runs)
    shares = ", ".join(f"{sampler} {100 * float(np.median(numbers)):.1f} %" for sampler, numbers in found.items())
    text = (
        f"Medians over {seeds} seeds, in square brackets the interval that has the median with "
        f"{100 * CONFIDENCE:.0f} % confidence, in round ones the range from the 5 % to the 95 % quantile of the seeds; "
        "all in per cent: of the points of the space, of the optimum, or of the true hypervolume. Written by "
        "`python studies/search_quality.py`, which says what each means. Over all spaces, in the median the optimum is "
        f"found after this part of the simulations: {shares}. Not here: {_left_out()}."
    )
    return textwrap.wrap(text, width=120, break_on_hyphens=False)


def _left_out() -> str:
    """Return the samplers that are not compared, and why."""
    missing = [name for name in SAMPLERS if name not in (*samplers(), *SKIPPED)]
    reasons = ["`auto`, which is one of the others", "`gp`, which takes a second per point"]
    return ", ".join([*reasons, *(f"`{name}`, whose extra is not installed" for name in missing)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="worker processes")
    parser.add_argument(
        "--seeds", type=int, default=SEEDS, help=f"searches of each sampler and space (default {SEEDS})"
    )
    parser.add_argument("--out", type=Path, default=PAGE, help="the page that is written")
    arguments = parser.parse_args()
    with workers(arguments.jobs) as executor:
        truths = {name: measure(name, executor) for name in SPACES}
        asked = {
            (name, sampler): [executor.submit(judge, truth, sampler, seed) for seed in range(arguments.seeds)]
            for name, truth in truths.items()
            for sampler in samplers()
        }
        judged = {which: [answer.result() for answer in answers] for which, answers in asked.items()}
    text = report(truths, judged)
    arguments.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
