"""What `rowhit run` and `explain` show: the numbers of one simulation under headings, without the zeros.

Every number is that of `--json`, but for stalls, which are the average of one unit, so that its causes add up to the
time. What no heading is known for stands at the end, so that nothing is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from explorer.text.tables import align, number, percent

if TYPE_CHECKING:
    from explorer.explain import Explanation

_LINES = {
    "time": ("time_us", "bound_us", "limited_by", "cycles"),
    "main memory": (
        "hbm_read_bytes",
        "hbm_useful_bytes",
        "hbm_write_bytes",
        "hbm_bandwidth_fraction",
        "row_hits",
        "row_misses",
        "row_conflicts",
        "activates",
        "refreshes",
    ),
}
_TABLES = {"sram": "scratchpads by unit", "dma": "DMA by tensor", "levels": "levels of memory"}
_ENERGY = ("energy_pj", "energy_bound_pj", "energy_by_component_pj")
_DIGESTS = ("program_hash", "machine_hash")
FEMTOSECOND_US = 1e-9
_OWN = ("utilisation", "stalls", "phases")  # sections with a form of their own


def run_text(metrics: Mapping[str, Any]) -> str:
    """Return the metrics of one simulation as text, a heading per part of the machine."""
    sections = [_lines(heading, {name: metrics.get(name) for name in names}) for heading, names in _LINES.items()]
    sections.insert(1, _energy(metrics))
    sections += [_table(heading, metrics.get(name, {})) for name, heading in _TABLES.items()]
    sections += [
        _lines(
            "utilisation", {name: percent(share) for name, share in metrics.get("utilisation", {}).items() if share}
        ),
        _table("stalls, us of one unit", _per_unit(metrics.get("stalls", {}), metrics["time_us"])),
        _lines("phases", {name: number("_us", time_us) for name, time_us in metrics.get("phases", {}).items()}),
    ]
    known = {*_TABLES, *_ENERGY, *_OWN, *_DIGESTS, *(name for names in _LINES.values() for name in names)}
    sections.append(_lines("other", {name: value for name, value in metrics.items() if name not in known}))
    sections.append(_lines("digests", {name: metrics.get(name) for name in _DIGESTS}))
    return "\n\n".join(section for section in sections if section)


def explanation_text(explanation: Explanation) -> str:
    """Return why a run took its time: its bound, its stalls, and what reruns without one obstacle each gain."""
    metrics = explanation.result.metrics()
    rows = [
        (f"  {gain.name}", number("_us", gain.time_us), f"{gain.time_us / explanation.time_us - 1:+.1%}", gain.title)
        for gain in explanation.gains
    ]
    sections = [
        _lines("time", {name: metrics[name] for name in ("time_us", "bound_us", "limited_by")}),
        _table("stalls, us of one unit", _per_unit(metrics["stalls"], metrics["time_us"])),
        "the same program without\n" + align(rows),
    ]
    return "\n\n".join(section for section in sections if section)


def _lines(heading: str, facts: Mapping[str, Any]) -> str:
    rows = [(f"  {name}", number(name, value), "") for name, value in facts.items() if value]
    return f"{heading}\n{align(rows)}" if rows else ""


def _energy(metrics: Mapping[str, Any]) -> str:
    """Return the energies with the share of each component, or nothing where the machine gives none."""
    total_pj = metrics.get("energy_pj")
    if not total_pj:
        return ""
    bound_pj, parts = metrics["energy_bound_pj"], metrics["energy_by_component_pj"]
    rows = [("  total", number("", total_pj), ""), ("  bound", number("", bound_pj), percent(bound_pj / total_pj))]
    rows += [(f"  {name}", number("", pj), percent(pj / total_pj)) for name, pj in parts.items() if pj]
    return "energy, pJ\n" + align([(*row, "") for row in rows])


def _table(heading: str, table: Mapping[str, Mapping[str, float]]) -> str:
    """Return a line per entry and a column per number, without the lines and columns that are all 0."""
    names = dict.fromkeys(name for numbers in table.values() for name in numbers)
    columns = [name for name in names if any(numbers.get(name) for numbers in table.values())]
    if not columns:
        return ""
    rows = [
        (f"  {entry}", *(number("", numbers[name]) if numbers.get(name) else "-" for name in columns), "")
        for entry, numbers in table.items()
        if any(numbers.values())
    ]
    return f"{heading}\n{align([('', *columns, ''), *rows])}"


def _per_unit(stalls: Mapping[str, Mapping[str, int]], time_us: float) -> dict[str, dict[str, float]]:
    """Return femtoseconds summed over units as the microseconds of one, which add up to the time, useful first.

    What is less than a femtosecond of one unit is 0.
    """
    causes = sorted({cause for spent in stalls.values() for cause in spent}, key=lambda cause: (_rank(cause), cause))
    shares = {
        unit: {cause: spent.get(cause, 0) * time_us / (sum(spent.values()) or 1) for cause in causes}
        for unit, spent in stalls.items()
    }
    return {
        unit: {cause: us if us >= FEMTOSECOND_US else 0.0 for cause, us in spent.items()}
        for unit, spent in shares.items()
    }


def _rank(cause: str) -> int:
    return {"useful": 0, "no work": 2}.get(cause, 1)
