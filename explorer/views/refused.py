"""S13: what of a space cannot run or breaks a constraint, and why: is the question well posed?"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from explorer.text.tables import percent
from explorer.views.look import OTHER, count, short, titled
from explorer.views.study_data import StudyData
from explorer.views.view import NotShown, View

if TYPE_CHECKING:
    import pandas as pd

MOST_REASONS = 12
_NUMBER = re.compile(r"\d[\d,.]*")


def _table(study: StudyData) -> pd.DataFrame:
    """Return columns reason (numbers as N), points, example, most points first; `of` is the points of the space."""
    import pandas as pd

    reasons = [str(reason) for reason in [*study.space["reason"], *study.rows["reason"]] if reason]
    if not reasons:
        raise NotShown(f"all {len(study.space):,} points of the space can run")
    examples: dict[str, str] = {}
    for reason in reasons:
        examples.setdefault(_NUMBER.sub("N", reason), reason)
    counted = Counter(_NUMBER.sub("N", reason) for reason in reasons).most_common()
    records = [{"reason": name, "points": points, "example": examples[name]} for name, points in counted]
    return pd.DataFrame(records).assign(of=len(study.space))


def figure(table: pd.DataFrame) -> go.Figure:
    shown = table.head(MOST_REASONS)
    drawing = go.Figure()
    drawing.add_bar(
        x=list(shown["points"]), y=list(shown["reason"]), orientation="h", name="points", marker={"color": OTHER},
        hovertext=list(shown["example"]),
    )  # fmt: skip
    titled(drawing, "points that cannot run or break a constraint", "").update_layout(
        height=140 + 30 * len(shown), margin={"l": 330}
    )
    texts = [short(reason, 50) for reason in shown["reason"]]
    return drawing.update_yaxes(type="category", autorange="reversed", tickvals=list(range(len(texts))), ticktext=texts)


def text(table: pd.DataFrame) -> str:
    total, first = int(table["points"].sum()), table.iloc[0]
    more = f", {len(table) - MOST_REASONS} of them not drawn" if len(table) > MOST_REASONS else ""
    of = f"{int(first['of']):,} ({percent(total / int(first['of']))})"
    return (
        f"{count(total, 'point')} of {of} cannot run or break a constraint, for {count(len(table), 'reason')}{more}. "
        f"Most often: {first['example']}"
    )


VIEW = View("S13", "refused", "What cannot run or breaks a constraint", _table, text, figure)
