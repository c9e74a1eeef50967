"""Results as text of fixed width: the table after `explore`, the numbers of `run`.

Pure functions from values to text, with a unit on every number.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from explorer.query import Scalar
from explorer.search.certificate import relative_gap
from explorer.study.objective import at_least_joules, joules, microseconds

if TYPE_CHECKING:
    from explorer.summary import Account, Summary

Cells = Sequence[str]
WIDTH = 110  # columns of a line of facts; assumed: what a terminal shows

_ENERGY_GROUPS = {
    "hbm activate": "HBM",
    "hbm array": "HBM",
    "hbm io": "HBM",
    "hbm refresh": "HBM",
    "noc": "NoC",
    "sram": "SRAM",
    "matrix": "MAC",
}
_PARTS = ("f", "p", "n", "u", "m", "")
_PART_UNITS = ("fs", "fJ", "fJ/B", "uW")  # base units with a prefix of their own
_UNITS = {
    "*_us": " us",
    "phases.*": " us",
    "bounds_us.*": " us",
    "stalls_us.*": " us",
    "*_bytes": " B",
    "*_pj": " pJ",
    "energy_by_component_pj.*": " pJ",
}


def align(rows: Sequence[Cells], left: int = 1) -> str:
    """Return `rows` in columns: the first `left` and the last flush left, the others flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    last = len(widths) - 1

    def cell(row: Cells, column: int) -> str:
        text, width = row[column], widths[column]
        return text.ljust(width) if column < left or column == last else text.rjust(width)

    return "\n".join("   ".join(cell(row, column) for column in range(last + 1)).rstrip() for row in rows)


def percent(fraction: float) -> str:
    """Return a fraction as per cent with one decimal."""
    return f"{100 * fraction:.1f} %"


def points(fraction: float) -> str:
    """Return a difference of two shares as percentage points with a sign and one decimal."""
    return f"{round(100 * fraction, 1) + 0.0:+.1f} points"  # no minus before a zero


def at_most(fraction: float | None) -> str:
    """Return a fraction as per cent, rounded up so that `within` stays true; "any" for None, which bounds nothing."""
    if fraction is None:
        return "any"
    return percent(math.ceil(1000 * fraction) / 1000)


def row_hit_fraction(metrics: Mapping[str, Any]) -> float:
    """Return the share of bursts moved that found their row open; 0 without. Merged ones are not moved."""
    bursts = sum(int(metrics[name]) for name in ("row_hits", "row_misses", "row_conflicts"))
    return int(metrics["row_hits"]) / bursts if bursts else 0.0


