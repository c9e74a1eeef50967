"""Is there one layout of the KV cache and one schedule for all lengths that a trace serves?

    python studies/one_layout.py --page studies/one_layout.md

Batches of decode attention are drawn from the Azure and the Mooncake trace. Every candidate, a layout with a page size
and a way to split sequences, is simulated on every batch; its regret there is how much longer it takes than the
candidate that is best for that batch. One candidate is chosen for all by its worst regret, by its CVaR (the mean of the
worst quarter), or by its mean, on the first half of each trace's batches, and judged on the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil
from statistics import fmean

from explorer.asked import trace_path
from explorer.programs import batch_of, machine_of
from explorer.query import AZURE, MOONCAKE, BatchSpec
from explorer.study_page import Answer, Picture, Row, Table, command, in_parallel, least, number, where
from hwmodel.engine import simulate
from workloads.kernels import decode_attention
from workloads.model import load_model

MACHINE, MODEL, DEVICES = "h100-sxm", "llama-3.1-70b", 8
TRACES = {AZURE: 16, MOONCAKE: 4}  # sequences of a batch
DRAWS = 4  # batches of each trace; the even ones choose, the odd ones judge
WORST = 0.25  # assumed: the part of the batches whose mean CVaR is
LAYOUTS = {"K and V in a page": "page kv token head dim", "K and V apart": "kv page token head dim"}
NAMES = [f"{layout}, pages of {page}, split {split}" for layout, page, split in
         product(LAYOUTS, (16, 128), (0, 512, 2048))]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A candidate on a batch."""

    candidate: str
    batch: BatchSpec


def knobs_of(candidate: str) -> decode_attention.Knobs:
    """Return the knobs of a candidate by its name."""
    layout, page, split = candidate.split(", ")
    size, tokens = int(page.removeprefix("pages of ")), int(split.removeprefix("split "))
    return decode_attention.Knobs(LAYOUTS[layout], size, split_tokens=tokens, schedule="balanced")


def measure(case: Case) -> Row:
    """Return the time of a candidate on a batch."""
    machine, batch = machine_of(MACHINE), batch_of(case.batch)
    problem = decode_attention.shape(load_model(MODEL), batch, {})
    share = replace(problem, heads_q=problem.heads_q // DEVICES, heads_kv=problem.heads_kv // DEVICES)
    result = simulate(decode_attention.compile(share, knobs_of(case.candidate), machine, 0), machine)
    return {
        "trace": str(case.batch.trace),
        "draw": case.batch.seed,
        "longest": max(batch.contexts),
        "tokens": sum(batch.contexts),
        "candidate": case.candidate,
        "time_us": result.time_us,
        "bound_us": result.bound.total_fs / 1e9,
    }


def with_regrets(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return the rows with their regret: time over that of the best candidate of the same batch, less one."""
    found = []
    for row in rows:
        best = least(where(rows, trace=row["trace"], draw=row["draw"]), "time_us")
        found.append({**row, "regret": number(row, "time_us") / number(best, "time_us") - 1})
    return tuple(found)


def cvar(regrets: Sequence[float]) -> float:
    """Return the mean of the worst part of some regrets, of one at least."""
    return fmean(sorted(regrets)[-ceil(WORST * len(regrets)) :])


RULES: dict[str, Callable[[Sequence[float]], float]] = {"worst case": max, "CVaR": cvar, "mean": fmean}


def judged(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return per candidate its regrets over the batches that choose (even draws), and those that judge (odd ones)."""
    found = []
    for name in dict.fromkeys(str(row["candidate"]) for row in rows):
        entry: dict[str, str | float] = {"candidate": name}
        for part, rest in (("choosing", 0), ("judging", 1)):
            mine = where(rows, candidate=name)
            regrets = [number(row, "regret") for row in mine if number(row, "draw") % 2 == rest]
            entry |= {f"{part}: {rule}": measured(regrets) for rule, measured in RULES.items()}
        found.append(entry)
    return tuple(found)


def sentences(rows: Sequence[Row], found: Sequence[Row]) -> tuple[str, ...]:
    """Return the answer in words: `rows` with regrets, `found` as judged."""
    words = []
    for rule in RULES:
        best = least(found, f"choosing: {rule}")
        after = {name: 100 * number(best, f"judging: {name}") for name in RULES}
        words.append(
            f"Chosen by its {rule}: {best['candidate']}. On batches that it was not chosen by, it takes "
            f"{after['mean']:.1f} % longer than the best of each batch in the mean, {after['CVaR']:.1f} % in the worst "
            f"quarter (CVaR), {after['worst case']:.1f} % in the worst case."
        )
    for trace in dict.fromkeys(str(row["trace"]) for row in rows):
        mine = where(rows, trace=trace)
        winners = [least(where(mine, draw=draw), "time_us")["candidate"] for draw in sorted({r["draw"] for r in mine})]
        often = max(dict.fromkeys(winners), key=winners.count)
        words.append(
            f"{trace}: {len(set(winners))} of the candidates are the best of at least one of {len(winners)} batches; "
            f"most often {often}, of {winners.count(often)}."
        )
    return tuple(words)


def study(jobs: int) -> Answer:
    """Return the answer of the whole study."""
    batches = [
        BatchSpec(sequences, trace=trace, seed=draw, trace_path=trace_path(trace))
        for trace, sequences in TRACES.items()
        for draw in range(DRAWS)
    ]
    cases = [Case(name, batch) for batch in batches for name in NAMES]
    rows = with_regrets(in_parallel(measure, cases, jobs))
    found = judged(rows)
    return Answer(
        "one_layout",
        "Is there one layout of the KV cache for all lengths that a trace serves?",
        (
            f"{len(rows)} simulations: {len(NAMES)} candidates on {len(batches)} batches; one layer's decode attention "
            f"of {MODEL} on one of {DEVICES} devices, {MACHINE}.",
            *(f"{trace}: batches of {sequences} sequences." for trace, sequences in TRACES.items()),
            *(f"{name}: {layout}." for name, layout in LAYOUTS.items()),
            "split: the longest piece of a sequence that one core takes, in tokens; 0: whole sequences.",
        ),
        sentences(rows, found),
        (
            Table("Regret by candidate", found),
            Table("Every batch", rows, (Picture("longest", "regret", "candidate", logarithmic=True),)),
        ),
        (
            "Batches are lengths of a steady state drawn from a trace, few sequences each; their order in time, and "
            "what changing the layout between batches would cost, are not in this answer.",
            "Layers of one model on one machine; prefill and the writing of the cache were not simulated.",
            "Decode times are held against measurements in studies/accuracy.md; how layouts differ is not.",
        ),
    )


if __name__ == "__main__":
    command(study, __doc__)
