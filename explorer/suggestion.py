"""What is said of a kernel's default knobs where those that it suggests may be clearly faster.

Nothing is simulated. What the defaults take is compared with the lower bound of the suggested program, which may itself
take longer: that a run gains by them is sure only where it is tried.
"""

from __future__ import annotations

from explorer.evaluate import bound_us
from explorer.programs import kernel_of, key, suggested, taken_instead
from explorer.query import Query
from explorer.text.tables import number

CLEARLY = 1.25  # assumed: what takes up to so many times as long is not worth a line


def suggestion(query: Query, time_us: float | None = None) -> str:
    """Return in a line which knobs `--suggest` takes instead of the defaults of a query, with bounds that tell.

    `time_us`: what a run takes with the defaults; None: at least its bound. Empty where knobs are set, where the kernel
    suggests none or the same, and where no run with the suggested ones would be clearly faster.
    """
    if query.knobs or kernel_of(query.kernel).candidates is None:
        return ""
    try:
        other = suggested(query)
        if key(other) == key(query):
            return ""
        least, other_least = bound_us(query), bound_us(other)
    except ValueError:  # one of the two cannot run
        return ""
    if max(time_us or 0.0, least) < CLEARLY * other_least:
        return ""
    bounds = [f" (lower bound {number('bound_us', value)})" for value in (least, other_least)]
    here, there = bounds if least >= CLEARLY * other_least else ("", "")
    return f"default knobs{here}; --suggest takes {taken_instead(query, other)}{there}"