def settings_text(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the settings of a row in words: text as it is, numbers with the name of their knob."""
    parts = ((name, row[name]) for name in names if name in row)
    return ", ".join(
        str(value) if isinstance(value, str) and "." not in name else f"{name} {value}" for name, value in parts
    )


def baseline_name(summary: Summary) -> str:
    """Return the name of the baseline's line."""
    label = summary.identity.study.baseline_label
    return f"baseline ({label})" if label else "baseline"


def result_table(summary: Summary) -> str:
    """Return baseline and best side by side.

    Time, energy where it is known, bandwidth, row hits, the lower bound of the objective and how far from it.
    """
    names, objective = tuple(summary.identity.study.knobs), summary.objective
    has_energy = "energy_pj" in summary.baseline and "energy_pj" in summary.best
    rows: list[Cells] = [("", "time", *(["energy"] * has_energy), "HBM", "row hits", "bound", "within", "")]
    for name, row in ((baseline_name(summary), summary.baseline), ("best found", summary.best)):
        rows.append(
            (
                name,
                microseconds(row["time_us"]),
                *([joules(row["energy_pj"])] if has_energy else []),
                percent(row["hbm_bandwidth_fraction"]),
                percent(row_hit_fraction(row)),
                objective.shown(row[objective.bound]),
                at_most(relative_gap(row[objective.metric], row[objective.bound])),
                settings_text(row, names),
            )
        )
    return align(rows)


def verdict(summary: Summary) -> str:
    """Return in one sentence what is proven (rounded so that it stays true) and how much was evaluated."""
    certificate, objective = summary.certificate, summary.objective
    counts = account_text(summary.account)
    if certificate.proven:
        return f"no point of this space can be {objective.better} than the best found   ({counts})"
    return (
        f"no point of this space can be {objective.better} than {objective.at_least(certificate.bound)}: "
        f"the best found is within {at_most(certificate.gap)} of the best possible   ({counts})"
    )


def account_text(account: Account) -> str:
    """Return what became of the combinations of a study; the parts add up to them."""
    parts = {
        "simulated": account.simulated,
        "ruled out by bounds": account.ruled_out,
        "left": account.left,
        "the same as another": account.same,
        "against a constraint": account.constrained,
        "cannot run": account.cannot_run,
    }
    told = ", ".join(f"{count:,} {what}" for what, count in parts.items() if count)
    return f"{account.combinations:,} combinations, the baseline among them: {told}"


def number(name: str, value: Any) -> str:
    """Return a metric with the unit its name says; shares as per cent."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    if is_share(name):
        return percent(value)
    unit = next((unit for pattern, unit in _UNITS.items() if fnmatch(name, pattern)), "")
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if value < 1000 else f"{value:,.1f}"
    return text + unit


def is_share(name: str) -> bool:
    """Return whether a metric is a share of a whole, which stands as per cent."""
    return name.endswith("_fraction") or name.startswith("utilisation.")


def energy_line(metrics: Mapping[str, Any]) -> str:
    """Return the energy of one simulation with the shares of its components, largest first; empty without energies."""
    if metrics.get("energy_by_component_pj") is None:
        return ""
    groups: dict[str, float] = {}
    for component, energy_pj in metrics["energy_by_component_pj"].items():
        group = _ENERGY_GROUPS.get(component, component)
        groups[group] = groups.get(group, 0) + energy_pj
    total_pj = sum(groups.values())
    ordered = sorted(groups.items(), key=lambda entry: -entry[1])
    shares = [f"{name} {100 * part / total_pj:.0f} %" for name, part in ordered if 200 * part >= total_pj > 0]
    text = f"energy {joules(metrics['energy_pj'])}" + (f" ({', '.join(shares)})" if shares else "")
    return f"{text}, at least {at_least_joules(metrics['energy_bound_pj'])}"


def knobs_line(knobs: Mapping[str, Scalar]) -> str:
    """Return the knobs in one line, each as `--set` takes it."""
    return "knobs: " + ", ".join(f"{name}={value}" for name, value in knobs.items())


def signed(difference: Scalar | None) -> str:
    """Return a relative difference as per cent with a sign; nothing where there is none."""
    if not isinstance(difference, float):
        return ""
    return f"{round(100 * difference, 1) + 0.0:+.1f} %"  # no minus before a zero


def listing(entries: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return one line per entry with the given facts."""
    rows: list[Cells] = [("", *columns, "")]
    rows += [(name, *(_fact(facts.get(column)) for column in columns), "") for name, facts in entries.items()]
    return align(rows)


def _fact(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple | Mapping):
        return ", ".join(str(part) for part in value) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def tree(
    facts: Mapping[str, Any],
    units: Mapping[str, str] | None = None,
    sources: Mapping[str, str] | None = None,
    path: str = "",
) -> str:
    """Return nested facts, one per line, indented.

    `units`: the base unit of a number by its dotted path. `sources`: what stands beside a fact or a group, by path.
    """
    lines = []
    indent = "  " * path.count(".")
    for name, value in facts.items():
        here = path + name
        nested = isinstance(value, Mapping) and bool(value)
        text = "" if nested else f" {quantity(value, units[here]) if units and here in units else _fact(value)}"
        source = f"   [{sources[here]}]" if sources and here in sources else ""
        line = f"{indent}{name}:{text}{source}"
        lines += textwrap.wrap(line, WIDTH, subsequent_indent=indent + "    ", break_long_words=False)
        if nested:
            lines.append(tree(value, units, sources, f"{here}."))
    return "\n".join(lines)


def kernel_list(families: Mapping[str, Mapping[str, str]]) -> str:
    """Return what every kernel does, a heading per family."""
    width = max(len(name) for kernels in families.values() for name in kernels)
    parts = (
        [family, *(f"  {name.ljust(width)}   {description}" for name, description in kernels.items())]
        for family, kernels in families.items()
    )
    return "\n\n".join("\n".join(part) for part in parts)


def kernel_text(facts: Mapping[str, Any]) -> str:
    """Return the facts of a kernel: the default of every size and knob, with its meaning and its values beside it."""
    knobs: Mapping[str, Mapping[str, Any]] = facts["knobs"]
    beside = {f"knobs.{name}": f"{knob['meaning']}; allowed: {knob['allowed']}" for name, knob in knobs.items()}
    beside |= {f"sizes.{name}": meaning for name, meaning in facts["meanings"].items()}
    sizes = dict.fromkeys(facts["sizes"], "no default") | {n: str(size) for n, size in facts["optional_sizes"].items()}
    head = {name: facts[name] for name in ("description", "family", "needs")}
    defaults = {name: str(knob["default"]) for name, knob in knobs.items()}
    return tree({**head, "sizes": sizes, "knobs": defaults}, None, beside)


def sourced_text(facts: Mapping[str, Any], units: Mapping[str, str]) -> str:
    """Return the facts of a machine or a controller with their units, sources beside them; uncertain numbers below."""
    lines = [tree({name: v for name, v in facts.items() if name not in ("sources", "ranges")}, units, facts["sources"])]
    for path, entry in facts.get("ranges", {}).items():
        line = f"uncertain: {path}: {entry['low']} to {entry['high']}   [{entry['source']}]"
        lines += textwrap.wrap(line, WIDTH, subsequent_indent="    ", break_long_words=False)
    return "\n".join(lines)


def quantity(value: int | None, unit: str) -> str:
    """Return a number of base units with the prefix a reader expects: 40 ns, 0.8 pJ/B, 227 KiB; nothing is rounded."""
    if value is None:
        return "none"
    if unit == "B" and value % 1024 == 0:
        power = next(power for power in (4, 3, 2, 1, 0) if value % 1024**power == 0)
        return f"{value // 1024**power} {('', 'Ki', 'Mi', 'Gi', 'Ti')[power]}B"
    symbol = unit[1:] if unit in _PART_UNITS else unit
    prefixes = _PARTS[_PARTS.index(unit[0]) :] if unit in _PART_UNITS else ("", "k", "M", "G", "T")
    step = min((len(str(value)) - 1) // 3, len(prefixes) - 1)
    scaled = Decimal(value).scaleb(-3 * step).normalize()
    return f"{scaled:f} {prefixes[step]}{symbol}"
