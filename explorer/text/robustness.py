"""The robustness of a winner as text: sentences, a tornado of uncertain numbers, and batches that were held out."""

from __future__ import annotations

from typing import Any

from explorer.questions.robustness import Robustness, Swing
from explorer.study.objective import microseconds
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
    for table in found.flips:
        lines += table.sentences
    lines += _about_ranges(found)
    if found.held_out:
        regrets = sorted(held.regret for held in found.held_out)
        best = sum(regret == 0 for regret in regrets)
        lines.append(
            f"on {len(regrets)} held-out batches the winner is the best of {len(found.contenders)} in {best}; "
            f"at worst it takes {percent(regrets[-1])} longer than the best there"
        )
    return lines


def _order(found: Robustness) -> str:
    times = [cell.cost_us for cell in found.nominal.cells]
    winner, runner_up = found.contenders[0].label, found.contenders[1].label
    if times[0] is not None and times[1] is not None and times[0] <= times[1]:
        ahead = percent(times[1] / times[0] - 1)
        return f"asked again, the winner ({winner}) is {ahead} ahead of the runner-up ({runner_up})"
    return f"asked again, the winner ({winner}) is behind the runner-up ({runner_up}): the order of the results is lost"


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
        f"another design is the best at an end of {', '.join(lost)}" if lost else "the winner is the best at all ends"
    )
    return [
        f"over the ranges of {len(found.swings)} uncertain numbers {keeps}; the time moves most with {widest.path}: "
        f"{percent(widest.width)} from {widest.low} to {widest.high}",
        *(swing.crossing.sentence for swing in found.swings if swing.crossing is not None and swing.crossing.flips),
        *left,
    ]


def _contenders(found: Robustness) -> str:
    rows = [["", "results", "asked again", "gap", "design"]]
    for each, cell in zip(found.contenders, found.nominal.cells, strict=True):
        name = each.name
        gap = None if cell.answer is None else cell.answer.gap
        again = "" if cell.cost_us is None else microseconds(cell.cost_us)
        rows.append([name, microseconds(each.time_us), again, "" if gap is None else percent(gap), each.label])
    return align(rows)


def _tornado(found: Robustness) -> str:
    rows = [["uncertain number", "low", "high", "time at low", "at high", "moves", "best at low", "at high", ""]]
    widest = max(swing.width for swing in found.swings) or 1.0
    for swing in found.swings:
        bests = [found.contenders[swing.best(high)].name for high in (False, True)]
        times = [microseconds(swing.at_low[0]), microseconds(swing.at_high[0]), percent(swing.width)]
        rows.append([swing.path, swing.low, swing.high, *times, *bests, "#" * round(BAR * swing.width / widest)])
    return align(rows)


def _held_out(found: Robustness) -> str:
    rows = [["held-out batch", "winner", "best of the designs", "regret", ""]]
    for held in found.held_out:
        times = microseconds(held.times_us[0]), microseconds(min(held.times_us))
        rows.append([held.batch, *times, percent(held.regret), ""])
    return align(rows)


def record(found: Robustness) -> dict[str, Any]:
    """Return everything as JSON-able values."""
    return {
        "title": found.title,
        "sentences": sentences(found),
        "designs": [
            {"point": each.point, "settings": dict(each.changes), "results_us": each.time_us, "time_us": cell.cost_us}
            for each, cell in zip(found.contenders, found.nominal.cells, strict=True)
        ],
        "flips": [table.record() for table in found.flips],
        "tornado": [swing_record(found, swing) for swing in found.swings],
        "held_out": [
            {"batch": held.batch, "time_us": list(held.times_us), "regret": held.regret} for held in found.held_out
        ],
    }


def swing_record(found: Robustness, swing: Swing) -> dict[str, Any]:
    """Return one row of the tornado."""
    return {
        "path": swing.path,
        "low": swing.low,
        "high": swing.high,
        "time_us_at_low": swing.at_low[0],
        "time_us_at_high": swing.at_high[0],
        "width": swing.width,
        "best_at_low": found.contenders[swing.best(False)].label,
        "best_at_high": found.contenders[swing.best(True)].label,
        "source": swing.source,
    }
