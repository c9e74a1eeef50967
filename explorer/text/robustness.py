"""The robustness of a winner as text: sentences, a tornado of uncertain numbers, and batches that were held out."""

from __future__ import annotations

from typing import Any

from explorer.questions.robustness import Robustness, Swing
from explorer.questions.sameness import listed
from explorer.text.tables import align, percent
from explorer.text.whatif import notes

BAR = 24  # characters of the widest bar


def text(found: Robustness) -> str:
    """Return everything as lines of text."""
    parts = [found.title, _contenders(found), "\n".join(sentences(found))]
    parts += [_tornado(found)] if found.swings else []
    parts += [_held_out(found)] if found.held_out else []
    return "\n\n".join(
        [*parts, "\n".join(line for line in notes(found.nominal) if line not in found.nominal.sentences)]
    )


def sentences(found: Robustness) -> list[str]:
    """Return the findings in words."""
    lines = [_order(found)]
    if found.is_of_another_version:
        lines.append("the results are of another version of the simulator than the one that was asked again")
    for table in found.flips:
        lines += table.sentences
    lines += _about_ranges(found)
    return [*lines, *_about_batches(found)]


def _order(found: Robustness) -> str:
    costs = [cell.cost for cell in found.nominal.cells]
    if len(set(costs)) == 1 and costs[0] is not None:
        ranked = f"; their order is that of {found.ranked_by} in the results" if found.ranked_by else ""
        return f"asked again, all {len(costs)} designs tie at {found.objective.shown(costs[0])}{ranked}"
    if costs[0] == costs[1] and costs[0] is not None:
        return f"asked again, the first two of {len(costs)} designs tie at {found.objective.shown(costs[0])}"
    winner, runner_up = found.contenders[0].label, found.contenders[1].label
    first, second = found.contenders[0].name, found.contenders[1].name
    if costs[0] is not None and costs[1] is not None and costs[0] < costs[1]:
        ahead = percent(costs[1] / costs[0] - 1 if costs[0] else 0.0)
        return f"asked again, {first} ({winner}) is {ahead} ahead of {second} ({runner_up})"
    return f"asked again, {first} ({winner}) is behind {second} ({runner_up}): the order of the results is lost"


def _about_ranges(found: Robustness) -> list[str]:
    left = (
        [f"not asked over their ranges, as a design sets them or cannot run there: {', '.join(found.unasked)}"]
        if found.unasked
        else []
    )
    if not found.swings:
        return left or ["the machine file gives no ranges of uncertain numbers"]
    lost = [swing.path for swing in found.swings if swing.best(False) or swing.best(True)]
    widest = found.swings[0]
    keeps = (
        f"another design is the best at an end of {', '.join(lost)}"
        if lost
        else f"no design is better than {found.contenders[0].name} at an end"
    )
    moves = (
        f"the {found.objective.noun} moves most with {widest.path}: {percent(widest.width)} from its nominal value "
        f"within {widest.low} to {widest.high}"
        if widest.width
        else f"none moves the {found.objective.noun}"
    )
    return [
        f"over the ranges of {len(found.swings)} uncertain numbers {keeps}; {moves}",
        *(swing.crossing.sentence for swing in found.swings if swing.crossing is not None and swing.crossing.flips),
        *left,
    ]


def _about_batches(found: Robustness) -> list[str]:
    lines = [f"no batch was held out: {found.undrawn}"] if found.undrawn else []
    if found.held_out:
        regrets = sorted(held.regret for held in found.held_out)
        best = sum(regret == 0 for regret in regrets)
        lines.append(
            f"on {len(regrets)} held-out batches {found.contenders[0].name} is the best of {len(found.contenders)} "
            f"in {best}; at worst its {found.objective.noun} is {percent(regrets[-1])} above that of the best there"
        )
    if found.unheld:
        told = [f"{each.batch} ({each.reason})" for each in found.unheld]
        lines.append(f"{len(told)} held-out batches not asked, as a design cannot run there: {listed(told)}")
    return lines


def _contenders(found: Robustness) -> str:
    rows = [["", "results", "asked again", "gap", "design"]]
    shown = found.objective.shown
    for each, cell in zip(found.contenders, found.nominal.cells, strict=True):
        again = "" if cell.cost is None else shown(cell.cost)
        rows.append([each.name, shown(each.cost), again, "" if cell.gap is None else percent(cell.gap), each.label])
    return align(rows)


def _tornado(found: Robustness) -> str:
    noun, shown = found.objective.noun, found.objective.shown
    rows = [["uncertain number", "low", "high", f"{noun} at low", "at high", "moves", "best at low", "at high", ""]]
    widest = max(swing.width for swing in found.swings) or 1.0
    for swing in found.swings:
        bests = [_best(found, swing, high) for high in (False, True)]
        costs = [shown(swing.at_low[0]), shown(swing.at_high[0]), percent(swing.width)]
        rows.append([swing.path, swing.low, swing.high, *costs, *bests, "#" * round(BAR * swing.width / widest)])
    return align(rows)


def _best(found: Robustness, swing: Swing, high: bool) -> str:
    """Return the name of the best design at an end."""
    is_tie = len(set(swing.at_high if high else swing.at_low)) == 1
    return "all tie" if is_tie else found.contenders[swing.best(high)].name


def _held_out(found: Robustness) -> str:
    rows = [["held-out batch", found.contenders[0].name, "best of the designs", "regret", ""]]
    for held in found.held_out:
        costs = found.objective.shown(held.costs[0]), found.objective.shown(min(held.costs))
        rows.append([held.batch, *costs, percent(held.regret), ""])
    return align(rows)


def record(found: Robustness) -> dict[str, Any]:
    """Return everything as JSON-able values."""
    metric = found.objective.metric
    return {
        "title": found.title,
        "objective": metric,
        "sentences": sentences(found),
        "designs": [
            {"point": each.point, "settings": dict(each.changes), f"results_{metric}": each.cost, metric: cell.cost}
            for each, cell in zip(found.contenders, found.nominal.cells, strict=True)
        ],
        "flips": [table.record() for table in found.flips],
        "tornado": [swing_record(found, swing) for swing in found.swings],
        "held_out": [{"batch": held.batch, metric: list(held.costs), "regret": held.regret} for held in found.held_out],
        "not_held_out": [{"batch": each.batch, "reason": each.reason} for each in found.unheld],
        "no_batch_held_out": found.undrawn or None,
    }


def swing_record(found: Robustness, swing: Swing) -> dict[str, Any]:
    """Return one row of the tornado."""
    return {
        "path": swing.path,
        "low": swing.low,
        "high": swing.high,
        f"{found.objective.metric}_at_low": swing.at_low[0],
        f"{found.objective.metric}_at_high": swing.at_high[0],
        "width": swing.width,
        "best_at_low": found.contenders[swing.best(False)].label,
        "best_at_high": found.contenders[swing.best(True)].label,
        "source": swing.source,
    }
