"""All views, page by page, in the order in which they stand there. S14, the provenance, is the footer of every page."""

from __future__ import annotations

from explorer.views import (
    capacity,
    convergence,
    energy,
    gap,
    history,
    in_flight,
    knobs,
    layout_picture,
    memory_chart,
    memory_use,
    parallel,
    pareto,
    refused,
    residency,
    roofline,
    speed,
    studies,
    time_tree,
    units,
    versus,
    workloads,
)
from explorer.views.view import View

ANSWER = (history.VIEW, convergence.VIEW, pareto.VIEW, pareto.TRAFFIC, pareto.DESIGNS, energy.VIEW)
SETTINGS = (
    knobs.IMPORTANCE,
    knobs.RESPONSE,
    knobs.PAIR,
    parallel.VIEW,
    workloads.SLOWDOWN,
    workloads.RANKS,
    capacity.VIEW,
)
MACHINE = (versus.VIEW, versus.NUMBERS, roofline.VIEW, memory_use.BANDWIDTH, memory_use.BALANCE, *memory_use.BANKS)
TRUST = (gap.VIEW, refused.VIEW)
STUDY = {"answer": ANSWER, "settings": SETTINGS, "machine": MACHINE, "trust": TRUST}
RUN: tuple[View, ...] = (
    speed.VIEW,
    memory_chart.VIEW,
    time_tree.VIEW,
    units.VIEW,
    in_flight.IN_FLIGHT,
    in_flight.LATENCY,
    residency.VIEW,
    energy.RUN,
    memory_use.RUN_BALANCE,
    memory_use.RUN_BANKS,
    layout_picture.VIEW,
)
RUNS = (versus.RUNS, versus.RUN_NUMBERS)
STUDIES = (studies.FOUND, convergence.COMPARED, studies.FRONTS, studies.BEST_RUNS, studies.SHARED)
