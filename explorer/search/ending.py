"""The answer of a search in words, beside the table of `tables`: who searched, why it ended, and the front.

Pure functions from a summary to text, for the terminal.
"""

from __future__ import annotations

from explorer.search.certificate import Certificate
from explorer.study.objective import Objective
from explorer.summary import Summary
from explorer.text.tables import align, at_most, percent, settings_text

_ENDS = {
    "proven": "nothing unseen can be better",
    "target": "the target is reached",
    "budget": "the budget is used up",
    "": "it was interrupted",
}


def how_it_ended(summary: Summary) -> str:
    """Return in one line which sampler searched, why that one where it was a choice, and why it stopped."""
    name, why = summary.sampler
    chosen = f"{name} (auto: {why})" if why else name
    return f"sampler {chosen}; stopped: {_ENDS[summary.stopped]}"


def front_table(summary: Summary) -> str:
    """Return what is proven of every objective, and the points that no other beats in all of them."""
    lines = [_proven(*pair) for pair in zip(summary.objectives, summary.certificates, strict=True)]
    count = len(summary.front)
    lines.append(
        f"{count} point{'' if count == 1 else 's'} that no other beats; of the points not simulated "
        f"{percent(int(1000 * summary.covered) / 1000)} can add none"
    )
    names = tuple(summary.identity.study.knobs)
    rows = [(*(objective.noun for objective in summary.objectives), "")]
    for row in sorted(summary.front, key=lambda row: float(row[summary.objective.metric])):
        values = (objective.shown(float(row[objective.metric])) for objective in summary.objectives)
        rows.append((*values, settings_text(row, names)))
    return "\n".join([*lines, align(rows, left=0)])


def _proven(objective: Objective, proof: Certificate) -> str:
    if proof.proven:
        return f"{objective.noun}: none can be below the best found, {objective.shown(proof.best)}"
    return (
        f"{objective.noun}: none can be below {objective.at_least(proof.bound)}; "
        f"the best found, {objective.shown(proof.best)}, is within {at_most(proof.gap)}"
    )
